#!/usr/bin/env python3
"""Good and bad weather for a gateway with its demo provider: panels move, and an alert fires within five minutes.

    weather.py [--url http://127.0.0.1:8000] [--key sk-demo] [--prometheus http://127.0.0.1:9090] [--storm 4]

A minute of fair weather, a storm of so many minutes, and two minutes to recover. Alerts are told as they come and go, where Prometheus
answers. Must not start or change anything: it calls and looks.
"""

import argparse
import json
import signal
import sys
import time
import urllib.error
import urllib.request

from load import Load, chat, fair_weather

# Calls per second, by the demo provider's models: what each does is in the model's own description (GET /v1/models of the provider).
STORM = {"broken": 2.0, "flaky": 3.0, "limited": 1.0, "silent": 1.0, "unpriced": 1.0, "slow": 0.5, "cut": 0.5}
STREAMED = {"slow", "cut", "silent"}
RATE = 15
# Alerts that say nothing about the weather.
CONSTANT = {"Watchdog"}


def get(url, key=""):
    """The JSON behind a URL."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def check(url, key):
    """Leaves with a plain word when there is no gateway, or none with a demo provider."""
    try:
        listed = {one["id"] for one in get(f"{url}/v1/models", key)["data"]}
    except urllib.error.HTTPError as answer:
        sys.exit(f"{url} answered {answer.code}: is --key one of the gateway's keys?")
    except OSError as problem:
        sys.exit(f"no gateway at {url} ({problem}); start one with `docker compose -f docker-compose.monitoring.yml up -d` or `make run`")
    missing = [f"demo/{name}" for name in ["echo", *STORM] if f"demo/{name}" not in listed]
    if missing:
        sys.exit(f"{url} has no {', '.join(missing)}: the demo provider runs where no provider is configured")


class Alerts:
    """What fires in Prometheus, told as it changes."""

    def __init__(self, url):
        self.url, self.firing, self.is_there = url, set(), True

    def look(self, since):
        """Tell what has begun to fire, and what has ended."""
        try:
            alerts = get(f"{self.url}/api/v1/alerts")["data"]["alerts"]
        except OSError:
            if self.is_there:
                print(f"{clock(since)} (no Prometheus at {self.url}: look at your own)", flush=True)
            self.is_there = False
            return
        firing = {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"} - CONSTANT
        for name in sorted(firing - self.firing):
            print(f"{clock(since)} FIRING   {name}: docs/runbooks/{name}.md", flush=True)
        for name in sorted(self.firing - firing):
            print(f"{clock(since)} resolved {name}", flush=True)
        self.firing, self.is_there = firing, True


def clock(since):
    """Minutes and seconds since the beginning."""
    passed = int(time.monotonic() - since)
    return f"{passed // 60:2d}:{passed % 60:02d}"


def let_pass(minutes, alerts, since):
    """Wait, and tell what fires meanwhile."""
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        alerts.look(since)
        time.sleep(max(0.0, min(5.0, end - time.monotonic())))


def main():
    """Fair, foul, fair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="sk-demo")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--storm", type=float, default=4, help="minutes of bad weather")
    chosen = parser.parse_args()
    check(chosen.url, chosen.key)
    load, alerts, since = Load(chosen.url, chosen.key), Alerts(chosen.prometheus), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        print(f"{clock(since)} fair weather: Overview, Latency and streaming, Tokens and cost begin to move", flush=True)
        fair_weather(load, "demo/echo", RATE)
        let_pass(1, alerts, since)
        print(f"{clock(since)} storm: see Providers and models; CircuitBreakerOpen is due within three minutes", flush=True)
        for name, rate in STORM.items():
            load.add(name, chat(f"demo/{name}", stream=name in STREAMED), rate)
        let_pass(chosen.storm, alerts, since)
        print(f"{clock(since)} it clears up", flush=True)
        for name in STORM:
            load.rates[name] = 0
        let_pass(2, alerts, since)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        load.close()
    for (kind, outcome), count in sorted(load.counts.items(), key=str):
        print(f"{count:6d} {kind}: {outcome}")


if __name__ == "__main__":
    main()
