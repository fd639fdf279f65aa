"""Who is right, and why, where the second opinion beside the recordings differs.

It must not know the gateway: the recording decides.
"""

import json
import pathlib
import re

import openai_wire
from said import Failed, Said

# How the second opinion differs, of which recordings, and who is right.
OPINIONS = [
    (
        r"^usage: .*'reasoning': [1-9]\d*, .* for .*'reasoning': 0,",
        r".",
        "we: it estimates reasoning tokens with a tokenizer where the provider counts none",
    ),
    (r"^usage: .* for None", r"^(ollama|openai)/", "we: it estimates usage where the provider counts none, or not the prompt"),
    (r"^calls: .* for \[\]", r"^anthropic/", "we: the provider ran these tools itself; a client must not be asked to"),
    (r"^raised none", r"^(cohere|groq)/", "we: it fails on the end, or on the error, of the stream"),
    (r"^finish: 'stop' for 'tool_calls'", r"^cohere/", "we: the recording says TOOL_CALL"),
    (r"^(usage|reasoning): ", r"^cohere/", "we: it leaves out thinking, and cached and reasoning tokens, which the recording holds"),
    (r"^text: '' for ", r"^gemini/streamGenerateContent", "we: it cannot read a stream that came as one array"),
    (r"^finish: 'tool_calls' for 'stop'", r"^openai/", "we: OpenAI says `stop` after a tool that was named, and is passed on"),
]


def opinion_of(folder, recording):
    """What the second opinion made of a recording, where there is one and it can be read."""
    path = pathlib.Path(folder) / "oracle" / "expected" / recording.folder / f"{recording.name}.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_bytes()).get("result")
    try:
        return openai_wire.read(openai_wire.answer(result, True) if isinstance(result, list) else result)
    except (Failed, AttributeError, KeyError, TypeError):
        return Said(error="none")


def why_it_differs(recording, problem):
    for what, where, reason in OPINIONS:
        if re.search(what, problem) and re.search(where, f"{recording.folder}/{recording.name}"):
            return reason
    return ""
