#!/usr/bin/env python3
"""Writes grafana/dashboards/*.json from grafana/boards/*.py; with --check only says whether they are the same.

Must not know what any panel shows: that is the boards' matter, and how a panel looks in JSON is kit.py's.
"""

import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE / "dashboards"
BOARDS = ["overview", "providers", "latency", "cost", "capacity", "security", "slo", "runtime", "logs"]


def render(board):
    """The text of one dashboard's file."""
    module = importlib.import_module(f"boards.{board}")
    return json.dumps(module.dashboard(), indent=2, ensure_ascii=False) + "\n"


def differs(path, text):
    """Whether the file holds anything else than the text."""
    return not path.exists() or path.read_text(encoding="utf-8") != text


def main(arguments):
    """Write or check every dashboard; the exit status is 1 when a check finds a difference."""
    sys.path.insert(0, str(HERE))
    wanted = {OUT / f"choreoai-{board}.json": render(board) for board in BOARDS}
    stale = [path for path, text in wanted.items() if differs(path, text)]
    stray = [path for path in OUT.glob("*.json") if path not in wanted]
    if "--check" in arguments:
        for path in stale + stray:
            print(f"{path.relative_to(HERE.parent)} is not what grafana/build.py writes; run it and commit the result")
        return 1 if stale or stray else 0
    OUT.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(HERE.parent)}")
    for path in stray:
        path.unlink()
        print(f"removed {path.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
