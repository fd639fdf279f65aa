"""The stage of the live gate: processes on loopback, a copy of the rules in fast motion, a listener for alerts.

Must not know which alerts are expected or which panels exist: live.py directs.
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

import project

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def free_port():
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, timeout=5):
    """The text behind a URL."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode("utf-8")


def post(url, body, timeout, key="demo"):
    """The status of a call with a JSON body."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body.encode("utf-8"), headers), timeout=timeout) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code


def wait_until(condition, seconds, what):
    """Whatever the condition returns once it is true; TimeoutError names what did not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            result = condition()
            if result:
                return result
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.25)
    raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")


# --- Fast motion ------------------------------------------------------------------------------------------------------


def faster(duration, speed):
    """A duration like 5m, divided; at least a second."""
    number, unit = re.fullmatch(r"(\d+)([smhdw])", duration).groups()
    return f"{max(1, round(int(number) * SECONDS[unit] / speed))}s"


def faster_expression(expression, speed):
    """PromQL with every range and offset divided. Names of recorded series keep the word they were given."""
    text = re.sub(r"\[(\d+[smhdw])\]", lambda match: f"[{faster(match.group(1), speed)}]", expression)
    return re.sub(r"offset (\d+[smhdw])", lambda match: f"offset {faster(match.group(1), speed)}", text)


def faster_rules(source, target, speed):
    """Copies of the shipped rule files with every duration divided: the same rules, sooner."""
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in content["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule["expr"] = faster_expression(rule["expr"], speed)
                if "for" in rule:
                    rule["for"] = faster(rule["for"], speed)
        (target / path.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def prometheus_config(folder, ports):
    """The shipped scrape configuration with our ports and an interval of a second; profile services are left out."""
    config = yaml.safe_load((project.ROOT / "alerts" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"].update(scrape_interval="1s", scrape_timeout="1s", evaluation_interval="1s")
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{ports['alertmanager']}"]}]}]
    jobs = []
    for job in config["scrape_configs"]:
        name = {"choreoai": "gateway"}.get(job["job_name"], job["job_name"])
        if name in ports:
            job["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[name]}"]
            job.pop("file_sd_configs", None)
            jobs.append(job)
    config["scrape_configs"] = jobs
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def alertmanager_config(folder, listener):
    """The shipped routes and inhibitions, with every receiver replaced by our listener and short waits."""
    config = yaml.safe_load((project.ROOT / "alerts" / "alertmanager.yml").read_text(encoding="utf-8"))
    config["templates"] = []
    config["receivers"] = [
        {"name": one["name"], "webhook_configs": [{"url": f"{listener}/{one['name']}", "send_resolved": True}]}
        for one in config["receivers"]
    ]
    for route in [config["route"], *config["route"]["routes"]]:
        route.update(group_wait="1s", group_interval="2s", repeat_interval="1h")
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


# --- Who hears the alerts ---------------------------------------------------------------------------------------------


class Listener:
    """A webhook that remembers what arrived: (receiver, status, labels)."""

    def __init__(self):
        heard, self.heard = [], []
        self.heard = heard

        class Handler(BaseHTTPRequestHandler):
            """Takes Alertmanager's messages apart."""

            def do_POST(self):
                """One message with one or more alerts."""
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                heard.extend((self.path[1:], alert["status"], alert["labels"]) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                """Silence."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def has(self, name, status, since=0, **labels):
        """The receiver that heard of an alert, after the first `since` messages."""
        for receiver, state, seen in self.heard[since:]:
            if seen["alertname"] == name and state == status and labels.items() <= seen.items():
                return receiver
        return None

    def close(self):
        """Listen no more."""
        self.server.shutdown()


# --- Processes --------------------------------------------------------------------------------------------------------


class Stage:
    """Processes we started; all of them end with the stage, and no other does."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.running = {}

    def start(self, name, command):
        """Start a process; its output goes to a file of its name."""
        log = (self.folder / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=self.folder)
        return self.running[name]

    def signal(self, name, number):
        """Send a signal to one of ours."""
        self.running[name].send_signal(number)

    def stop(self, name):
        """End one of ours: politely, then not."""
        process = self.running.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def tail(self, name, lines=15):
        """The last lines a process wrote."""
        path = self.folder / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.stop(name)


def missing_programs():
    """Programs the live gate needs and this machine lacks."""
    return [name for name in ("prometheus", "prometheus-alertmanager", "redis-server") if shutil.which(name) is None]
