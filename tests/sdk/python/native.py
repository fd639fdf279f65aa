"""Recorded answers of the endpoints that the gateway carries on as they are: OpenAI's responses and
completions, heard by the official package, and Anthropic's messages and counts, by bare HTTP. The client
must hear every event, and what they say, as recorded.

It must not know how the gateway listens to them.
"""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request

import openai

from said import Failed, Said, arguments, counts
from wires import compatible_kind

gateway = openai.OpenAI(base_url=os.environ["GATEWAY"], api_key="any", max_retries=0, timeout=20)

# Kinds that carry these endpoints although their folder is named otherwise.
KINDS = {"azure": "azure", "anthropic": "anthropic"}
LAST = ("response.completed", "response.incomplete", "response.failed")


class Native:
    """One endpoint, at a kind of provider: what an answer says, and what the client hears."""

    def __init__(self, endpoint, kind):
        self.endpoint, self.kind = endpoint, kind

    def expected(self, recording):
        """What the recording says: text, calls, counts, and the types of its events."""
        if recording.is_stream:
            return said_by_events(self.endpoint, [event for _, event in recording.events()])
        return said_by_whole(self.endpoint, recording.json())

    def ask(self, model, is_stream):
        """What the client hears, in the same form."""
        if self.endpoint == "responses":
            return heard(self.endpoint, lambda more: gateway.responses.create(model=model, input="hi", **more), is_stream)
        if self.endpoint == "completions":
            return heard(self.endpoint, lambda more: gateway.completions.create(model=model, prompt="hi", **more), is_stream)
        return by_http(self.endpoint, model, is_stream)


def native_of(recording, kinds):
    """The endpoint a recording is of, if it is one of these."""
    path = urllib.parse.urlsplit(recording.url).path
    kind = KINDS.get(recording.folder) or compatible_kind(recording.folder, kinds)
    if path.endswith("/responses") or (not path and re.search(rb'"response(\.|")', recording.body)):
        return Native("responses", kind)
    if path.endswith("/completions") and not path.endswith("/chat/completions"):
        return Native("completions", kind)
    if recording.folder == "anthropic" and path.endswith(("/messages", "/messages/count_tokens")):
        return Native(path.rsplit("/v1/", 1)[-1], kind)
    return None


# --- what is said ---


def said_by_whole(endpoint, answer):
    if not isinstance(answer, dict) or answer.get("type") == "error" or (answer.get("error") and not answer.get("output")):
        raise Failed(answer)
    usage = billed(answer.get("usage"))
    if endpoint == "responses":
        if answer.get("status") == "failed" and not usage:
            raise Failed(answer)
        return Said([words(answer["output"])], usage)
    if endpoint == "completions":
        return Said([(choice["text"], choice["finish_reason"]) for choice in answer["choices"]], usage)
    return Said([answer], usage)


def words(output):
    """Text and calls of a response's items."""
    text = [part.get("text") or "" for item in output for part in item.get("content") or [] if item["type"] == "message"]
    calls = [(item["name"], arguments(item["arguments"])) for item in output if item["type"] == "function_call"]
    return "".join(text), calls


def said_by_events(endpoint, events):
    if any(event is None or event.get("type") == "error" or event.get("error") for event in events):
        raise Failed("an error in the stream")
    if endpoint == "responses":
        ends = [place for place, event in enumerate(events) if event.get("type") in LAST]
        if not ends:
            raise Failed("cut")
        # Some recordings go on with the next response of a conversation.
        events = events[: ends[0] + 1]
        told = "".join(event["delta"] for event in events if event.get("type") == "response.output_text.delta")
        return Said([told, [event["type"] for event in events]], billed(events[-1]["response"].get("usage")))
    if endpoint == "completions":
        chunks = [event for event in events if event.get("choices")]
        told = "".join(choice.get("text") or "" for event in chunks for choice in event["choices"])
        usage = [event["usage"] for event in events if event.get("usage")]
        return Said([told, len(chunks)], billed(usage[-1] if usage else None))
    if not events or events[-1].get("type") != "message_stop":
        raise Failed("cut")
    usage = {}
    for event in events:
        for given in (event.get("usage"), (event.get("message") or {}).get("usage")):
            usage.update({name: count for name, count in (given or {}).items() if count is not None})
    return Said(events, billed(usage))


def billed(usage):
    if not usage or not any(name in usage for name in ("input_tokens", "prompt_tokens")):
        return None
    inside = usage.get("input_tokens_details") or {}
    outside = usage.get("output_tokens_details") or {}
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    return counts(
        input=(usage.get("input_tokens") or usage.get("prompt_tokens") or 0) + cached + written,
        output=usage.get("output_tokens") or usage.get("completion_tokens"),
        cache_read=cached or inside.get("cached_tokens"),
        reasoning=outside.get("reasoning_tokens") or outside.get("thinking_tokens"),
    )


# --- what is heard ---


def heard(endpoint, create, is_stream):
    try:
        if not is_stream:
            return said_by_whole(endpoint, create({}).to_dict(mode="json"))
        more = {"stream": True}
        if endpoint == "completions":
            more["stream_options"] = {"include_usage": True}
        return said_by_events(endpoint, [event.to_dict(mode="json") for event in create(more)])
    except openai.APIStatusError as error:
        assert error.message and isinstance(error.body, dict) and error.body["message"], error.body
        return Said(error=(type(error).__name__, error.status_code))
    except (openai.APIError, Failed) as error:
        return Said(error=(type(error).__name__, 0))


def by_http(endpoint, model, is_stream):
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": is_stream}
    headers = {"content-type": "application/json", "x-api-key": "any", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(f"{os.environ['GATEWAY']}/{endpoint}", json.dumps(asked).encode(), headers)
    try:
        return read(endpoint, urllib.request.urlopen(request, timeout=20).read().decode(), is_stream)
    except Failed as error:
        return Said(error=(type(error).__name__, 0))
    except urllib.error.HTTPError as error:
        body = json.loads(error.read())
        assert body["type"] == "error" and body["error"]["type"] and body["error"]["message"], body
        return Said(error=(body["error"]["type"], error.code))


def read(endpoint, text, is_stream):
    if not is_stream:
        return said_by_whole(endpoint, json.loads(text))
    blocks = [block.split("\n") for block in text.split("\n\n") if block and not block.startswith(":")]
    events = [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in blocks]
    assert all(name == event["type"] for name, event in events), "an event under another name"
    return said_by_events(endpoint, [event for _, event in events])
