"""What people use above the interfaces' own packages: more_python.py http://127.0.0.1:PORT

litellm speaks three interfaces to one server, langchain-openai one, llm is a command: all say what plain JSON says.
instructor makes objects of answers, by a schema and by a tool that has to be called.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

# It would ask the network for a list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import instructor
import litellm
import openai
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

BASE = sys.argv[1]
TEXT = "Wer fliegt über das Meer?"
QUESTION = [{"role": "user", "content": TEXT}]
GREEDY = {"temperature": 0, "max_tokens": 12}
litellm.telemetry = False
litellm.suppress_debug_info = True


def raw(path, body):
    request = urllib.request.Request(
        f"{BASE}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


PLAIN = raw("/v1/chat/completions", {"messages": QUESTION, **GREEDY})
SAID = PLAIN["choices"][0]["message"]["content"]


def providers():
    for name, base in [("openai/any", f"{BASE}/v1"), ("ollama_chat/any", BASE), ("anthropic/any", BASE)]:
        given = {"model": name, "api_base": base, "api_key": "none", "messages": QUESTION, **GREEDY}
        answer = litellm.completion(**given)
        choice = answer.choices[0]
        assert choice.message.content == SAID, (name, choice)
        assert choice.finish_reason == "length", (name, choice)
        assert answer.usage.prompt_tokens == PLAIN["usage"]["prompt_tokens"], (name, answer.usage)
        assert answer.usage.completion_tokens == 12, (name, answer.usage)
        parts = list(litellm.completion(stream=True, **given))
        assert "".join(part.choices[0].delta.content or "" for part in parts) == SAID, name
        assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "length", name
        try:
            litellm.completion(**{**given, "messages": [{"role": "user", "content": "Möwe " * 3000}]})
        except (litellm.BadRequestError, litellm.APIConnectionError) as error:
            assert "positions" in str(error), (name, error)
        else:
            raise AssertionError(name)


def chain():
    chat = ChatOpenAI(model="any", base_url=f"{BASE}/v1", api_key="none", temperature=0, max_tokens=12)
    answer = chat.invoke([("user", TEXT)])
    assert answer.content == SAID and answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["input_tokens"] == PLAIN["usage"]["prompt_tokens"]
    assert "".join(part.content for part in chat.stream(TEXT)) == SAID
    assert [one.content for one in chat.batch([TEXT, TEXT])] == [SAID, SAID]
    text = OpenAI(model="any", base_url=f"{BASE}/v1", api_key="none", temperature=0, max_tokens=12)
    plain = raw("/v1/completions", {"prompt": "Die Möwe", **GREEDY})
    assert text.invoke("Die Möwe") == plain["choices"][0]["text"]


def command():
    with tempfile.TemporaryDirectory() as folder:
        entry = f"- model_id: gull\n  model_name: any\n  api_base: {BASE}/v1\n"
        Path(folder, "extra-openai-models.yaml").write_text(entry)
        program = Path(sys.executable).with_name("llm")
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        options = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
        for more in ([], ["--no-stream"]):
            said = subprocess.run(
                [program, "prompt", "-m", "gull", "--no-log", *options, *more, TEXT],
                env=environment, capture_output=True, text=True, timeout=120, check=True,
            ).stdout
            assert said.rstrip("\n") == SAID.rstrip("\n"), (said, SAID)


class Sighting(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a model without sense would never stop adding
    bird: str = Field(max_length=8)
    count: int = Field(ge=0, le=9)
    is_near: bool


def objects():
    client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none")
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        wrapped = instructor.from_openai(client, mode=mode)
        seen = wrapped.chat.completions.create(
            model="any", messages=QUESTION, response_model=Sighting, max_retries=0, temperature=1, seed=3,
            max_tokens=300,
        )
        assert isinstance(seen, Sighting) and 0 <= seen.count <= 9, (mode, seen)


for one in (providers, chain, command, objects):
    one()
names = ["litellm", "langchain-openai", "llm", "instructor"]
print(", ".join(f"{name} {version(name)}" for name in names) + " for Python: 4 checks")
