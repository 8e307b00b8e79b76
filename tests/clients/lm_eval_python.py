"""lm-eval's log-likelihoods over HTTP are those of the model: lm_eval_python.py http://127.0.0.1:PORT MOEWE

The harness asks for prompts with `echo` and `logprobs` and makes its tokens here; `moewe logits` computes the same
positions without a server.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

BASE, MOEWE = sys.argv[1:3]
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
home = tempfile.TemporaryDirectory()
os.environ["HF_HOME"] = home.name
os.chdir(Path(__file__).with_name("lm_eval"))

import lm_eval
import numpy
from lm_eval.tasks import TaskManager


def tokens(text):
    body = json.dumps({"prompt": text, "add_special_tokens": False}).encode()
    request = urllib.request.Request(f"{BASE}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def log_softmax(ids):
    """Rows for all positions, by the program alone."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "logits.safetensors")
        command = [MOEWE, "logits", "moewe-mini", "--tokens", ",".join(map(str, ids)), "-o", file]
        subprocess.run(command, check=True, capture_output=True)
        bytes_ = file.read_bytes()
    length = int.from_bytes(bytes_[:8], "little")
    header = json.loads(bytes_[8 : 8 + length])
    header.pop("__metadata__", None)
    (entry,) = [entry for entry in header.values() if entry["dtype"] == "F32"]
    begin, end = entry["data_offsets"]
    logits = numpy.frombuffer(bytes_[8 + length + begin : 8 + length + end], numpy.float32)
    logits = logits.reshape(entry["shape"]).astype(numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


arguments = {
    "model": "any", "base_url": f"{BASE}/v1/completions", "tokenizer_backend": "remote", "max_length": 500,
    "num_concurrent": 1, "max_retries": 1,
}
result = lm_eval.simple_evaluate(
    model="local-completions", model_args=arguments, tasks=["birds"], log_samples=True, bootstrap_iters=0,
    task_manager=TaskManager(include_path=str(Path.cwd()), include_defaults=False),
)
compared = 0
for sample in result["samples"]["birds"]:
    for request, response in zip(sample["arguments"], sample["filtered_resps"], strict=True):
        context, continuation = request[:2]
        said, is_greedy = float(response[0]), str(response[1]) == "True"
        begin, ids = len(tokens(context)), tokens(context + continuation)
        rows = log_softmax(ids)
        expected = sum(rows[at - 1][ids[at]] for at in range(begin, len(ids)))
        assert abs(said - expected) < 1e-4, (context, continuation, said, expected)
        assert is_greedy == all(rows[at - 1].argmax() == ids[at] for at in range(begin, len(ids)))
        compared += 1
assert compared == 9 and "acc,none" in result["results"]["birds"]
print(f"lm-eval {version('lm-eval')} for Python: {compared} log-likelihoods")
