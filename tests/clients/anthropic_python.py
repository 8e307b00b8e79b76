"""Anthropic's Python package against a server: anthropic_python.py http://127.0.0.1:PORT

Each check asks twice, once through the package and once as plain JSON, and compares texts, usage and endings.
"""

import json
import sys
import time
import urllib.request

import anthropic

BASE = sys.argv[1]
client = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "Wer fliegt über das Meer?"}]
# The package has no temperature any more; the interface has.
GREEDY = {"model": "any", "max_tokens": 12, "extra_body": {"temperature": 0}}
PLAIN = {"model": "any", "max_tokens": 12, "temperature": 0}


def raw(path, body):
    request = urllib.request.Request(
        f"{BASE}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def metric(name):
    with urllib.request.urlopen(f"{BASE}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split(" ")[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def total(usage):
    return usage.input_tokens + usage.cache_read_input_tokens


def check(message, plain):
    assert [block.to_dict() for block in message.content] == plain["content"], (message, plain)
    assert message.stop_reason == plain["stop_reason"] and message.stop_sequence == plain["stop_sequence"]
    assert message.model == plain["model"] and message.role == "assistant" and message.type == "message"
    assert message.usage.output_tokens == plain["usage"]["output_tokens"]
    assert total(message.usage) == sum(plain["usage"][key] for key in ("input_tokens", "cache_read_input_tokens"))


def messages():
    plain = raw("/v1/messages", {"messages": QUESTION, **PLAIN})
    message = client.messages.create(messages=QUESTION, **GREEDY)
    check(message, plain)
    assert message.content[0].text and message.stop_reason == "max_tokens" and message.usage.output_tokens == 12
    assert message._request_id.startswith("req-")
    of_openai = raw("/v1/chat/completions", {"messages": QUESTION, **PLAIN})
    assert message.content[0].text == of_openai["choices"][0]["message"]["content"]


def system_and_blocks():
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Wer "}, {"type": "text", "text": "fliegt?"}]}]
    system = [{"type": "text", "text": "Kurz.", "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(messages=blocks, system=system, **GREEDY)
    plain = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "Wer fliegt?"}]
    of_openai = raw("/v1/chat/completions", {"messages": plain, **PLAIN})
    assert message.content[0].text == of_openai["choices"][0]["message"]["content"]
    assert total(message.usage) == of_openai["usage"]["prompt_tokens"]


def events():
    plain = raw("/v1/messages", {"messages": QUESTION, **PLAIN})
    seen = list(client.messages.create(messages=QUESTION, stream=True, **GREEDY))
    kinds = [event.type for event in seen]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    assert seen[0].message.content == [] and seen[0].message.usage.input_tokens > 0
    text = "".join(event.delta.text for event in seen if event.type == "content_block_delta")
    assert [{"type": "text", "text": text}] == plain["content"]
    assert seen[-2].delta.stop_reason == plain["stop_reason"]
    assert seen[-2].usage.output_tokens == plain["usage"]["output_tokens"]


def helper():
    plain = raw("/v1/messages", {"messages": QUESTION, **PLAIN})
    with client.messages.stream(messages=QUESTION, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == plain["content"][0]["text"]
    check(final, plain)


def stop_sequence():
    whole = client.messages.create(messages=QUESTION, **GREEDY).content[0].text
    stop = whole[4:7]
    stopped = client.messages.create(messages=QUESTION, stop_sequences=[stop], **GREEDY)
    assert stopped.content[0].text == whole[: whole.index(stop)]
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == stop


def prefill():
    begun = [*QUESTION, {"role": "assistant", "content": "Die Möwe"}]
    check(client.messages.create(messages=begun, **GREEDY), raw("/v1/messages", {"messages": begun, **PLAIN}))


def count_tokens():
    counted = client.messages.count_tokens(model="any", messages=QUESTION, system="Kurz.")
    message = client.messages.create(messages=QUESTION, system="Kurz.", **GREEDY)
    assert counted.input_tokens == total(message.usage)


def models():
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).display_name == model.id and model.created_at.year > 2000


def errors():
    for kind, status, ask in [
        (anthropic.BadRequestError, 400, lambda: client.messages.create(messages=[], **GREEDY)),
        (
            anthropic.BadRequestError,
            400,
            lambda: client.messages.create(**{**GREEDY, "messages": QUESTION, "extra_body": {"temperature": -1}}),
        ),
        (
            anthropic.BadRequestError,
            400,
            lambda: client.messages.create(messages=[{"role": "user", "content": "Möwe " * 3000}], **GREEDY),
        ),
        (
            anthropic.BadRequestError,
            400,
            lambda: client.messages.create(
                messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}],
                **GREEDY,
            ),
        ),
        (anthropic.NotFoundError, 404, lambda: client.models.retrieve("nobody")),
    ]:
        try:
            ask()
        except kind as error:
            assert error.status_code == status and error.request_id, error
            body = error.body
            assert body["error"]["message"] and body["type"] == "error", body
        else:
            raise AssertionError(kind)


def cancel():
    endless = {"model": "any", "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    stream = client.messages.create(messages=QUESTION, stream=True, **endless)
    next(iter(stream))
    stream.close()
    for _ in range(500):
        if metric("moewe_requests_processing") == 0:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("it is still computed")


checks = [
    messages, system_and_blocks, events, helper, stop_sequence, prefill, count_tokens, models, errors, cancel,
]
for one in checks:
    one()
print(f"anthropic {anthropic.__version__} for Python: {len(checks)} checks")
