"""Recorded provider traffic as files, frames and events: what a test needs before it can ask what an
answer says. Files are found under a folder of recordings; none of them is in this project.

It must not know the gateway, nor what any event means.
"""

import base64
import json
import pathlib
import struct
import zlib

AWS = "application/vnd.amazon.eventstream"


class Recording:
    """One recorded answer, with what is known of its request."""

    def __init__(self, path):
        file = json.loads(path.read_bytes())
        request, response = file.get("request") or {}, file["response"]
        asked = request.get("body")
        self.name, self.folder = path.stem, path.parent.name
        self.url = request.get("url") or ""
        self.asked = asked if isinstance(asked, dict) else {}
        self.status = response["status"]
        self.headers = {name.lower(): _one(value) for name, value in (response.get("headers") or {}).items()}
        self.body = _bytes(response)
        if self.folder == "documented_errors":
            self.folder = self.name.split("-")[0]
        self._restore_frames()

    def _restore_frames(self):
        """Some binary streams were recorded as lines of JSON, each event under its name."""
        lines = [line for line in self.body.splitlines() if line.strip()]
        if self.folder == "bedrock" and len(lines) > 1 and all(line.startswith(b"{") for line in lines):
            events = [next(iter(json.loads(line).items())) for line in lines]
            self.body = b"".join(aws_frame(name, payload) for name, payload in events)

    @property
    def is_aws(self):
        return self.headers.get("content-type") == AWS or self.body[8:12] == struct.pack(">I", zlib.crc32(self.body[:8]))

    @property
    def is_stream(self):
        """Whether the body holds events rather than one answer."""
        start = self.body.lstrip()
        is_sse = start.startswith((b"data:", b"event:", b":", b"id:"))
        return self.status == 200 and (is_sse or self.is_aws or (self.folder == "ollama" and b"}\n{" in self.body))

    @property
    def is_marked(self):
        """Whether `[DONE]` ends the stream."""
        return self.body.rstrip().endswith(b"[DONE]")

    def json(self):
        """The body as JSON; text where it is none."""
        text = self.body.decode("utf-8", "replace")
        try:
            return json.loads(text)
        except ValueError:
            return text

    def events(self):
        """The events of a stream as pairs of name and JSON; `[DONE]` is left out."""
        if self.is_aws:
            return list(_aws_events(self.body))
        if self.folder == "ollama" and self.body.lstrip().startswith(b"{"):
            return [("", json.loads(line)) for line in self.body.splitlines() if line.strip()]
        return list(_sse_events(self.body))


def _one(value):
    return value if isinstance(value, str) else value[0] if isinstance(value, list) else str(value)


def _bytes(response):
    if response.get("body_base64"):
        return base64.b64decode(response["body_base64"])
    body = response.get("body")
    if isinstance(body, str):
        return body.encode()
    return b"" if body is None else json.dumps(body).encode()


def recordings(folder):
    """Every recording, documented error and answer without its request under `folder`."""
    root = pathlib.Path(folder)
    paths = sorted(root.glob("recordings/**/*.json")) + sorted(root.glob("documented_errors/*.json"))
    return [Recording(path) for path in paths]


def _sse_events(body):
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for block in text.split("\n\n"):
        fields = [line.partition(":") for line in block.split("\n") if line and not line.startswith(":")]
        data = [value.removeprefix(" ") for name, _, value in fields if name == "data"]
        names = [value.strip() for name, _, value in fields if name == "event"]
        # Who drops the blank lines between events makes one of many.
        for one in data if _all_json(data) else ["\n".join(data)]:
            if one and one != "[DONE]":
                yield (names[-1] if names else "", _json(one))


def _all_json(data):
    return len(data) > 1 and all(isinstance(_json(one), dict) or one == "[DONE]" for one in data)


def _json(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def _aws_events(body):
    while body:
        total, headers = struct.unpack(">II", body[:8])
        names = dict(_aws_headers(body[12 : 12 + headers]))
        payload = json.loads(body[12 + headers : total - 4] or b"null")
        if isinstance(payload, dict) and "bytes" in payload:
            payload = json.loads(base64.b64decode(payload["bytes"]))
        yield names.get(":exception-type") or names.get(":event-type") or names.get(":error-code", ""), payload
        body = body[total:]


def _aws_headers(headers):
    while headers:
        end = 1 + headers[0]
        (size,) = struct.unpack(">H", headers[end + 1 : end + 3])
        yield headers[1:end].decode(), headers[end + 3 : end + 3 + size].decode()
        headers = headers[end + 3 + size :]


def aws_frame(name, payload):
    """One event as AWS puts it on the wire."""
    headers = b""
    for header, value in [(":message-type", "event"), (":event-type", name)]:
        headers += bytes([len(header)]) + header.encode() + b"\7" + struct.pack(">H", len(value)) + value.encode()
    payload = json.dumps(payload).encode()
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = head + struct.pack(">I", zlib.crc32(head)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))
