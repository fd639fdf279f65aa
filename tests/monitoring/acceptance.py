#!/usr/bin/env python3
"""Holds docs/monitoring-acceptance.md to itself: every row is there once, and the panels, alerts, files and anchors it names exist.

Must not judge whether a row is met well; the other checks and the reader do.
"""

import re
import sys

import project

PAGE = project.DOCS / "monitoring-acceptance.md"
# Rows by document and kind; E … X are about endpoints, services, files, variables, logs, traces and the rest.
COUNTS = {
    "001-M": 7, "000-M": 7, "002-M": 12, "003-M": 7, "004-M": 12,
    "001-Q": 5, "003-Q": 6, "004-Q": 8,
    "001-A": 9, "000-A": 4, "004-A": 9, "002-A": 1, "003-A": 1,
    "001-D": 1, "000-D": 4, "002-D": 4, "003-D": 1, "004-D": 3,
    "E": 5, "S": 9, "F": 6, "V": 4, "L": 3, "T": 1, "X": 11,
}  # fmt: skip
UNNUMBERED = {"own-M", "own-A", "own-D", "any-D"}


def rows(text):
    """(id, what meets it) of every row."""
    return re.findall(r"^\| ([\w-]+) \| [^|]* \| (.*) \|$", text, flags=re.M)


def check_ids(text):
    """Every row once, and no other."""
    wanted = {f"{prefix}{number}" for prefix, count in COUNTS.items() for number in range(1, count + 1)} | UNNUMBERED
    ids = [name for name, _ in rows(text) if name != "id"]
    found = [f"row {name} is missing" for name in sorted(wanted - set(ids))]
    found += [f"row {name} is unknown" for name in sorted(set(ids) - wanted)]
    return found + [f"row {name} is there twice" for name in sorted({one for one in ids if ids.count(one) > 1})]


def check_names(text):
    """Panels, alerts, recorded series and files that are named and do not exist."""
    titles = {panel["title"] for board in project.dashboards().values() for panel in project.panels(board)}
    records = {rule.get("record") for rule in project.rules()}
    body = text.split("## Metrics", 1)[1]
    found = [f"no panel «{title}»" for title in re.findall(r"«([^»]+)»", body) if title not in titles]
    found += [f"no alert {name}" for name in re.findall(r"\*\*(\w+)\*\*", body) if name not in project.alerts()]
    found += [f"no recorded series {name}" for name in re.findall(r"\bjob[a-z_]*:[\w:]+", body) if name not in records]
    paths = re.findall(r"`((?:alerts|grafana|logging|tracing|tests|docker-compose)[\w./-]*\.\w+)`", body)
    return found + [f"no file {path}" for path in paths if not (project.ROOT / path).exists()]


def check_links(path):
    """Links from a page to files and headings that do not exist."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        if not linked.exists():
            found.append(f"{path.name}: link to {target}, which is not there")
        elif anchor and anchor not in anchors(linked):
            found.append(f"{path.name}: no heading for {target}")
    return found


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_every_alert_met(text):
    """Alerts that no row names."""
    return [f"{name} is in no row" for name in project.alerts() if f"**{name}**" not in text]


def main():
    """Run every check; the exit status is 1 when one finds something."""
    text = PAGE.read_text(encoding="utf-8")
    pages = [PAGE, project.DOCS / "monitoring.md", project.DOCS / "queries.md", *sorted(project.RUNBOOKS.glob("*.md"))]
    good = [
        project.report("every promised row is in the acceptance table", check_ids(text)),
        project.report("what its rows name exists", check_names(text) + check_every_alert_met(text)),
        project.report("links between the pages hold", [what for path in pages for what in check_links(path)]),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
