#!/usr/bin/env python3
"""The drift gate: what rules, panels, runbooks and pages name, against the /metrics of a running gateway, in both directions.

    drift.py METRICS_FILE_OR_URL

Every metric and label named anywhere must be exposed; every metric exposed must be on a dashboard or explained in docs/monitoring.md.
Must not know the gateway's metrics by heart: the running gateway is the only truth.
"""

import re
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import project
import promql

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
OURS = re.compile(r"\b((?:choreoai|process)_[a-z0-9_]+)(\{[^}`\n]*\})?")
# Series that come from Prometheus, Alertmanager or an exporter and not from the gateway. live.py asks a real Prometheus for them.
FOREIGN = re.compile(r"^(up|ALERTS|ALERTS_FOR_STATE|scrape_\w+|prometheus_\w+|alertmanager_\w+|redis_\w+)$")
# Labels with a closed set of values: a value that is asked for must occur.
CLOSED = {"le", "type", "usage_source"}
PARTS = ("_bucket", "_sum", "_count")
# Exposed only once a provider has said something: labels known from the gateway's reference, not from a scrape.
ON_DEMAND = {"choreoai_upstream_ratelimit_remaining": {"provider", "kind"}}


@dataclass
class Family:
    """One metric as the gateway exposes it."""

    kind: str = ""
    series: set = field(default_factory=set)
    labels: dict = field(default_factory=dict)  # label -> values seen


def read_metrics(source):
    """The text of a file or URL."""
    if source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source, timeout=10) as answer:
            return answer.read().decode("utf-8")
    return Path(source).read_text(encoding="utf-8")


def families(text):
    """Metric families by name, with series names and labels."""
    found, kinds = {}, dict(re.findall(r"^# TYPE (\S+) (\S+)", text, flags=re.M))
    for name, kind in kinds.items():
        found[name] = Family(kind)
    for line in text.splitlines():
        match = None if line.startswith("#") else SAMPLE.match(line)
        if match:
            name, labels, _ = match.groups()
            family = found.setdefault(family_name(name, kinds), Family())
            family.series.add(name)
            for label, value in LABEL.findall(labels or ""):
                family.labels.setdefault(label, set()).add(value)
    return found


def family_name(series, kinds):
    """The family a series belongs to: a histogram's parts and an OpenMetrics counter's `_total` under their base name."""
    for part in PARTS:
        base = series.removesuffix(part)
        if base != series and kinds.get(base) in ("histogram", "summary"):
            return base
    if series not in kinds and series.removesuffix("_total") in kinds:
        return series.removesuffix("_total")
    return series


def target_labels():
    """Labels that Prometheus adds to whatever it scrapes."""
    config = yaml.safe_load((project.ROOT / "alerts" / "prometheus.yml").read_text(encoding="utf-8"))
    labels = {"job", "instance"}
    for job in config["scrape_configs"]:
        for group in job.get("static_configs", []):
            labels |= set(group.get("labels", {}))
    return labels


class Gateway:
    """What a name in an expression can refer to: the gateway's metrics and our recorded series."""

    def __init__(self, text):
        self.families = families(text)
        self.by_series = {}
        for name, family in self.families.items():
            parts = [name + part for part in PARTS] if family.kind == "histogram" else [name, name + "_total"]
            for series in family.series | set(parts):
                self.by_series[series] = family
        self.added = target_labels()
        self.records = recorded_labels()

    def family(self, series):
        """The family of a series, or None."""
        return self.by_series.get(series)

    def labels(self, series):
        """The labels a series can have, or None when the series does not exist."""
        if series in self.records:
            return self.records[series]
        if series in ON_DEMAND and self.family(series) is None:
            return ON_DEMAND[series] | self.added
        family = self.family(series)
        if family is None:
            return None
        return set(family.labels) | self.added | ({"le"} if series.endswith("_bucket") else set())


def recorded_labels():
    """Labels of each recorded series: what its rule groups by, adds, or inherits from a record without grouping."""
    definitions = {}
    for rule in project.rules():
        if "record" in rule:
            definitions.setdefault(rule["record"], []).append(rule)

    def labels(name, seen):
        found = set()
        for rule in definitions.get(name, []):
            found |= set(rule.get("labels", {}))
            read, groupings = promql.read(rule["expr"])
            for one in groupings:
                found |= set(one.labels) if one.word == "by" else set()
            for one in read:
                if one.metric in definitions and one.metric not in seen:
                    found |= labels(one.metric, seen | {one.metric})
        return found

    return {name: labels(name, {name}) for name in definitions}


# --- What is named ----------------------------------------------------------------------------------------------------


def expressions():
    """(place, PromQL) of everything that asks Prometheus."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in project.rules()]
    for path, board in project.dashboards().items():
        for panel, target, text in project.panel_queries(board):
            found.append((f"{path.name} «{panel['title']}» {target['refId']}", text))
        found += [(f"{path.name} annotation", text) for text in project.annotation_queries(board)]
        for text in project.variable_queries(board):
            found.append((f"{path.name} variable", re.match(r"label_values\((.+), \w+\)", text).group(1)))
    for path in project.markdown_files():
        for text in project.promql_examples(path.read_text(encoding="utf-8")):
            found.append((f"{path.relative_to(project.ROOT)} example", text))
    return found


def check_expression(gateway, text):
    """Metrics, labels and closed values of one expression that the gateway does not have."""
    found = []
    read, groupings = promql.read(text)
    for one in read:
        labels = gateway.labels(one.metric)
        if FOREIGN.match(one.metric):
            continue
        if labels is None:
            found.append(f"no metric {one.metric}")
            continue
        found += [f"{one.metric} has no label {label}" for label in sorted(one.labels() - labels)]
        found += check_values(gateway, one)
    for group in groupings:
        inner = [one for one in read if group.start <= one.position <= group.end]
        if not inner or any(FOREIGN.match(one.metric) for one in inner):
            continue
        known = set().union(*(gateway.labels(one.metric) or set() for one in inner))
        found += [f"{group.word} ({label}): no metric there has it" for label in group.labels if label not in known]
    return found


def check_values(gateway, one):
    """Values asked for, of labels with a closed set of them, that never occur."""
    family, found = gateway.family(one.metric), []
    for label, operator, value in one.matchers:
        seen = family.labels.get(label, set()) if family and label in CLOSED else set()
        if operator not in ("=", "=~") or not seen:
            continue
        alike = seen | {f"{float(edge):g}" for edge in seen if label == "le" and edge != "+Inf"}
        if not any(re.fullmatch(value, have) if operator == "=~" else value == have for have in alike):
            found.append(f"{one.metric} has no {label} {operator} {value!r} (it has {', '.join(sorted(seen))})")
    return found


def section(name):
    """Metric names in the part of docs/monitoring.md between <!-- name --> and <!-- /name -->."""
    text = (project.DOCS / "monitoring.md").read_text(encoding="utf-8")
    part = re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", text, flags=re.S)
    return set(re.findall(r"\b(?:choreoai|process)_[a-z0-9_]+", part.group(1))) if part else set()


def check_pages(gateway):
    """Metrics and labels that pages name in running text: exposed, or in the list of those that wait."""
    found, waiting = [], section("waits")
    for path in project.markdown_files():
        for name, braces in OURS.findall(path.read_text(encoding="utf-8")):
            place = path.relative_to(project.ROOT)
            labels = gateway.labels(name) or (gateway.labels(name + "_bucket") if gateway.family(name + "_bucket") else None)
            if labels is None:
                found += [] if name in waiting or name in unprefixed(gateway) else [f"{place}: no metric {name}"]
                continue
            # Labels as names ({provider, model}) or with values ({status="429"}); PromQL variables are no labels.
            named = re.findall(r"(?<![\w$\"])([a-z_]+)(?=\s*(?:=|!|,|\}))", re.sub(r'"[^"]*"', '""', braces))
            found += [f"{place}: {name} has no label {label}" for label in named if label not in labels]
    return sorted(set(found))


def unprefixed(gateway):
    """Parts of recorded names that look like metrics: job:choreoai_errors:rate5m holds choreoai_errors."""
    return {part for name in gateway.records for part in name.split(":")}


# --- The other direction ----------------------------------------------------------------------------------------------


def check_shown(gateway):
    """Metrics that the gateway exposes and no dashboard shows, directly or through a record, and no page explains."""
    definitions = {}
    for rule in project.rules():
        if "record" in rule:
            definitions.setdefault(rule["record"], []).append(rule["expr"])
    todo = [text for board in project.dashboards().values() for _, _, text in project.panel_queries(board)]
    shown, seen = set(), set()
    while todo:
        for one in promql.selectors(todo.pop()):
            if one.metric in definitions and one.metric not in seen:
                seen.add(one.metric)
                todo += definitions[one.metric]
            family = gateway.family(one.metric)
            shown.add(id(family))
    explained = section("not on a dashboard")
    return [
        f"{name} is on no dashboard and not explained in docs/monitoring.md"
        for name, family in sorted(gateway.families.items())
        if id(family) not in shown and name not in explained and name + "_total" not in explained
    ]


def check_waiting(gateway):
    """Metrics said to wait for a later capability that are there already."""
    return [f"{name} no longer waits: show it and take it off the list" for name in sorted(section("waits")) if gateway.family(name)]


def main(arguments):
    """Compare; the exit status is 1 when something drifted."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    gateway = Gateway(read_metrics(arguments[0]))
    if not gateway.families:
        print(f"FAIL {arguments[0]} holds no metrics")
        return 1
    named = [f"{place}: {what}" for place, text in expressions() for what in check_expression(gateway, text)]
    good = [
        project.report("every metric and label in rules, panels and examples exists", sorted(set(named))),
        project.report("every metric and label in pages and runbooks exists", check_pages(gateway)),
        project.report(f"each of {len(gateway.families)} metrics is on a dashboard or explained", check_shown(gateway)),
        project.report("nothing waits that is already there", check_waiting(gateway)),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
