#!/usr/bin/env python3
"""Holds rules and scrape configuration to promtool, to their unit tests, and to what every alert must carry.

Must not need a running Prometheus.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import project
import promql

SEVERITIES = {"critical", "warning", "info", "none"}
AREAS = {"availability", "latency", "capacity", "cost", "billing", "slo", "monitoring"}
# Numbers that are part of a definition and not a matter of taste: yes/no states, zero, units, the burn rates of the SRE workbook,
# and the ten minutes of NoRequestsReceived, which stand in a range and cannot be a recorded number.
DEFINITIONS = {"0", "1", "2", "0.95", "24", "600", "14.4", "6", "3"}


def promtool(*arguments, folder=project.ROOT):
    """What promtool prints when it is not content."""
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        return []
    text = done.stdout + done.stderr
    return [line.strip() for line in text.splitlines() if line.strip() and "SUCCESS" not in line]


def check_configuration():
    """prometheus.yml and every rule file it names."""
    return promtool("check", "config", "alerts/prometheus.yml")


def check_unit_tests():
    """Every test file; two at a time, because the machine has others to serve."""
    files = sorted(project.rule_tests())

    def run(path):
        return [f"{path.name}: {line}" for line in promtool("test", "rules", path.name, folder=path.parent)]

    with ThreadPoolExecutor(2) as pool:
        return [line for lines in pool.map(run, files) for line in lines]


def check_alert(name, rule):
    """What one alert must carry."""
    found = []
    labels, notes = rule.get("labels", {}), rule.get("annotations", {})
    if labels.get("severity") not in SEVERITIES:
        found.append(f"severity {labels.get('severity')!r} is unknown")
    if labels.get("area") not in AREAS:
        found.append(f"area {labels.get('area')!r} is unknown")
    for key in ("summary", "description"):
        if not notes.get(key):
            found.append(f"has no {key}")
    if notes.get("runbook_url") != f"{{{{ $externalLabels.runbooks }}}}/{name}.md":
        found.append(f"runbook_url does not lead to {name}.md")
    if not (project.RUNBOOKS / f"{name}.md").exists():
        found.append(f"docs/runbooks/{name}.md is missing")
    board = re.fullmatch(r"\{\{ \$externalLabels\.grafana \}\}/d/([\w-]+)", notes.get("dashboard", ""))
    if not board or not (project.DASHBOARDS / f"{board.group(1)}.json").exists():
        found.append("dashboard leads to no dashboard of ours")
    return [f"{name}: {what}" for what in found]


def check_numbers(name, rule):
    """Whether an alert compares with a number of its own instead of a threshold."""
    numbers = {text for kind, text, _ in promql.tokens(rule["expr"]) if kind == "number"}
    durations = {text for text in numbers if re.fullmatch(r"\d+[smhdwy]", text)}
    return [f"{name}: the number {number} belongs in thresholds.rules.yml" for number in numbers - durations - DEFINITIONS]


def check_thresholds():
    """Every threshold that is read is defined once, and every one defined is read."""
    defined = [rule["record"] for rule in project.rules() if rule.get("record", "").startswith("threshold:")]
    texts = [rule["expr"] for rule in project.rules()]
    texts += [text for board in project.dashboards().values() for _, _, text in project.panel_queries(board)]
    read = {one.metric for text in texts for one in promql.selectors(text) if one.metric.startswith("threshold:")}
    found = [f"{name} is read and nowhere defined" for name in sorted(read - set(defined))]
    found += [f"{name} is defined and read by nothing" for name in sorted(set(defined) - read)]
    return found + [f"{name} is defined twice" for name in sorted({n for n in defined if defined.count(n) > 1})]


def check_coverage():
    """Every alert is seen silent and firing by name, and healthy_test.yml holds every metric that alerts read."""
    firing, silent = set(), set()
    for content in project.rule_tests().values():
        for test in content["tests"]:
            for one in test.get("promql_expr_test", []):
                names = re.findall(r'alertname="(\w+)"', one["expr"])
                (firing if one.get("exp_samples") else silent).update(names)
    always = {"Watchdog"}
    found = [f"{name}: no unit test sees it fire" for name in project.alerts() if name not in firing]
    found += [f"{name}: no unit test sees it silent" for name in project.alerts() if name not in silent | always]
    healthy = project.rule_tests()[project.RULE_TESTS / "healthy_test.yml"]
    series = {re.match(r"[\w:]+", one["series"]).group() for one in healthy["tests"][0]["input_series"]}
    missing = read_by_alerts() - series
    return found + [f"healthy_test.yml has no {name}, which an alert reads" for name in sorted(missing)]


def read_by_alerts():
    """Every raw metric an alert rests on, directly or through records."""
    records = {}
    for rule in project.rules():
        if "record" in rule:
            records.setdefault(rule["record"], []).append(rule["expr"])
    raw, todo, seen = set(), [rule["expr"] for rule in project.alerts().values()], set()
    while todo:
        for one in promql.selectors(todo.pop()):
            if one.metric in records and one.metric not in seen:
                seen.add(one.metric)
                todo += records[one.metric]
            elif ":" not in one.metric:
                raw.add(one.metric)
    return raw


def main():
    """Run every check; the exit status is 1 when one finds something."""
    alerts = project.alerts()
    carried = [what for name, rule in alerts.items() for what in check_alert(name, rule) + check_numbers(name, rule)]
    stray = [path.name for path in project.RUNBOOKS.glob("*.md") if path.stem not in alerts and path.stem != "README"]
    good = [
        project.report("promtool accepts prometheus.yml and its rules", check_configuration()),
        project.report("rule unit tests", check_unit_tests()),
        project.report(f"{len(alerts)} alerts carry what they must", carried),
        project.report("every runbook belongs to an alert", [f"{name} is about no alert" for name in stray]),
        project.report("every threshold stands once", check_thresholds()),
        project.report("every alert is tested", check_coverage()),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
