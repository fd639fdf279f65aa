"""Which wire a recording is in, which kind of provider speaks it, and who reads it.

It must not know the gateway, nor what any answer says.
"""

import base64
import re
import struct
import urllib.parse

import openai_wire
import said


class Wire:
    """How the answers of one wire are put together from a stream, and read."""

    def __init__(self, kind, put_together=None, read=None):
        self.kind, self.put_together, self.read = kind, put_together, read

    @property
    def is_chat(self):
        return self.read is not None


def _second(recording):
    return [event for _, event in recording.events()]


def _anthropic(kind):
    return Wire(kind, lambda recording: said.anthropic_message(recording.events()), said.anthropic)


def _gemini(kind):
    def read(answer):
        # Asked without `alt=sse`, Google answers with all chunks in one array.
        return said.gemini(said.gemini_answer(answer) if isinstance(answer, list) else answer)

    return Wire(kind, lambda recording: said.gemini_answer(_second(recording)), read)


def _openai(kind):
    return Wire(kind, lambda recording: openai_wire.answer(_second(recording), recording.is_marked), openai_wire.read)


BEDROCK = Wire("bedrock", lambda recording: said.converse_answer(recording.events()), said.converse)
COHERE = Wire("cohere", lambda recording: said.cohere_answer(recording.events()), said.cohere)
OLLAMA = Wire("ollama", lambda recording: said.ollama_answer(_second(recording)), said.ollama)

# Kinds under another name than the recordings have.
RENAMED = {"alibaba": "dashscope", "ollama": "ollama-openai", "vercel_gateway": "vercel"}
# Those that also, or only, speak a wire of their own.
FOREIGN = ("anthropic", "bedrock", "cohere", "gemini", "vertex")


def compatible_kind(folder, kinds):
    """The kind whose row of OpenAI's wire answers for a folder."""
    kind = RENAMED.get(folder, folder)
    return kind if kind in kinds and kind not in FOREIGN else "openai-compatible"


def wire_of(recording, kinds):
    """The wire a recording is in; `None` for one of another endpoint."""
    path, folder = urllib.parse.urlsplit(recording.url).path, recording.folder
    if path.endswith("/chat/completions"):
        return _openai(compatible_kind(folder, kinds))
    if path.endswith("/messages"):
        return _anthropic("anthropic")
    if path.endswith(("rawPredict", "RawPredict")):
        return _anthropic("vertex")
    if path.endswith(("generateContent", "GenerateContent")):
        return _gemini(folder)
    if path.endswith("/v2/chat"):
        return COHERE
    if path.endswith("/api/chat"):
        return OLLAMA
    if path.endswith(("/embeddings", "/embed", "mbedContent", "mbedContents", ":predict")):
        return Wire(folder if folder in FOREIGN or "/api/" in path else compatible_kind(folder, kinds))
    if folder == "bedrock" and path.endswith(("/invoke", "/invoke-with-response-stream")):
        return _invoked(recording)
    if path.endswith(("/converse", "/converse-stream")):
        return BEDROCK
    return None if path else _shaped(recording, kinds)


def _invoked(recording):
    """InvokeModel answers in the words of the model's maker."""
    first = (recording.events() or [("", {})])[0][1] if recording.is_stream else recording.json()
    is_message = isinstance(first, dict) and first.get("type") in ("message", "message_start")
    return _anthropic("bedrock-anthropic") if is_message or recording.status != 200 else BEDROCK


def _shaped(recording, kinds):
    """The wire of an answer that was recorded without its request, by its shape."""
    text, folder = recording.body, recording.folder
    if b"chat.completion" in text or b'"choices"' in text:
        return _openai(compatible_kind(folder, kinds))
    own = {"anthropic": (_anthropic("anthropic"), b'"message'), "bedrock": (BEDROCK, b""), "ollama": (OLLAMA, b'"done"')}
    own |= {"gemini": (_gemini("gemini"), b"candidates"), "cohere": (COHERE, b"finish_reason")}
    wire, mark = own.get(folder, (None, b""))
    if recording.status != 200:
        return wire or _openai(compatible_kind(folder, kinds))
    if b'"embeddings"' in text and folder in (*FOREIGN, "ollama"):
        return Wire(folder)
    return wire if wire and mark in text else None


def endpoint_of(recording):
    """Whose endpoint a recording is of, without what names a thing there."""
    path = urllib.parse.urlsplit(recording.url).path
    path = re.sub(r"/(models|deployments|model|projects|locations)/[^/:]+", r"/\1/*", path)
    path = re.sub(r"/(?:[a-z]+[_-])[A-Za-z0-9_-]{12,}|/[0-9a-f-]{24,}", "/*", path)
    if not path:
        # Recorded without its address; what Responses say is known by its names.
        path = "responses, by its shape" if re.search(rb'"response(\.|")', recording.body) else "something without an address"
    return f"{recording.folder} {path}"


def model_of(recording):
    """The model a recording was asked of."""
    named = re.search(r"/(?:models?|deployments)/([^/:?]+)", recording.url)
    name = recording.asked.get("model") or (named and urllib.parse.unquote(named.group(1)))
    return name.removeprefix("models/") if isinstance(name, str) and name else "some-model"


def vectors_of(body):
    """The vectors in an answer to an embeddings call, in order."""
    if "data" in body:
        return [_floats(one["embedding"]) for one in sorted(body["data"], key=lambda one: one.get("index", 0))]
    if "predictions" in body:
        return [one["embeddings"]["values"] for one in body["predictions"]]
    if "embedding" in body:
        one = body["embedding"]
        return [one["values"] if isinstance(one, dict) else one]
    given = body["embeddings"]
    given = given.get("float") if isinstance(given, dict) else given
    return [one["values"] if isinstance(one, dict) else one for one in given]


def _floats(vector):
    if not isinstance(vector, str):
        return vector
    data = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(data) // 4}f", data))
