#!/usr/bin/env python3
"""The live gate: a real gateway under load, scraped by a real Prometheus that alerts through a real Alertmanager.

    live.py GATEWAY_BINARY [--speed 20] [--model NAME] [--limit 900] [--keep FOLDER]

Every panel's query must answer, without NaN; the alerts an operator counts on are provoked, arrive, and resolve. Weather is made with
signals: the demo provider is stopped, frozen and started again. Rules run in fast motion (every duration divided by --speed; 1 is real time).
Must not listen beyond loopback, nor end anything it did not start.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from contextlib import contextmanager
from pathlib import Path

import drift
import project
import stage

sys.path.insert(0, str(project.ROOT / "demo"))
from load import Load, chat, chat_body, fair_weather  # noqa: E402

KEY, LIMITED_KEY = "sk-live", "sk-limited"
# Panels that may be empty under load, and why.
MAY_BE_EMPTY = {"Quota left at the provider": "the demo provider sends no rate limit headers"}

# Two demo processes. `sunny` and `moody` share one, `stormy` and `fragile` the other, which the acts stop.
# Only `fragile` has a breaker that trips; `moody` serves the demo models that fail on purpose, `narrow` a slow one, one call at a time.
CONFIG = """
[server]
listen = "127.0.0.1:{gateway}"

[rate_limit]
backend = "redis"
redis_url = "redis://127.0.0.1:{redis}"
report_remaining = true

[providers.sunny]
kind = "openai"
base_url = "http://127.0.0.1:{sunny}/v1"
api_key = "demo"

[providers.moody]
kind = "openai"
base_url = "http://127.0.0.1:{sunny}/v1"
api_key = "demo"
breaker = {{ failures = 1000000, window = "30s", open = "1s" }}

[providers.stormy]
kind = "openai"
base_url = "http://127.0.0.1:{stormy}/v1"
api_key = "demo"
retry = {{ attempts = 1 }}
breaker = {{ failures = 1000000, window = "30s", open = "1s" }}

[providers.fragile]
kind = "openai"
base_url = "http://127.0.0.1:{stormy}/v1"
api_key = "demo"
retry = {{ attempts = 1 }}
breaker = {{ failures = 3, window = "30s", open = "{open}s" }}

[providers.narrow]
kind = "openai"
base_url = "http://127.0.0.1:{sunny}/v1"
api_key = "demo"
max_concurrent = 1
queue = {{ size = 20, wait = "20s" }}

[models.fair]
targets = [{{ target = "sunny/{model}" }}]

[models.rough]
targets = [{{ target = "stormy/{model}" }}]

[models.brittle]
targets = [{{ target = "fragile/{model}" }}]

[models.flaky]
targets = [{{ target = "moody/{flaky}" }}]

[models.cut]
targets = [{{ target = "moody/{cut}" }}]

[models.slow]
targets = [{{ target = "narrow/{slow}" }}]

[models.either]
targets = [{{ target = "moody/{broken}" }}, {{ target = "sunny/{model}", tier = 2 }}]

[prices."sunny/{model}"]
input = 1.0
output = 2.0

[[keys]]
name = "live"
key = "{key}"

[[keys]]
name = "limited"
key = "{limited}"
requests_per_minute = 5
"""


def healthy_model(url, listed):
    """The first listed model that answers three calls in a row at once; some of the demo provider's fail on purpose."""
    for name in listed:
        try:
            answers = [stage.post(f"{url}/v1/chat/completions", chat_body(name, False), 2) for _ in range(3)]
        except OSError:
            continue
        if all(status == 200 for status in answers):
            return name
    raise TimeoutError(f"none of the demo provider's models answers: {listed}")


class Play:
    """Everything on stage, and the acts."""

    def __init__(self, on, binary, speed, model):
        self.on, self.binary, self.speed = on, Path(binary).resolve(), speed
        self.model, self.failures = model, []
        names = ("gateway", "redis", "sunny", "stormy", "prometheus", "alertmanager")
        self.ports = {name: stage.free_port() for name in names}
        self.listener, self.load, self.few = stage.Listener(), None, 0.0

    def url(self, name, path=""):
        """Where one of ours listens."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    # --- Setting up ---

    def start_provider(self, name):
        """A demo provider that answers."""
        self.on.start(name, [self.binary, "demo-provider", "--port", self.ports[name]])
        stage.wait_until(lambda: stage.get(self.url(name, "/v1/models")), 10, f"provider {name} answering")

    def start_gateway(self):
        """The gateway, ready."""
        self.on.start("gateway", [self.binary, "serve", "--config", self.on.folder / "choreoai.toml"])
        stage.wait_until(lambda: stage.get(self.url("gateway", "/ready")), 10, "the gateway being ready")

    def write_config(self):
        """The gateway's configuration, with the demo models there are."""
        listed = [one["id"] for one in json.loads(stage.get(self.url("sunny", "/v1/models")))["data"]]
        self.model = self.model or healthy_model(self.url("sunny"), listed)
        moods = {mood: mood if mood in listed else self.model for mood in ("flaky", "cut", "broken", "slow")}
        opened = max(3, round(120 / self.speed))
        config = CONFIG.format(**self.ports, **moods, model=self.model, open=opened, key=KEY, limited=LIMITED_KEY)
        (self.on.folder / "choreoai.toml").write_text(config, encoding="utf-8")

    def set_up(self):
        """Start everything."""
        self.start_provider("sunny")
        self.start_provider("stormy")
        self.on.start("redis", ["redis-server", "--port", self.ports["redis"], "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        self.write_config()
        self.start_gateway()
        stage.faster_rules(project.RULES, self.on.folder / "rules", self.speed)
        alertmanager = stage.alertmanager_config(self.on.folder, self.listener.url)
        prometheus = stage.prometheus_config(self.on.folder, self.ports)
        self.on.start(
            "alertmanager",
            ["prometheus-alertmanager", f"--config.file={alertmanager}", f"--storage.path={self.on.folder}/am",
             f"--web.listen-address=127.0.0.1:{self.ports['alertmanager']}", "--cluster.listen-address="],
        )  # fmt: skip
        self.on.start(
            "prometheus",
            ["prometheus", f"--config.file={prometheus}", f"--storage.tsdb.path={self.on.folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}", "--enable-feature=exemplar-storage",
             # An alert that fired before Alertmanager was known is sent again after this, not after a minute.
             "--rules.alert.resend-delay=5s"],
        )  # fmt: skip
        for name in ("alertmanager", "prometheus"):
            stage.wait_until(lambda name=name: stage.get(self.url(name, "/-/ready")), 20, f"{name} being ready")
        self.load = Load(self.url("gateway"), KEY)

    def fair(self):
        """Fair weather: load that makes every panel move.

        `rough` gets just enough calls to be judged (twenty in what the rules take for five minutes); all together are so many more
        that its failures stay under the share that pages.
        """
        self.few = 1.4 * 20 / self.window(5)
        fair_weather(self.load, "fair", 40 * self.few)
        self.load.add("over its limit", chat("fair", key=LIMITED_KEY), 1)
        self.load.add("either", chat("either"), 1)
        self.load.add("rough", chat("rough"), self.few)
        self.load.add("brittle", chat("brittle"), 0.5)
        self.load.add("flaky", chat("flaky"), 0.5)
        self.load.add("cut", chat("cut", stream=True), 0.3)
        self.load.add("slow", chat("slow", stream=True), 0.3)

    # --- Asking ---

    def ask(self, query):
        """Prometheus' answer to an instant query: (error, samples)."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            answer = json.loads(stage.get(self.url("prometheus", path), timeout=20))
        except OSError as problem:
            detail = problem.read().decode() if hasattr(problem, "read") else str(problem)
            return detail[:300], []
        result = answer["data"]["result"]
        if answer["data"]["resultType"] == "scalar":
            return "", [float(result[1])]
        return "", [float(one["value"][1]) for one in result]

    def queries(self):
        """(place, PromQL, whether it may be empty) of every panel and every documented example."""
        found = []
        for path, board in project.dashboards().items():
            for panel, target, text in project.panel_queries(board):
                place = f"{path.stem} «{panel['title']}» {target['refId']}"
                found.append((place, project.fill_variables(text, "10s", "60s"), panel["title"] in MAY_BE_EMPTY))
        for path in [project.DOCS / "queries.md", project.DOCS / "monitoring.md"]:
            for index, text in enumerate(project.promql_examples(path.read_text(encoding="utf-8"))):
                found.append((f"{path.name} example {index}", text, False))
        return found

    def findings(self, empty_is_fine=False):
        """Queries that fail, answer NaN or infinity, or (unless that is fine) nothing."""
        found = []
        for place, query, may_be_empty in self.queries():
            error, samples = self.ask(query)
            if error:
                found.append(f"{place}: {error}")
            elif any(value != value or abs(value) == float("inf") for value in samples):
                found.append(f"{place}: NaN or infinite: {query}")
            elif not samples and not (empty_is_fine or may_be_empty):
                found.append(f"{place}: no data: {query}")
        return found

    # --- The acts ---

    def window(self, minutes):
        """How long so many minutes take at our speed, in seconds."""
        return minutes * 60 / self.speed

    def expect(self, name, status, since, minutes, **labels):
        """An alert reaches its receiver within so many minutes of the rules' time."""
        limit = self.window(minutes) + 20
        start = time.monotonic()
        try:
            receiver = stage.wait_until(lambda: self.listener.has(name, status, since, **labels), limit, "it")
            print(f"  {name} {status} at {receiver} after {time.monotonic() - start:.0f} s", flush=True)
        except TimeoutError:
            self.failures.append(f"{name} {status} did not arrive within {limit:.0f} s")
            print(f"  {name} {status} did NOT arrive within {limit:.0f} s", flush=True)

    def since(self):
        """Where in the listener's memory the next act begins."""
        return len(self.listener.heard)

    @contextmanager
    def act(self, title):
        """One act; it fails alone."""
        before = len(self.failures)
        print(title, flush=True)
        try:
            yield
        except (TimeoutError, OSError) as problem:
            self.failures.append(f"{title}: {problem}")
        print(f"{'ok  ' if len(self.failures) == before else 'FAIL'} {title}", flush=True)

    def panels_idle(self):
        """Nothing happens: empty is fine, NaN is not."""
        with self.act("idle: no panel shows NaN"):
            time.sleep(6)
            self.failures += self.findings(empty_is_fine=True)

    def panels_busy(self):
        """Fair weather: every query answers. Tried for a while, because windows fill slowly."""
        with self.act("fair weather: every panel and example answers"):
            self.fair()
            end = time.monotonic() + self.window(10) + 40
            found = ["not asked"]
            while found and time.monotonic() < end:
                time.sleep(5)
                found = self.findings()
            print(f"  {len(self.queries())} queries asked, {len(found)} without an answer")
            self.failures += found

    def names(self):
        """The drift gate and promtool's naming rules against this very gateway."""
        with self.act("names: drift both ways, and naming habits"):
            if drift.main([self.url("gateway", "/metrics")]):
                self.failures.append("something drifted (see above)")
            text = stage.get(self.url("gateway", "/metrics"))
            done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
            self.failures += [f"promtool check metrics: {line}" for line in done.stderr.splitlines() if done.returncode]

    def storm(self, title, cause, cure, alerts):
        """Something goes wrong and is put right: each of (alert, minutes to fire, minutes to resolve, labels) comes and goes."""
        with self.act(title):
            mark = self.since()
            cause()
            for name, fires, _, labels in alerts:
                self.expect(name, "firing", mark, fires, **labels)
            mark = self.since()
            cure()
            for name, _, resolves, labels in alerts:
                self.expect(name, "resolved", mark, resolves, **labels)

    def provider_fails(self):
        """One provider is gone: its errors and its breaker are told, all together are too few to page."""
        alerts = [("ProviderHighErrorRate", 15, 15, {"provider": "stormy"}), ("CircuitBreakerOpen", 5, 10, {"provider": "fragile"})]
        self.storm("a provider fails", lambda: self.on.stop("stormy"), lambda: self.start_provider("stormy"), alerts)

    def everything_fails(self):
        """A fifth of the calls go to the provider that is gone."""

        def more():
            self.on.stop("stormy")
            self.load.rates["rough"] = 10 * self.few

        def as_before():
            self.start_provider("stormy")
            self.load.rates["rough"] = self.few

        self.storm("many calls fail", more, as_before, [("HighErrorRate", 15, 15, {})])

    def provider_freezes(self):
        """A provider that answers after seven seconds: slow, not very slow."""
        with self.act("a provider is slow"):
            mark, end = self.since(), time.monotonic() + self.window(20) + 40
            while not self.listener.has("HighLatency", "firing", mark) and time.monotonic() < end:
                self.on.signal("sunny", signal.SIGSTOP)
                time.sleep(7)
                self.on.signal("sunny", signal.SIGCONT)
                time.sleep(1)
            self.expect("HighLatency", "firing", mark, 0)
            if self.listener.has("VeryHighLatency", "firing", mark):
                print("  (VeryHighLatency fired too)")
            mark = self.since()
            self.expect("HighLatency", "resolved", mark, 15)

    def redis_freezes(self):
        """The store behind the limits does not answer: it is told, and calls go on."""

        def freeze():
            self.on.signal("redis", signal.SIGSTOP)

        def thaw():
            status = stage.post(self.url("gateway", "/v1/chat/completions"), chat_body("fair", False), 5, KEY)
            if status != 200:
                self.failures.append(f"a call while the limit store was frozen ended with {status}")
            self.on.signal("redis", signal.SIGCONT)

        self.storm("the limit store freezes", freeze, thaw, [("RateLimitBackendDegraded", 8, 8, {})])

    def gateway_dies(self):
        """The gateway is gone: one message, not twelve."""

        def look_and_start():
            active = json.loads(stage.get(self.url("alertmanager", "/api/v2/alerts?inhibited=false&silenced=false")))
            loud = {one["labels"]["alertname"] for one in active if one["labels"].get("job", "choreoai") == "choreoai"}
            print(f"  not silenced: {', '.join(sorted(loud))}")
            if loud - {"ServiceDown", "Watchdog"}:
                self.failures.append(f"not silenced by ServiceDown: {sorted(loud - {'ServiceDown', 'Watchdog'})}")
            self.start_gateway()

        self.storm("the gateway is down", lambda: self.on.stop("gateway"), look_and_start, [("ServiceDown", 8, 8, {})])

    def perform(self):
        """All acts; what failed."""
        self.set_up()
        print(f"gateway {self.url('gateway')}, model {self.model}, Prometheus {self.url('prometheus')}", flush=True)
        self.panels_idle()
        self.panels_busy()
        self.names()
        self.expect("Watchdog", "firing", 0, 1)
        for act in (self.provider_fails, self.everything_fails, self.provider_freezes, self.redis_freezes, self.gateway_dies):
            act()
        self.load.close()
        return self.failures


def main():
    """Perform, clean up, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="the gateway")
    parser.add_argument("--speed", type=float, default=20, help="durations of the rules are divided by this")
    parser.add_argument("--model", default="", help="the demo provider's model; left out: the first it lists")
    parser.add_argument("--limit", type=int, default=900, help="seconds after which it gives up")
    parser.add_argument("--keep", default="", help="a folder for logs and data; left out: a temporary one")
    chosen = parser.parse_args()
    # Told to end, or out of time: leave by the way that stops what was started.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda number, _: sys.exit(f"FAIL live gate: ended by {signal.Signals(number).name}"))
    signal.alarm(chosen.limit)
    missing = stage.missing_programs()
    if missing:
        print(f"FAIL not installed: {', '.join(missing)} (Debian: prometheus prometheus-alertmanager redis-server)")
        return 1
    with tempfile.TemporaryDirectory() as temporary, stage.Stage(chosen.keep or temporary) as on:
        on.folder.mkdir(parents=True, exist_ok=True)
        play = Play(on, chosen.binary, chosen.speed, chosen.model)
        try:
            failures = play.perform()
        except (TimeoutError, OSError) as problem:
            failures = [*play.failures, f"could not go on: {problem}"]
            print(*(f"--- {name}\n{on.tail(name)}" for name in list(on.running)), sep="\n")
    return 0 if project.report("live gate", failures) else 1


if __name__ == "__main__":
    sys.exit(main())
