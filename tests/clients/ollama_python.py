"""Ollama's Python package against a server: ollama_python.py http://127.0.0.1:PORT

Each check asks twice, once through the package and once as plain JSON, and compares texts, counts and endings.
"""

import json
import sys
import time
import urllib.request
from importlib.metadata import version

import ollama

BASE = sys.argv[1]
client = ollama.Client(host=BASE)
QUESTION = [{"role": "user", "content": "Wer fliegt über das Meer?"}]
GREEDY = {"num_predict": 12, "temperature": 0}


def raw(path, body):
    request = urllib.request.Request(f"{BASE}{path}", json.dumps({**body, "stream": False}).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def metric(name):
    with urllib.request.urlopen(f"{BASE}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split(" ")[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def check(answer, plain):
    for name in ("model", "done", "done_reason", "prompt_eval_count", "eval_count", "load_duration"):
        assert getattr(answer, name) == plain[name], (name, answer, plain)
    assert answer.total_duration >= answer.prompt_eval_duration + answer.eval_duration > 0


def chat():
    plain = raw("/api/chat", {"messages": QUESTION, "options": GREEDY})
    answer = client.chat(model="any", messages=QUESTION, options=GREEDY)
    assert answer.message.content == plain["message"]["content"] != "" and answer.message.role == "assistant"
    check(answer, plain)
    assert answer.done_reason == "length" and answer.eval_count == 12


def chat_stream():
    plain = raw("/api/chat", {"messages": QUESTION, "options": GREEDY})
    parts = list(client.chat(model="any", messages=QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == plain["message"]["content"]
    assert not any(part.done for part in parts[:-1])
    check(parts[-1], plain)


def generate():
    for fields in ({}, {"raw": True}, {"system": "Kurz."}):
        plain = raw("/api/generate", {"prompt": "Die Möwe", "options": GREEDY, **fields})
        answer = client.generate(model="any", prompt="Die Möwe", options=GREEDY, **fields)
        assert answer.response == plain["response"] and answer.context == plain["context"]
        check(answer, plain)
        parts = list(client.generate(model="any", prompt="Die Möwe", options=GREEDY, stream=True, **fields))
        assert "".join(part.response for part in parts) == plain["response"]
        check(parts[-1], plain)
        assert parts[-1].context == plain["context"]


def stops():
    whole = client.generate(model="any", prompt="Die Möwe", raw=True, options=GREEDY).response
    stop = whole[4:7]
    stopped = client.generate(model="any", prompt="Die Möwe", raw=True, options={**GREEDY, "stop": [stop]})
    assert stopped.response == whole[: whole.index(stop)] and stopped.done_reason == "stop"


def models():
    (model,) = client.list().models
    assert model.size > 0 and model.modified_at.year > 2000 and model.details.format == "gguf"
    (loaded,) = client.ps().models
    assert loaded.name == model.model and loaded.size_vram == 0 and loaded.context_length > 0
    shown = client.show(model.model)
    assert "completion" in shown.capabilities and shown.modelinfo["general.architecture"] == model.details.family
    assert client.chat(model=model.model, messages=QUESTION, options=GREEDY).message.content


def nothing():
    assert client.generate(model="any").done_reason == "load"
    assert client.generate(model="any", keep_alive=0).done_reason == "unload"


def errors():
    for status, ask in [
        (400, lambda: client.chat(model="any", messages=[{"role": "bird", "content": ""}])),
        (400, lambda: client.generate(model="any", prompt="A", options={"temperature": -1})),
        (400, lambda: client.generate(model="any", prompt="Möwe " * 3000)),
        (400, lambda: list(client.generate(model="any", prompt="Möwe " * 3000, stream=True))),
        (501, lambda: client.embed(model="any", input="a")),
        (501, lambda: client.copy("any", "other")),
        (403, lambda: client.pull("any")),
    ]:
        try:
            ask()
        except ollama.ResponseError as error:
            assert error.status_code == status and error.error, error
        else:
            raise AssertionError(status)


def cancel():
    endless = {"num_predict": 400, "ignore_eos": True}
    parts = client.generate(model="any", prompt="Die Möwe", options=endless, stream=True)
    next(parts)
    parts.close()
    for _ in range(500):
        if metric("moewe_requests_processing") == 0:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("it is still computed")


checks = [chat, chat_stream, generate, stops, models, nothing, errors, cancel]
for one in checks:
    one()
print(f"ollama {version('ollama')} for Python: {len(checks)} checks")
