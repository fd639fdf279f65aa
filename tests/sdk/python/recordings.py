"""Every recorded answer through the running gateway, heard by the official `openai` package: what the
client hears must be what the recording says, streamed as well as whole, and so must what was booked.

Given by the environment: GATEWAY (base URL), METRICS (its metrics), NEXT (where the fake provider is told
its next answer), WIRE_RECORDINGS (the folder). A provider's name in the gateway is its kind; what is
booked on `KIND-unknown` is not looked at. It must not know how the gateway translates.
"""

import base64
import collections
import json
import os
import re
import sys
import time
import urllib.parse
import urllib.request

import openai

import said
from native import native_of
from reasons import opinion_of, why_it_differs
from recorded import AWS, recordings
from said import Choice, Failed, Said, Unspoken
from wires import endpoint_of, model_of, vectors_of, wire_of

gateway = openai.OpenAI(base_url=os.environ["GATEWAY"], api_key="any", max_retries=0, timeout=20)

# Pieces in which a streamed answer arrives the second time it is played.
PIECES = 61


KINDS = set(os.environ["KINDS"].split())


# --- the provider ---


def tell(status, headers, pieces, is_chunked):
    """Tells the fake provider its next answer."""
    body = json.dumps(
        {
            "status": status,
            "headers": headers,
            "pieces": [base64.b64encode(piece).decode() for piece in pieces],
            "is_chunked": is_chunked,
        }
    )
    request = urllib.request.Request(os.environ["NEXT"], body.encode(), method="PUT")
    urllib.request.urlopen(request, timeout=20).close()


KEPT = ("content-type", "retry-after", "retry-after-ms", "x-amzn-errortype", "x-should-retry", "request-id")


def play(recording, body=None, pieces=1):
    headers = {name: value for name, value in recording.headers.items() if name in KEPT}
    if body is not None:
        headers["content-type"] = "application/json"
        return tell(200, headers, [body], False)
    is_stream = recording.is_stream
    if is_stream and recording.is_aws:
        headers["content-type"] = AWS
    size = max(1, -(-len(recording.body) // pieces))
    parts = [recording.body[at : at + size] for at in range(0, len(recording.body), size)]
    tell(recording.status, headers, parts, is_stream)


# --- the client ---


def ask(model, is_stream):
    """What the official client hears: an answer, or the error it raises."""
    options = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    try:
        answer = gateway.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], **options)
        return heard_stream(answer) if is_stream else heard_whole(answer)
    except openai.APIStatusError as error:
        assert error.message and isinstance(error.body, dict) and error.body["message"], error.body
        return Said(error=(type(error).__name__, error.status_code))
    except openai.APIError as error:
        assert error.message and error.body["message"], error
        return Said(error=("APIError", 0))


def embed(model):
    """The vectors that the official client hears, as it asks for them: in base64."""
    try:
        answer = gateway.embeddings.create(model=model, input=["hi"])
        return Said([one.embedding for one in sorted(answer.data, key=lambda one: one.index)])
    except openai.APIStatusError as error:
        return Said(error=(type(error).__name__, error.status_code))


def heard_whole(answer):
    assert answer.object == "chat.completion" and answer.id and answer.model, answer
    heard = Said(usage=heard_usage(answer.usage))
    for place, given in enumerate(answer.choices):
        assert given.index == place
        calls = given.message.tool_calls or []
        assert len({call.id for call in calls}) == len(calls) and all(call.id for call in calls), "a call without its own id"
        heard.choices.append(
            Choice(
                given.message.content or "",
                thoughts(given.message),
                [(call.function.name, said.arguments(call.function.arguments)) for call in calls],
                given.finish_reason,
            )
        )
    return heard


def thoughts(message):
    extra = message.model_extra or {}
    return extra.get("reasoning_content") or extra.get("reasoning") or ""


def heard_stream(chunks):
    heard, choices, calls, ids = Said(), {}, collections.defaultdict(list), set()
    for chunk in chunks:
        assert chunk.object == "chat.completion.chunk"
        assert heard.usage is None, "a chunk after the usage"
        ids.add(chunk.id)
        heard.usage = heard_usage(chunk.usage)
        for given in chunk.choices:
            choice = choices.setdefault(given.index, Choice())
            assert not choice.finish, "words after the finish reason"
            choice.text += given.delta.content or ""
            choice.reasoning += thoughts(given.delta)
            for part in given.delta.tool_calls or []:
                hear_call(calls[given.index], part)
            choice.finish = given.finish_reason or ""
    assert len(ids) == 1, f"ids: {ids}"
    assert all(choice.finish for choice in choices.values()), "no finish reason"
    for index, made in calls.items():
        assert len({call[0] for call in made}) == len(made), "two calls with one id"
        choices[index].calls = [(name, said.arguments(text)) for _, name, text in made]
    heard.choices = [choices[index] for index in sorted(choices)]
    return heard


def hear_call(calls, part):
    if part.index == len(calls):
        assert part.id and part.type == "function" and part.function.name, part
        calls.append([part.id, "", ""])
    assert part.index < len(calls), "calls are not numbered in order"
    calls[part.index][1] += part.function.name or ""
    calls[part.index][2] += part.function.arguments or ""


def heard_usage(usage):
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    return said.counts(
        input=usage.prompt_tokens,
        output=usage.completion_tokens,
        cache_read=prompt and prompt.cached_tokens,
        cache_write=prompt and getattr(prompt, "cache_write_tokens", 0),
        reasoning=completion and completion.reasoning_tokens,
        audio_in=prompt and prompt.audio_tokens,
        audio_out=completion and completion.audio_tokens,
    )


# --- the judge ---

CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}
# Statuses that OpenAI's clients do not know, and what they mean to them.
MEANS = {402: 429, 408: 504, 424: 502, 498: 401, 529: 503}
WORDS = [
    (401, r"API_KEY_INVALID|API key not valid|Incorrect API key|UnrecognizedClientException|ExpiredTokenException"),
    (429, r"credit balance is too low"),
    # A prompt that is too long is the client's to mend.
    (400, r"too large to process"),
]


def expected_status(recording):
    """The status that a client must see of a recorded error."""
    text = recording.body.decode("utf-8", "replace") + recording.headers.get("x-amzn-errortype", "")
    status = next((status for status, words in WORDS if re.search(words, text)), recording.status)
    return MEANS.get(status, status)


def expected_error(recording):
    """The class of the exception that a recorded error must raise."""
    status = expected_status(recording)
    return CLASSES.get(status, "InternalServerError" if status >= 500 else "APIStatusError")


def difference(expected, heard):
    """The first way in which what was heard differs, in words."""
    if heard.error:
        return f"raised {heard.error}"
    if len(expected.choices) != len(heard.choices):
        return f"{len(heard.choices)} choices for {len(expected.choices)}"
    for wanted, got in zip(expected.choices, heard.choices):
        for name in ("text", "calls", "finish", "reasoning"):
            if getattr(wanted, name) != getattr(got, name):
                return f"{name}: {getattr(got, name)!r:.300} for {getattr(wanted, name)!r:.300}"
    if expected.usage != heard.usage:
        return f"usage: {heard.usage} for {expected.usage}"
    return None


class Tally:
    def __init__(self):
        self.passed, self.all = collections.Counter(), collections.Counter()
        self.failures, self.unspoken, self.plays = [], [], 0
        self.elsewhere = collections.Counter()
        self.carried = collections.Counter()
        self.booked = collections.Counter()
        self.opinions = collections.defaultdict(list)

    def note(self, recording, problem):
        self.all[recording.folder] += 1
        self.passed[recording.folder] += not problem
        if problem:
            self.failures.append((f"{recording.folder}/{recording.name}", problem))

    def check(self, recording):
        native = native_of(recording, KINDS)
        if native:
            self.check_carried(recording, native)
        wire = wire_of(recording, KINDS)
        if wire is None and native:
            return
        if wire is None:
            self.elsewhere[endpoint_of(recording)] += 1
            return
        try:
            problem = self.first_problem(recording, wire)
        except Unspoken as words:
            self.all[recording.folder] += 1
            self.unspoken.append(f"{recording.folder}/{recording.name}: {words}")
            return
        except Exception as fault:
            problem = f"{type(fault).__name__}: {fault}"
        self.note(recording, problem)

    def check_carried(self, recording, native):
        try:
            problem = self.carried_problem(recording, native)
        except Exception as fault:
            problem = f"{type(fault).__name__}: {fault}"
        self.carried[native.endpoint, not problem] += 1
        if problem:
            self.failures.append((f"{recording.folder}/{recording.name} at /v1/{native.endpoint}", problem))

    def carried_problem(self, recording, native):
        model = model_of(recording)
        unknown = f"{native.kind}-unknown/{model}-{native.endpoint}"
        if recording.status != 200:
            play(recording)
            heard = native.ask(unknown, False).error
            status = expected_status(recording)
            return None if heard and heard[1] == status else f"raised {heard} for {status}"
        try:
            expected = native.expected(recording)
        except Failed as reason:
            play(recording)
            heard = native.ask(unknown, recording.is_stream)
            return None if heard.error else f"no error is raised, though the answer says {reason!r:.100}"
        known = f"{native.kind}/{model}" if expected.usage else unknown
        for how, pieces in [("as it came", 1), ("in pieces", PIECES)]:
            play(recording, None, pieces)
            self.plays += 1
            heard = native.ask(known, recording.is_stream)
            if (heard.choices, heard.usage, heard.error) != (expected.choices, expected.usage, None):
                return f"{how}: {heard!r:.400} for {expected!r:.400}"
            if expected.usage:
                self.booked[native.kind, "input"] += expected.usage["input"]
                self.booked[native.kind, "output"] += expected.usage["output"]
        return None

    def first_problem(self, recording, wire):
        model = model_of(recording)
        if recording.status != 200:
            return self.error_problem(recording, f"{wire.kind}-unknown/{model}", wire.is_chat)
        if not wire.is_chat:
            return self.vectors_problem(recording, f"{wire.kind}-unknown/{model}")
        try:
            answer = wire.put_together(recording) if recording.is_stream else recording.json()
            expected = wire.read(answer)
            self.hold_against_opinion(recording, expected)
        except Failed as reason:
            return self.failed_problem(recording, f"{wire.kind}-unknown/{model}", str(reason))
        known = f"{wire.kind}/{model}" if expected.usage else f"{wire.kind}-unknown/{model}"
        whole = json.dumps(answer).encode()
        ways = [("whole", whole, 1, False)]
        if recording.is_stream:
            ways = [("streamed", None, 1, True), ("in pieces", None, PIECES, True), ("put together", whole, 1, False)]
        for how, body, pieces, is_stream in ways:
            play(recording, body, pieces)
            self.plays += 1
            problem = difference(expected, ask(known, is_stream))
            if problem:
                return f"{how}: {problem}"
            if expected.usage:
                self.booked[wire.kind, "input"] += expected.usage["input"]
                self.booked[wire.kind, "output"] += expected.usage["output"]
        return None

    def error_problem(self, recording, model, is_chat):
        # Every time of another model: one that asks for a long wait is spared afterwards.
        asks = [lambda: ask(f"{model}-whole", False), lambda: ask(f"{model}-streamed", True)]
        for one in asks if is_chat else [lambda: embed(model)]:
            play(recording)
            self.plays += 1
            heard, wanted = one().error, expected_error(recording)
            if heard is None or heard[0] != wanted:
                return f"raised {heard} for {wanted} ({recording.status})"
        return None

    def vectors_problem(self, recording, model):
        play(recording)
        self.plays += 1
        heard, wanted = embed(model), vectors_of(recording.json())
        if heard.error or len(heard.choices) != len(wanted):
            return f"heard {heard!r:.200} for {len(wanted)} vectors"
        apart = max(abs(a - b) for one, two in zip(heard.choices, wanted) for a, b in zip(one, two, strict=True))
        return f"vectors differ by {apart}" if apart > 1e-6 else None

    def hold_against_opinion(self, recording, expected):
        opinion = opinion_of(os.environ["WIRE_RECORDINGS"], recording)
        problem = opinion and difference(expected, opinion)
        if problem:
            self.opinions[why_it_differs(recording, problem)].append(f"{recording.folder}/{recording.name}: {problem}")

    def failed_problem(self, recording, model, reason):
        """An answer that failed under the status of success raises, whenever it says so."""
        play(recording)
        self.plays += 1
        heard = ask(model, recording.is_stream)
        return None if heard.error else f"no error is raised, though the answer says {reason!r:.100}"


def booked_problems(tally):
    """What the gateway booked must be what was recorded, by kind."""
    deadline = time.monotonic() + 20
    while True:
        text = urllib.request.urlopen(os.environ["METRICS"], timeout=20).read().decode()
        booked = collections.Counter()
        for labels, value in re.findall(r"^choreoai_tokens_total\{(.*)\} (\S+)$", text, re.M):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            booked[label["provider"], label["type"]] += int(float(value))
        wrong = [f"{key}: booked {booked[key]} for {count}" for key, count in tally.booked.items() if booked[key] != count]
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(0.05)


def main():
    tally = Tally()
    for recording in recordings(os.environ["WIRE_RECORDINGS"]):
        tally.check(recording)
    print("provider              passed / recorded")
    for folder in sorted(tally.all):
        print(f"{folder:<22}{tally.passed[folder]:>4} / {tally.all[folder]}")
    print(f"{sum(tally.passed.values())} of {sum(tally.all.values())} in {tally.plays} calls; {sum(tally.elsewhere.values())} of other endpoints")
    for endpoint in sorted({endpoint for endpoint, _ in tally.carried}):
        passed = tally.carried[endpoint, True]
        print(f"carried as they are at /v1/{endpoint}: {passed} of {passed + tally.carried[endpoint, False]}")
    for reason, names in tally.opinions.items():
        print(f"second opinion differs in {len(names)}: {reason}")
        for name in names if os.environ.get("VERBOSE") or not reason else []:
            print("  ", name)
    for name in tally.unspoken:
        print(f"  not spoken: {name}")
    for name, problem in tally.failures:
        print(f"  fails: {name}: {problem}")
    for endpoint, count in sorted(tally.elsewhere.items(), key=lambda one: (-one[1], one[0])):
        print(f"  {count:>4} of {endpoint}")
    wrong = [] if tally.failures else booked_problems(tally)
    print("booked as recorded" if not wrong else "\n".join(wrong))
    # A difference from the second opinion that nobody looked into is a fault too.
    sys.exit(bool(tally.failures or wrong or tally.opinions.get("")))


if __name__ == "__main__":
    main()
