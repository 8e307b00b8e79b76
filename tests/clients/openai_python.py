"""OpenAI's Python package against a server: openai_python.py http://127.0.0.1:PORT

Each check asks twice, once through the package and once as plain JSON, and compares texts, usage and endings.
"""

import json
import sys
import urllib.request
from typing import Literal

import openai
import pydantic
from prometheus_client.parser import text_string_to_metric_families

BASE = sys.argv[1]
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0)
QUESTION = [{"role": "system", "content": "Antworte kurz."}, {"role": "user", "content": "Wer fliegt über das Meer?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


def raw(path, body):
    request = urllib.request.Request(
        f"{BASE}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)



def check_usage(usage, plain):
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(usage, name) == plain["usage"][name], (usage, plain)
    assert usage.prompt_tokens_details.cached_tokens is not None


def chat():
    plain = raw("/v1/chat/completions", {"messages": QUESTION, **GREEDY})
    answer = client.chat.completions.create(model="any", messages=QUESTION, **GREEDY)
    choice = plain["choices"][0]
    assert answer.choices[0].message.content == choice["message"]["content"] != ""
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == choice["finish_reason"] == "length"
    assert answer.model == plain["model"] and answer.system_fingerprint == plain["system_fingerprint"]
    check_usage(answer.usage, plain)


def chat_stream():
    plain = raw("/v1/chat/completions", {"messages": QUESTION, **GREEDY})
    chunks = list(
        client.chat.completions.create(
            model="any", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    first = chunks[0].choices[0].delta
    assert first.role == "assistant" and first.content is None
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain["choices"][0]["message"]["content"]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "length" and not any(reasons[:-1])
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    check_usage(chunks[-1].usage, plain)


def chat_stream_helper():
    # The helper takes an answer that ends at its limit for an error.
    whole = raw("/v1/chat/completions", {"messages": QUESTION, **GREEDY})["choices"][0]["message"]["content"]
    until = {**GREEDY, "stop": whole[6:9]}
    plain = raw("/v1/chat/completions", {"messages": QUESTION, **until})
    with client.chat.completions.stream(model="any", messages=QUESTION, **until) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == plain["choices"][0]["message"]["content"]


def chat_choices():
    options = {"temperature": 1.1, "seed": 5, "max_tokens": 8, "n": 3}
    plain = raw("/v1/chat/completions", {"messages": QUESTION, **options})
    answer = client.chat.completions.create(model="any", messages=QUESTION, **options)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [choice["message"]["content"] for choice in plain["choices"]] and len(set(texts)) > 1
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    check_usage(answer.usage, plain)


def chat_logprobs():
    answer = client.chat.completions.create(
        model="any", messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY
    )
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == answer.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0
    assert answer.choices[0].logprobs.refusal is None


def chat_stop_and_prefill():
    whole = client.chat.completions.create(model="any", messages=QUESTION, **GREEDY).choices[0].message.content
    stop = whole[4:7]
    stopped = client.chat.completions.create(model="any", messages=QUESTION, stop=stop, **GREEDY)
    assert stopped.choices[0].message.content == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    begun = [*QUESTION, {"role": "assistant", "content": "Die Möwe"}]
    continued = client.chat.completions.create(model="any", messages=begun, **GREEDY)
    plain = raw("/v1/chat/completions", {"messages": begun, **GREEDY})
    assert continued.choices[0].message.content == plain["choices"][0]["message"]["content"]
    assert continued.usage.prompt_tokens > stopped.usage.prompt_tokens


def chat_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": "Wer "}, {"type": "text", "text": "fliegt?"}]}]
    joined = [{"role": "user", "content": "Wer fliegt?"}]
    answers = [client.chat.completions.create(model="any", messages=it, **GREEDY) for it in (parts, joined)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def completions():
    plain = raw("/v1/completions", {"prompt": "Die Möwe", **GREEDY})
    answer = client.completions.create(model="any", prompt="Die Möwe", **GREEDY)
    assert answer.choices[0].text == plain["choices"][0]["text"]
    assert answer.choices[0].finish_reason == plain["choices"][0]["finish_reason"]
    check_usage(answer.usage, plain)
    chunks = client.completions.create(model="any", prompt="Die Möwe", stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def completions_echo():
    answer = client.completions.create(
        model="any", prompt=["Die Möwe", "Der Wind"], echo=True, logprobs=2, max_tokens=1, temperature=0
    )
    for choice, prompt in zip(answer.choices, ["Die Möwe", "Der Wind"], strict=True):
        odds = choice.logprobs
        assert choice.text.startswith(prompt) and "".join(odds.tokens) == choice.text
        assert odds.token_logprobs[0] is None and odds.top_logprobs[0] is None
        for token, chosen, top in list(zip(odds.tokens, odds.token_logprobs, odds.top_logprobs, strict=True))[1:]:
            assert top[token] == chosen


RESPONSE = {"model": "any", "input": "Wer fliegt über das Meer?", "temperature": 0, "max_output_tokens": 12}


def check_response(response, plain):
    assert response.output_text == plain["output"][0]["content"][0]["text"] != ""
    assert response.status == plain["status"] == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert getattr(response.usage, name) == plain["usage"][name]


def responses():
    plain = raw("/v1/responses", RESPONSE)
    check_response(client.responses.create(**RESPONSE), plain)
    chat = raw("/v1/chat/completions", {"messages": [{"role": "user", "content": RESPONSE["input"]}], **GREEDY})
    assert plain["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    counted = client.responses.input_tokens.count(model="any", input=RESPONSE["input"])
    assert counted.input_tokens == plain["usage"]["input_tokens"]


def responses_stream():
    plain = raw("/v1/responses", RESPONSE)
    events = list(client.responses.create(stream=True, **RESPONSE))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
        plain["output"][0]["content"][0]["text"]
    )
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    check_response(events[-1].response, plain)
    # The helper knows no end but a complete one.
    text = plain["output"][0]["content"][0]["text"]
    with client.responses.stream(extra_body={"stop": [text[4:7]]}, **RESPONSE) as stream:
        final = stream.get_final_response()
    assert final.output_text == text[: text.index(text[4:7])] and final.status == "completed"


class Bird(pydantic.BaseModel):
    art: Literal["Möwe", "Storch"]
    jung: bool


def parse():
    """Answers as objects: the schema of a class goes in, one of its objects comes out."""
    asked = client.chat.completions.parse(model="any", messages=QUESTION, temperature=1, seed=1, response_format=Bird)
    assert isinstance(asked.choices[0].message.parsed, Bird) and asked.choices[0].finish_reason == "stop"
    responded = client.responses.parse(model="any", input=RESPONSE["input"], temperature=1, text_format=Bird)
    assert isinstance(responded.output_parsed, Bird) and responded.status == "completed"
    with client.responses.stream(model="any", input=RESPONSE["input"], temperature=1, text_format=Bird) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert Bird.model_validate_json("".join(deltas)) == final.output_parsed
    tool = openai.pydantic_function_tool(Bird, name="keep")
    called = client.chat.completions.parse(
        model="any", messages=QUESTION, temperature=1, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = called.choices[0].message.tool_calls
    assert call.function.name == "keep" and isinstance(call.function.parsed_arguments, Bird)
    assert called.choices[0].finish_reason == "tool_calls"


def models():
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).owned_by == "moewe" and model.created > 0


def errors():
    for kind, status, ask in [
        (openai.BadRequestError, 400, lambda: client.chat.completions.create(model="any", messages=[])),
        (
            openai.BadRequestError,
            400,
            lambda: client.chat.completions.create(model="any", messages=QUESTION, temperature=-1),
        ),
        (openai.BadRequestError, 400, lambda: client.completions.create(model="any", prompt=[500] * 5000)),
        (openai.NotFoundError, 404, lambda: client.models.retrieve("nobody")),
        (openai.InternalServerError, 501, lambda: client.embeddings.create(model="any", input="a")),
    ]:
        try:
            ask()
        except kind as error:
            assert error.status_code == status and error.body["message"], error
        else:
            raise AssertionError(kind)


def cancel():
    stream = client.chat.completions.create(
        model="any", messages=QUESTION, stream=True, max_tokens=400, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    plain = raw("/v1/chat/completions", {"messages": QUESTION, **GREEDY})
    assert plain["choices"][0]["finish_reason"]


def metrics():
    with urllib.request.urlopen(f"{BASE}/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    kinds = {name: families[name].type for name in (
        "moewe_prompt_tokens", "llamacpp:tokens_predicted", "moewe_step_seconds", "moewe_pages", "moewe_requests")}
    assert list(kinds.values()) == ["counter", "counter", "histogram", "gauge", "counter"], kinds
    assert families["moewe_prompt_tokens"].samples[0].value == families["llamacpp:prompt_tokens"].samples[0].value > 0


checks = [
    chat, chat_stream, chat_stream_helper, chat_choices, chat_logprobs, chat_stop_and_prefill, chat_parts,
    completions, completions_echo, responses, responses_stream, parse, models, errors, cancel, metrics,
]
for check in checks:
    check()
print(f"openai {openai.__version__} for Python: {len(checks)} checks")
