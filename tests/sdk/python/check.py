"""The official `openai` package against a running gateway: what people's programs rely on.

Given by the environment: GATEWAY (base URL), KEY (a key that may use all models), POOR_KEY (one that
may use none of them). It must not know the gateway or what stands behind it.
"""

import math
import os
import re
import time

import openai
from pydantic import BaseModel

BASE_URL = os.environ["GATEWAY"]
MESSAGES = [{"role": "user", "content": "Say some words."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


def client(key):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=0, timeout=20)


gateway = client(os.environ["KEY"])


def completion():
    answer = gateway.chat.completions.create(model="sdk/plain", messages=MESSAGES)
    assert answer.object == "chat.completion"
    assert len(answer.choices[0].message.content.split()) == 12, answer
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (17, 12)


def stream(**options):
    chunks = list(gateway.chat.completions.create(model="sdk/plain", messages=MESSAGES, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 12, text
    assert len({chunk.id for chunk in chunks}) == 1
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert finishes == ["stop"], finishes
    return [chunk.usage for chunk in chunks if chunk.usage]


def stream_without_usage():
    assert stream() == []
    assert stream(stream_options={"include_usage": False}) == []


def stream_with_usage():
    usages = stream(stream_options={"include_usage": True})
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [(17, 12)]


def tool_calls_streamed():
    calls = {}
    chunks = gateway.chat.completions.create(model="sdk/tools", messages=MESSAGES, tools=[WEATHER], stream=True)
    finish = None
    for chunk in chunks:
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
    assert finish == "tool_calls"
    assert sorted(calls) == [0, 1]
    assert all(name == "look_up" and arguments.startswith('{"text":"') for name, arguments in calls.values()), calls


def stream_helper_accumulates_tool_calls():
    with gateway.chat.completions.stream(model="sdk/tools", messages=MESSAGES, tools=[WEATHER]) as events:
        events.until_done()
        message = events.get_final_completion().choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["look_up", "look_up"]


def json_schema():
    parsed = gateway.chat.completions.parse(model="sdk/schema", messages=MESSAGES, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)


def models():
    ids = [model.id for model in gateway.models.list()]
    assert "everyday" in ids, ids
    assert gateway.models.retrieve("everyday").id == "everyday"


def raises(kind, status, code, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        assert error.status_code == status, error
        assert isinstance(error.body, dict) and error.body["message"], error.body
        assert code is None or error.code == code, error.code
        assert error.request_id
        return error
    raise AssertionError(f"no {kind.__name__}")


def ask(model, who=gateway, **more):
    return lambda: who.chat.completions.create(model=model, messages=MESSAGES, **more)


def errors():
    raises(openai.AuthenticationError, 401, "invalid_api_key", ask("sdk/plain", client("wrong")))
    raises(openai.PermissionDeniedError, 403, None, ask("sdk/plain", client(os.environ["POOR_KEY"])))
    raises(openai.NotFoundError, 404, "model_not_found", ask("no-such-model"))
    raises(openai.BadRequestError, 400, None, ask("sdk/bad"))
    raises(openai.BadRequestError, 400, None, ask("sdk/plain", extra_body={"stream": "perhaps"}))
    limited = raises(openai.RateLimitError, 429, "rate_limit_exceeded", ask("sdk/limited"))
    assert limited.response.headers["retry-after"]
    raises(openai.RateLimitError, 429, "rate_limit_exceeded", ask("sdk/limited", stream=True))
    raises(openai.RateLimitError, 429, "insufficient_quota", ask("sdk/poor", gateway.with_options(max_retries=2)))


def waits_as_told():
    """One call a second: the second call is told how long to wait, waits that long and passes at its first retry."""
    paced = ask("sdk/plain", client(os.environ["PACED_KEY"]))
    paced()
    limited = raises(openai.RateLimitError, 429, "rate_limit_exceeded", paced)
    told = int(limited.response.headers["retry-after-ms"]) / 1000
    assert limited.response.headers["retry-after"] == str(math.ceil(told))
    assert limited.response.headers["x-choreoai-limited-by"] == "gateway"
    began = time.monotonic()
    patient = client(os.environ["PACED_KEY"]).with_options(max_retries=1)
    answer = patient.chat.completions.with_raw_response.create(model="sdk/plain", messages=MESSAGES)
    waited = time.monotonic() - began
    assert answer.retries_taken == 1, (answer.retries_taken, told)
    assert told - 0.1 <= waited <= told + 2, (waited, told)
    print("python: was told to wait", told, "s, came after", round(waited, 3), "s")
    # Two of a hundred calls passed, the first of them a moment ago: the bucket is full again when the last has left.
    assert answer.headers["x-ratelimit-limit-requests"] == "100"
    assert answer.headers["x-ratelimit-remaining-requests"] == "98"
    reset = re.fullmatch(r"1m(0|0\.[0-9]{3})s|(5[0-9]\.[0-9]{3})s", answer.headers["x-ratelimit-reset-requests"])
    assert reset, answer.headers["x-ratelimit-reset-requests"]


def a_cut_stream_is_an_error():
    words = 0
    try:
        for chunk in gateway.chat.completions.create(model="sdk/cut", messages=MESSAGES, stream=True):
            words += bool(chunk.choices and chunk.choices[0].delta.content)
    except openai.APIError as error:
        assert error.message and words == 5, (error, words)
        return
    raise AssertionError("a cut stream looked complete")


def completions_and_responses():
    answer = gateway.completions.create(model="sdk/native", prompt="Say some words.")
    assert (len(answer.choices[0].text.split()), answer.usage.completion_tokens) == (12, 12), answer
    chunks = gateway.completions.create(model="sdk/native", prompt="Say some words.", stream=True)
    assert len("".join(chunk.choices[0].text for chunk in chunks).split()) == 12
    answer = gateway.responses.create(model="sdk/native", input="Say some words.")
    assert (len(answer.output_text.split()), answer.usage.output_tokens) == (12, 12), answer
    events = list(gateway.responses.create(model="sdk/native", input="Say some words.", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert (len(text.split()), events[-1].type, events[-1].response.usage.output_tokens) == (12, "response.completed", 12)
    events = list(gateway.responses.create(model="sdk/native-cut", input="Say some words.", stream=True))
    assert (events[-1].type, events[-1].code) == ("error", "upstream_stream_error"), events[-1]
    assert events[-1].sequence_number == len(events) - 1 == 8, events[-1]


def what_is_passed_on():
    said = gateway.audio.transcriptions.create(model="sdk/plain", file=("a.mp3", b"ID3-not-much"))
    assert said.text == "not much", said
    sound = gateway.audio.speech.create(model="sdk/sound", voice="alloy", input="Not much.").read()
    assert sound == b"ID3\x00\xff\xfe\r\n\r\ndata: x", sound
    assert gateway.images.generate(model="sdk/picture", prompt="A cat.").data[0].b64_json == "QUFB"
    assert not gateway.moderations.create(input="A cat.").results[0].flagged
    there = openai.OpenAI(base_url=BASE_URL.replace("/v1", "/sdk/v1"), api_key=os.environ["KEY"], max_retries=0)
    for files in (gateway.files, there.files):
        assert files.create(file=("a.jsonl", b'{"custom_id":1}'), purpose="batch").id == "file-1"
        assert [file.id for file in files.list(limit=1)] == ["file-1"]
        assert files.content("file-1").read() == sound
        assert files.delete("file-1").deleted
    poor = client(os.environ["POOR_KEY"])
    raises(openai.PermissionDeniedError, 403, None, lambda: poor.files.list())


def client_abort():
    chunks = gateway.chat.completions.create(model="sdk/slow", messages=MESSAGES, stream=True)
    for _, chunk in zip(range(4), chunks):
        assert chunk.choices
    chunks.close()


if __name__ == "__main__":
    checks = [
        completion,
        stream_without_usage,
        stream_with_usage,
        tool_calls_streamed,
        stream_helper_accumulates_tool_calls,
        json_schema,
        models,
        errors,
        waits_as_told,
        a_cut_stream_is_an_error,
        completions_and_responses,
        what_is_passed_on,
        client_abort,
    ]
    for check in checks:
        check()
        print("python:", check.__name__, flush=True)
