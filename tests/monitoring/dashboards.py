#!/usr/bin/env python3
"""Holds the dashboards to Grafana's own types, to the linter's rules and to a layout without overlaps.

Must not ask whether a metric exists: drift.py and live.py do. Needs the npm packages that run.sh installs; no Grafana.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import project
import promql

# Panel type -> where @grafana/schema describes its options.
PANEL_TYPES = {
    "bargauge": "bargauge",
    "gauge": "gauge",
    "heatmap": "heatmap",
    "logs": "logs",
    "piechart": "piechart",
    "row": None,
    "stat": "stat",
    "state-timeline": "statetimeline",
    "table": "table",
    "timeseries": "timeseries",
}
UNITS = {"bytes", "currencyUSD", "dtdurations", "none", "ops", "percentunit", "reqps", "s", "short"}
CUMULATIVE = {"rate", "irate", "increase"}
COUNTERS = ("_total", "_bucket", "_sum", "_count")
# Series that Prometheus makes itself, or that describe monitoring and not a gateway instance.
WITHOUT_INSTANCE = re.compile(r"^(ALERTS|prometheus_.*|threshold:.*|slo:.*)$")


# --- Grafana's types --------------------------------------------------------------------------------------------------

PRELUDE = """import type { Dashboard } from '@grafana/schema';
// String enums as the strings that stand in JSON.
type Lit<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends Array<infer U> ? Lit<U>[] : { [K in keyof T]: Lit<T[K]> };
// The same, with everything optional: Grafana fills in what a panel leaves out.
type Some<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends Array<infer U> ? Some<U>[] : { [K in keyof T]?: Some<T[K]> };
"""


def without_known_gaps(dashboard):
    """The dashboard less the keys that Grafana reads and its published types lack."""
    copy = json.loads(json.dumps(dashboard))
    for one in copy["templating"]["list"]:
        one.pop("definition", None)
    for one in copy["annotations"]["list"]:
        for key in ("expr", "step", "tagKeys", "textFormat", "titleFormat"):
            one.pop(key, None)
    return copy


def typescript(boards):
    """A program that compiles exactly when every dashboard, every panel's options and field settings fit Grafana's types."""
    lines = [PRELUDE]
    for kind, name in PANEL_TYPES.items():
        if name:
            alias = kind.replace("-", "_")
            path = f"./node_modules/@grafana/schema/dist/types/raw/composable/{name}/panelcfg/x/types.gen"
            lines.append(f"import type * as {alias} from '{path}';")
    for index, (path, board) in enumerate(boards.items()):
        body = json.dumps(without_known_gaps(board))
        lines.append(f"/* {path.name} */ export const d{index}: Lit<Dashboard> = {body};")
        for panel in project.panels(board):
            if PANEL_TYPES.get(panel["type"]):
                lines += panel_typescript(f"{path.name} «{panel['title']}»", f"p{index}_{panel['id']}", panel)
    return "\n".join(lines) + "\n"


def panel_typescript(where, name, panel):
    """The options, and where the plugin has some the field settings, of one panel as typed constants."""
    alias = panel["type"].replace("-", "_")
    options = json.dumps(panel["options"])
    made = [f"/* {where} options */ export const {name}_o: Some<{alias}.Options> = {options};"]
    custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
    if custom:
        made.append(f"/* {where} custom */ export const {name}_c: Some<{alias}.FieldConfig> = {json.dumps(custom)};")
    return made


def check_types(boards):
    """What tsc says."""
    source = project.TOOLS / "dashboards.ts"
    source.write_text(typescript(boards), encoding="utf-8")
    command = ["node", "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--skipLibCheck"]
    command += ["--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", source.name]
    done = subprocess.run(command, cwd=project.TOOLS, capture_output=True, text=True, timeout=120)
    lines = source.read_text(encoding="utf-8").splitlines()
    return [name_the_place(line, lines) for line in done.stdout.splitlines() if line.startswith(source.name)]


def name_the_place(message, lines):
    """A compiler message with the dashboard and panel instead of a line number."""
    number = int(re.match(r".*?\((\d+),", message).group(1))
    place = re.match(r"/\* (.*?) \*/", lines[number - 1])
    return f"{place.group(1) if place else number}: {message.split(': ', 1)[1][:300]}"


# --- The linter's rules -----------------------------------------------------------------------------------------------


def check_dashboard(board):
    """Rules about the dashboard as a whole."""
    found = []
    if board.get("editable") is not False:
        found.append("can be edited in the browser: editable must be false")
    variables = {one["name"]: one for one in board["templating"]["list"]}
    if variables.get("datasource", {}).get("type") != "datasource":
        found.append("has no `datasource` variable")
    for name, label in (("job", "Job"), ("instance", "Instance")):
        found += [f"variable {name}: {what}" for what in check_variable(variables.get(name, {}), label)]
    for name, one in variables.items():
        if one["type"] == "query" and one.get("refresh") != 2:
            found.append(f"variable {name} is not read again when the time range changes (refresh 2)")
        if one["type"] == "query" and not re.fullmatch(r"label_values\(.+, \w+\)", one["query"]["query"]):
            found.append(f"variable {name} is no label_values query")
    return found


def check_variable(one, label):
    """Rules about `job` and `instance`."""
    wanted = {"type": "query", "label": label, "multi": True, "allValue": ".+"}
    found = [f"{key} is {one.get(key)!r}, not {value!r}" for key, value in wanted.items() if one.get(key) != value]
    if one.get("datasource", {}).get("uid") != "${datasource}":
        found.append("does not ask ${datasource}")
    return found


def check_panel(panel):
    """Rules about one panel."""
    found = []
    if panel["type"] not in PANEL_TYPES:
        found.append(f"unknown panel type {panel['type']!r}")
    for key in ("title", "description"):
        if not panel.get(key, "").strip():
            found.append(f"has no {key}")
    uid = panel.get("datasource", {}).get("uid")
    if uid not in ("${datasource}", "${loki}", "${jaeger}"):
        found.append(f"asks a fixed data source ({uid!r})")
    if not panel.get("targets"):
        found.append("has no query")
    if panel["type"] != "logs":
        defaults = panel["fieldConfig"]["defaults"]
        if defaults.get("unit") not in UNITS:
            found.append(f"unit {defaults.get('unit')!r} is none of those we use")
        if not defaults.get("noValue"):
            found.append("says `No data` where nothing happened: noValue is missing")
    return found


def check_query(expression):
    """Rules about one PromQL query."""
    found = []
    for one in promql.selectors(expression):
        matchers = {(label, operator, value) for label, operator, value in one.matchers}
        if not WITHOUT_INSTANCE.match(one.metric) and expression != "count(up == 0) or vector(0)":
            for label in ("job", "instance"):
                if (label, "=~", f"${label}") not in matchers:
                    found.append(f"{one.metric} is not narrowed to ${label}")
        if one.metric.startswith("slo:sli") and ("job", "=~", "$job") not in matchers:
            found.append(f"{one.metric} is not narrowed to $job")
        around = CUMULATIVE & set(one.inside)
        if one.metric.endswith(COUNTERS) and ":" not in one.metric and not around:
            found.append(f"the counter {one.metric} is shown without rate() or increase()")
        if around & {"rate", "irate"} and one.window != "[$__rate_interval]":
            found.append(f"rate of {one.metric} over {one.window}, not [$__rate_interval]")
    return found


def check_layout(board):
    """Panels with one id, or in one another's place."""
    found, ids, taken = [], set(), {}
    for panel in board["panels"]:
        if panel["id"] in ids:
            found.append(f"id {panel['id']} is there twice")
        ids.add(panel["id"])
        size = panel["gridPos"]
        if size["x"] + size["w"] > 24:
            found.append(f"«{panel['title']}» reaches over the right edge")
        for x in range(size["x"], size["x"] + size["w"]):
            for y in range(size["y"], size["y"] + size["h"]):
                if (x, y) in taken:
                    found.append(f"«{panel['title']}» lies over «{taken[x, y]}»")
                    break
                taken[x, y] = panel["title"]
    return sorted(set(found))


def lint(boards):
    """All linter findings."""
    found, uids = [], set()
    for path, board in boards.items():
        found += [f"{path.name}: {what}" for what in check_dashboard(board) + check_layout(board)]
        if board["uid"] in uids or f"{board['uid']}.json" != path.name:
            found.append(f"{path.name}: uid {board['uid']!r} must be unique and the file's name")
        uids.add(board["uid"])
        for panel in project.panels(board):
            found += [f"{path.name} «{panel.get('title')}»: {what}" for what in check_panel(panel)]
        for panel, target, expression in project.panel_queries(board):
            where = f"{path.name} «{panel['title']}» {target['refId']}"
            found += [f"{where}: {what}" for what in check_query(expression)]
    return found


# --- The query languages ----------------------------------------------------------------------------------------------


def check_promql(boards):
    """What promtool says of every panel's and annotation's query."""
    queries = {}
    for path, board in boards.items():
        for panel, target, expression in project.panel_queries(board):
            queries[f"{path.name} «{panel['title']}» {target['refId']}"] = expression
        for index, expression in enumerate(project.annotation_queries(board)):
            queries[f"{path.name} annotation {index}"] = expression
    for path in project.markdown_files():
        for index, expression in enumerate(project.promql_examples(path.read_text(encoding="utf-8"))):
            queries[f"{path.name} example {index}"] = expression
    return parse_all(queries)


def parse_all(queries):
    """Findings of promtool about (place -> PromQL), by way of a rule file made of them."""
    rules = [{"record": f"q:{n}", "expr": project.fill_variables(text)} for n, text in enumerate(queries.values())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queries.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    places = list(queries)
    found = re.findall(r'rule (\d+), "q:\d+": (.*)', done.stdout + done.stderr)
    named = [f"{places[int(number) - 1]}: {what}" for number, what in found]
    return named or ([done.stderr.strip()] if done.returncode else [])


LOGQL = """import { parser } from '@grafana/lezer-logql';
import { readFileSync } from 'node:fs';
for (const [place, text] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
  let broken = false;
  parser.parse(text).iterate({ enter: (node) => { broken ||= node.type.isError; } });
  if (broken) console.log(`${place}: not LogQL: ${text}`);
}
"""


def check_logql(boards):
    """What Grafana's LogQL parser says of every Loki query."""
    queries, found = {}, []
    for path, board in boards.items():
        for panel in project.panels(board):
            for target in panel["targets"]:
                if target["datasource"]["type"] == "loki":
                    queries[f"{path.name} «{panel['title']}»"] = target["expr"].replace("$__auto", "5m")
                    if "[" in target["expr"] and "[$__auto]" not in target["expr"]:
                        found.append(f"{path.name} «{panel['title']}»: a range other than [$__auto]")
    script = project.TOOLS / "logql.mjs"
    script.write_text(LOGQL, encoding="utf-8")
    done = subprocess.run(["node", script], input=json.dumps(queries), capture_output=True, text=True, timeout=60)
    return found + done.stdout.splitlines() + ([done.stderr] if done.returncode else [])


def check_written():
    """Whether the JSON is what the generator writes."""
    command = [sys.executable, project.ROOT / "grafana" / "build.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def main():
    """Run every check; the exit status is 1 when one finds something."""
    boards = project.dashboards()
    good = [
        project.report("dashboards are what grafana/build.py writes", check_written()),
        project.report(f"{len(boards)} dashboards fit @grafana/schema", check_types(boards)),
        project.report("dashboards keep the linter's rules", lint(boards)),
        project.report("every panel, annotation and documented query is PromQL", check_promql(boards)),
        project.report("every Loki query is LogQL", check_logql(boards)),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
