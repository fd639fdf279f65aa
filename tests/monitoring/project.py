"""Where the monitoring files are and how to walk through them.

Must not judge anything: the checks do that.
"""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "alerts" / "rules"
RULE_TESTS = ROOT / "alerts" / "tests"
DASHBOARDS = ROOT / "grafana" / "dashboards"
DOCS = ROOT / "docs"
RUNBOOKS = DOCS / "runbooks"
TOOLS = ROOT / ".tools" / "monitoring"


def rule_files():
    """Every rule file with its parsed content."""
    return {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yml"))}


def rules():
    """Every rule of every group: a dict with `expr` and either `record` or `alert`."""
    return [rule for content in rule_files().values() for group in content["groups"] for rule in group["rules"]]


def alerts():
    """Alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def rule_tests():
    """Every promtool test file with its parsed content."""
    return {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULE_TESTS.glob("*_test.yml"))}


def dashboards():
    """Every dashboard with its parsed content."""
    return {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard):
    """The panels of a dashboard that show something: rows are headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def is_prometheus(thing):
    """Whether a panel, target or annotation asks Prometheus."""
    return thing.get("datasource", {}).get("type") == "prometheus"


def panel_queries(dashboard):
    """(panel, target, PromQL) for each Prometheus query of a dashboard."""
    return [
        (panel, target, target["expr"])
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
        if is_prometheus(target)
    ]


def annotation_queries(dashboard):
    """The PromQL of a dashboard's annotations."""
    return [one["expr"] for one in dashboard["annotations"]["list"] if is_prometheus(one)]


def variable_queries(dashboard):
    """The label_values(...) of a dashboard's variables."""
    return [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]


def fill_variables(expression, interval="5m", span="1h", values=None):
    """A panel's query as Prometheus gets it: variables replaced, by default with `All`."""
    values = values or {"job": ".+", "instance": ".+", "provider": ".*", "model": ".*"}
    filled = expression.replace("$__rate_interval", interval).replace("$__range", span)
    for name, value in values.items():
        filled = re.sub(rf"\${name}\b", lambda _: value, filled)
    return filled


def markdown_files():
    """Every page a user reads."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def code_blocks(text, language):
    """The fenced blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def promql_examples(text):
    """The queries of a page: each paragraph of its promql blocks, comments left out."""
    queries = []
    for block in code_blocks(text, "promql"):
        for paragraph in re.split(r"\n\s*\n", block):
            lines = [line for line in paragraph.splitlines() if not line.lstrip().startswith("#")]
            if any(line.strip() for line in lines):
                queries.append("\n".join(lines).strip())
    return queries


def report(name, findings):
    """Print findings of a check and say whether there were none."""
    for finding in findings:
        print(f"  {finding}")
    print(f"{'FAIL' if findings else 'ok  '} {name}" + (f": {len(findings)} findings" if findings else ""))
    return not findings
