#!/usr/bin/env python3
"""Breaks one thing at a time in a copy of the monitoring files and demands that the check named beside it notices.

    mutations.py [CHECK.py ...] [--metrics FILE]      FILE: the /metrics of a running gateway, for drift.py

Must not touch the repository: it works on copies in a temporary folder. Slower than the checks themselves, so not part of run.sh.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import project

COPIED = ["alerts", "docs", "grafana", "logging", "tracing", "tests/monitoring", "docker-compose.monitoring.yml", "README.md"]


def copy_to(folder):
    """A copy of everything the checks read; the installed tools are linked."""
    for name in COPIED:
        source, target = project.ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    (folder / ".tools").mkdir()
    tools = folder / ".tools" / "monitoring"
    tools.mkdir()
    for one in project.TOOLS.iterdir():
        if not one.name.endswith((".ts", ".mjs")):
            os.symlink(one, tools / one.name)


def replace(path, old, new):
    """A mutation of text; the old text must be there, or the mutation is itself out of date."""

    def mutate(root):
        text = (root / path).read_text(encoding="utf-8")
        if old not in text:
            raise LookupError(f"{path} no longer holds {old!r}")
        (root / path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return mutate


def reshape(board, change):
    """A mutation of a dashboard's JSON."""

    def mutate(root):
        path = root / "grafana" / "dashboards" / f"{board}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content, [panel for panel in content["panels"] if panel["type"] != "row"])
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    return mutate


def panel_defaults(index, key, value):
    """A change of one field setting of the overview's panel."""
    return lambda board, panels: panels[index]["fieldConfig"]["defaults"].__setitem__(key, value)


def panel_key(index, key, value):
    """A change of one key of the overview's panel."""
    return lambda board, panels: panels[index].__setitem__(key, value)


def query_replace(index, old, new):
    """A change in the first query of the overview's panel."""
    return lambda board, panels: panels[index]["targets"][0].__setitem__(
        "expr", panels[index]["targets"][0]["expr"].replace(old, new)
    )


def append(path, text):
    """A mutation that adds to a file."""

    def mutate(root):
        with (root / path).open("a", encoding="utf-8") as file:
            file.write(text)

    return mutate


METRICS = "metrics.txt"
OVERVIEW = "choreoai-overview"
ALERTS, RECORDS = "alerts/rules/alerts.rules.yml", "alerts/rules/recording.rules.yml"
SLO, THRESHOLDS = "alerts/rules/slo.rules.yml", "alerts/rules/thresholds.rules.yml"
COMPOSE, ROUTES = "docker-compose.monitoring.yml", "alerts/alertmanager.yml"

# check -> (what is broken, how, what the finding must say)
MUTATIONS = {
    "dashboards.py": [
        ("a panel type Grafana does not have", reshape(OVERVIEW, panel_key(0, "type", "stats")), "unknown panel type"),
        ("a unit nobody knows", reshape(OVERVIEW, panel_defaults(0, "unit", "suffix:req")), "unit"),
        ("a unit of the wrong type", reshape(OVERVIEW, panel_defaults(0, "unit", 7)), "Type 'number'"),
        ("a position that is text", reshape(OVERVIEW, lambda b, p: p[0]["gridPos"].update(w="6")), "Type 'string'"),
        ("a threshold mode that does not exist", reshape(OVERVIEW, lambda b, p: p[0]["fieldConfig"]["defaults"]["thresholds"].update(mode="abs")), "abs"),
        ("a misspelt key", reshape(OVERVIEW, panel_key(0, "titel", "x")), "titel"),
        ("a misspelt option", reshape(OVERVIEW, lambda b, p: p[0]["options"].update(colourMode="value")), "colourMode"),
        ("a drawing style that does not exist", reshape(OVERVIEW, lambda b, p: p[13]["fieldConfig"]["defaults"]["custom"].update(drawStyle="wavy")), "wavy"),
        ("a variable of an unknown type", reshape(OVERVIEW, lambda b, p: b["templating"]["list"][1].update(type="querry")), "querry"),
        ("a tooltip mode out of range", reshape(OVERVIEW, lambda b, p: b.update(graphTooltip=9)), "9"),
        ("links that are no list", reshape(OVERVIEW, panel_key(0, "links", {})), "missing the following properties"),
        ("an editable dashboard", reshape(OVERVIEW, lambda b, p: b.update(editable=True)), "editable"),
        ("no description", reshape(OVERVIEW, panel_key(0, "description", "")), "description"),
        ("a fixed data source", reshape(OVERVIEW, panel_key(0, "datasource", {"type": "prometheus", "uid": "abc"})), "fixed data source"),
        ("panels over one another", reshape(OVERVIEW, lambda b, p: p[1]["gridPos"].update(x=0)), "lies over"),
        ("an id twice", reshape(OVERVIEW, lambda b, p: p[1].update(id=p[0]["id"])), "twice"),
        ("a fixed rate window", reshape(OVERVIEW, query_replace(6, "$__rate_interval", "5m")), "not [$__rate_interval]"),
        ("a counter without rate", reshape(OVERVIEW, query_replace(4, "choreoai_requests_in_flight", "choreoai_requests_total")), "without rate"),
        ("a selector without the job", reshape(OVERVIEW, query_replace(0, 'job=~"$job",', "")), "not narrowed to $job"),
        ("broken PromQL", reshape(OVERVIEW, query_replace(6, "sum(", "sum((")), "choreoai-overview"),
        ("broken LogQL", reshape("choreoai-logs", lambda b, p: p[1]["targets"][0].update(expr='{service="choreoai"} | json |')), "not LogQL"),
        ("JSON edited by hand", reshape(OVERVIEW, panel_key(0, "title", "Health")), "is not what grafana/build.py writes"),
    ],
    "rules.py": [
        ("an unbalanced expression", replace(RECORDS, "sum by (job) (rate(", "sum by (job) ((rate("), "recording.rules.yml"),
        ("a comparison the other way round", replace(ALERTS, "p95_5m > scalar(threshold:latency_seconds)", "p95_5m < scalar(threshold:latency_seconds)"), "latency_test.yml"),
        ("errors of callers counted", replace(RECORDS, "rate_limited|", ""), "healthy_test.yml"),
        ("a ratio without its guard", replace(RECORDS, "job:choreoai_errors:rate5m / (job:choreoai_requests:rate5m > 0)", "job:choreoai_errors:rate5m / job:choreoai_requests:rate5m"), "traps_test.yml"),
        ("no zero before the first error", replace(RECORDS, "          or 0 * job:choreoai_requests:rate5m\n", ""), "traps_test.yml"),
        ("a slow burn without a past", replace(SLO, "          and on (job, slo) count_over_time(slo:sli_events:rate5m[1h] offset 6h) > 0\n", ""), "slo_test.yml"),
        ("an objective out of place", replace(THRESHOLDS, "vector(1 - 0.995)", "vector(1 - 0.5)"), "slo_test.yml"),
        ("a threshold nobody defines", replace(THRESHOLDS, "record: threshold:queue_size", "record: threshold:queue_length"), "threshold:queue_size"),
        ("a number inside an alert", replace(ALERTS, "> scalar(threshold:queue_size)", "> 50"), "QueueBacklog"),
        ("an alert nobody tests", replace("alerts/tests/monitoring_test.yml", 'alertname="ConfigReloadFailed",alertstate="firing",', 'alertname="ConfigReloadFailedX",alertstate="firing",'), "ConfigReloadFailed"),
        ("a message that misnames a label", replace(ALERTS, "to {{ $labels.provider }} fail", "to {{ $labels.povider }} fail"), "messages_test.yml"),
        ("a runbook link to another alert", replace(ALERTS, "/QueueBacklog.md", "/HighLatency.md"), "runbook"),
        ("an unknown severity", replace(ALERTS, "severity: info", "severity: notice"), "severity"),
        ("a scrape configuration with a misspelt key", replace("alerts/prometheus.yml", "scrape_interval", "scrape_intervall"), "prometheus.yml"),
    ],
    "alerting.py": [
        ("a receiver that does not exist", replace(ROUTES, "receiver: chat", "receiver: chatt"), "chatt"),
        ("critical alerts sent to nobody", replace(ROUTES, "      receiver: pager\n", "      receiver: nobody\n"), "pager"),
        ("a secret in the file", replace(ROUTES, "api_url_file: /etc/alertmanager/secrets/slack_webhook_url", "api_url: https://hooks.slack.com/services/T/B/x"), "secret"),
        ("an inhibition that lost its label", replace(ROUTES, "equal: [job, provider]", "equal: [job]"), "CircuitBreakerOpen"),
        ("a template nobody defines", replace("alerts/templates/choreoai.tmpl", 'define "choreoai.text"', 'define "choreoai.txt"'), "choreoai.text"),
    ],
    "compose.py": [
        ("a misspelt key", replace(COMPOSE, "healthcheck:", "healtcheck:"), "healtcheck"),
        ("a port open to the world", replace(COMPOSE, "127.0.0.1:${PROMETHEUS_PORT", "0.0.0.0:${PROMETHEUS_PORT"), "loopback"),
        ("an unpinned image", replace(COMPOSE, "prom/alertmanager:v", "prom/alertmanager:latest # v"), "pinned"),
        ("a service without a limit", replace(COMPOSE, "memory: 512M", "pids: 100"), ""),
        ("traces sent to a store that is not there", replace("tracing/jaeger.yml", "trace_storage: recent", "trace_storage: recnt"), "store that is not there"),
        ("a volume nobody declares", replace(COMPOSE, "  loki_data:\n", ""), "loki_data"),
        ("a link to a data source that is not there", replace("grafana/provisioning/datasources/datasources.yml", "datasourceUid: jaeger", "datasourceUid: tempo"), "tempo"),
        ("a mounted file that is not there", replace(COMPOSE, "./alerts:/etc/prometheus", "./alarms:/etc/prometheus"), "alarms"),
    ],
    "acceptance.py": [
        ("a row left out", replace("docs/monitoring-acceptance.md", "| 001-A5 |", "| 001-A55 |"), "001-A5 is missing"),
        ("a panel renamed", replace("docs/monitoring-acceptance.md", "«Queue wait p95»", "«Queue wait»"), "«Queue wait»"),
        ("an alert renamed", replace(ALERTS, "alert: QueueBacklog", "alert: Backlog"), "QueueBacklog"),
        ("a link to nowhere", replace("docs/monitoring.md", "(queries.md)", "(question.md)"), "question.md"),
    ],
    "drift.py": [
        ("a panel of a metric that does not exist", reshape(OVERVIEW, query_replace(5, "choreoai_active_connections", "choreoai_active_conns")), "no metric choreoai_active_conns"),
        ("a panel grouped by a label that does not exist", reshape("choreoai-security", lambda b, p: p[2]["targets"][0].update(expr=p[2]["targets"][0]["expr"].replace("by (scope, limit)", "by (scope, kind)"))), "by (kind)"),
        ("an alert that filters on a label that does not exist", replace(ALERTS, "(choreoai_circuit_breaker_state) == 2", '(choreoai_circuit_breaker_state{name="x"}) == 2'), "no label name"),
        ("a usage source nobody writes", reshape("choreoai-cost", lambda b, p: [q["targets"][0].update(expr=q["targets"][0]["expr"].replace('"estimated"', '"guessed"')) for q in p]), "guessed"),
        ("a bucket edge that is none", replace(SLO, 'le="0.01"', 'le="0.015"'), "0.015"),
        ("a runbook's query of an old name", replace("docs/runbooks/QueueBacklog.md", "choreoai_queue_size", "choreoai_queue_length"), "choreoai_queue_length"),
        ("a page's label that does not exist", replace("docs/monitoring-acceptance.md", "choreoai_queue_size{provider}", "choreoai_queue_size{pool}"), "no label pool"),
        ("a metric renamed in the gateway", replace(METRICS, "# TYPE choreoai_active_connections gauge\nchoreoai_active_connections", "# TYPE choreoai_open_connections gauge\nchoreoai_open_connections"), "no metric choreoai_active_connections"),
        ("a metric nobody shows", append(METRICS, "# TYPE choreoai_new_total counter\nchoreoai_new_total 0\n"), "choreoai_new_total is on no dashboard"),
        ("a capability that arrived without its panels", append(METRICS, '# TYPE choreoai_cache_hits_total counter\nchoreoai_cache_hits_total{cache="exact"} 0\n'), "no longer waits"),
    ],
}  # fmt: skip


def run(check, root):
    """(exit status, output) of one check in a copy."""
    command = [sys.executable, root / "tests" / "monitoring" / check]
    command += [root / METRICS] if check == "drift.py" else []
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=180)
    return done.returncode, done.stdout + done.stderr


def survives(check, what, mutate, says, metrics):
    """Why a mutation went unnoticed, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_to(root)
        if metrics:
            shutil.copy(metrics, root / METRICS)
        mutate(root)
        status, output = run(check, root)
    if status == 0:
        return f"{check} did not notice {what}"
    if says not in output:
        return f"{check} noticed {what}, but did not say {says!r}:\n{output[:600]}"
    return ""


def main():
    """Try every mutation (or those of the checks named); the exit status is 1 when one went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK.py")
    parser.add_argument("--metrics", help="the /metrics of a running gateway")
    chosen = parser.parse_args()
    bad, count = [], 0
    for check, mutations in MUTATIONS.items():
        if (chosen.checks and check not in chosen.checks) or (check == "drift.py" and not chosen.metrics):
            continue
        for what, mutate, says in mutations:
            problem = survives(check, what, mutate, says, chosen.metrics)
            print(f"{'MISSED' if problem else 'caught'} {check}: {re.sub(chr(10), ' ', what)}", flush=True)
            count += 1
            bad += [problem] if problem else []
    print(*bad, sep="\n")
    print(f"{count - len(bad)} of {count} mutations caught")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
