"""Callers of a gateway, good and bad, each kind at its own pace.

Must not know what the gateway does with the calls; it counts answers by status and nothing else.
"""

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

WORKERS = 48
TIMEOUT = 30
# A connection that was not used for so long may have been closed by the gateway meanwhile (after a minute).
KEPT = 30


class Load:
    """Calls at given rates until it is closed. A rate can be changed while it runs; calls that find no free worker are left out."""

    def __init__(self, url, key):
        parts = urlsplit(url)
        self.host, self.key = parts.netloc, key
        self.rates, self.calls, self.counts = {}, {}, Counter()
        self.pool, self.free = ThreadPoolExecutor(WORKERS), threading.Semaphore(WORKERS)
        self.local, self.closed = threading.local(), threading.Event()
        self.pacer = threading.Thread(target=self.pace, daemon=True)
        self.pacer.start()

    def add(self, kind, call, rate=0.0):
        """A kind of call: a function of this load, and how often per second."""
        self.calls[kind], self.rates[kind] = call, rate

    def pace(self):
        """Hand out calls as their time comes."""
        due = {}
        while not self.closed.wait(0.01):
            now = time.monotonic()
            for kind, rate in list(self.rates.items()):
                if rate <= 0:
                    due.pop(kind, None)
                elif now >= due.setdefault(kind, now):
                    due[kind] = max(due[kind] + 1 / rate, now - 1)
                    if self.free.acquire(blocking=False):
                        self.hand_out(kind)

    def hand_out(self, kind):
        """Give a call to a worker; when the whole program is leaving there is none, and that is the end."""
        try:
            self.pool.submit(self.run, kind)
        except RuntimeError:
            self.closed.set()

    def run(self, kind):
        """Make one call and count how it ended."""
        try:
            outcome = self.calls[kind](self)
        except (OSError, http.client.HTTPException) as problem:
            self.local.connection = None
            outcome = type(problem).__name__
        finally:
            self.free.release()
        self.counts[kind, outcome] += 1

    def connection(self):
        """This worker's connection, kept open between calls."""
        now = time.monotonic()
        if getattr(self.local, "connection", None) is None or now - self.local.used > KEPT:
            self.local.connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        self.local.used = now
        return self.local.connection

    def send(self, method, path, body=None, key=None):
        """One call, read to its end; the status."""
        connection = self.connection()
        headers = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def close(self):
        """No further call."""
        self.closed.set()
        self.pool.shutdown(wait=False, cancel_futures=True)


def chat_body(model, stream):
    """A small chat."""
    message = {"role": "user", "content": "Say something about the weather, in one sentence."}
    body = {"model": model, "messages": [message], "max_tokens": 40}
    return json.dumps({**body, "stream": True} if stream else body)


def chat(model, stream=False, key=None):
    """A call for a chat, as a stream or not."""
    return lambda load: load.send("POST", "/v1/chat/completions", chat_body(model, stream), key)


def leave_early(model):
    """A caller who hangs up after the first bytes of a stream."""

    def call(load):
        connection = http.client.HTTPConnection(load.host, timeout=TIMEOUT)
        headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", chat_body(model, True), headers)
        answer = connection.getresponse()
        answer.read(64)
        connection.close()
        return f"left after {answer.status}"

    return call


def fair_weather(load, model, rate):
    """Mostly good calls, and a few of what always happens: wrong keys, unknown models, broken bodies, callers who leave."""
    load.add("chat", chat(model), rate * 0.6)
    load.add("stream", chat(model, stream=True), rate * 0.3)
    load.add("models", lambda one: one.send("GET", "/v1/models"), max(rate * 0.05, 2))
    load.add("leaves", leave_early(model), 0.5)
    load.add("wrong key", chat(model, key="sk-wrong"), 0.5)
    load.add("unknown model", chat("no-such-model"), 0.5)
    load.add("broken body", lambda one: one.send("POST", "/v1/chat/completions", "{"), 0.5)
