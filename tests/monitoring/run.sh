#!/usr/bin/env bash
# Every check of the monitoring that needs neither Docker nor Grafana nor a running gateway. Called by `make test`; takes under a minute.
# With a running gateway: drift.py METRICS_FILE_OR_URL. With the binary: live.py BINARY. Do the checks see? mutations.py.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../../.tools/monitoring

# The npm packages, pinned by the lock file, installed once.
install_types() {
  cmp -s "$here/package-lock.json" "$tools/installed-lock.json" && return
  mkdir -p "$tools"
  cp "$here/package.json" "$here/package-lock.json" "$tools/"
  (cd "$tools" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) && cp "$here/package-lock.json" "$tools/installed-lock.json"
}

# A Python that can read YAML: the one at hand, the system's, or one of our own.
find_python() {
  for python in python3 /usr/bin/python3 "$tools/venv/bin/python"; do
    "$python" -c 'import yaml' 2>/dev/null && echo "$python" && return
  done
  python3 -m venv "$tools/venv" && "$tools/venv/bin/pip" install --quiet pyyaml==6.0.3 && echo "$tools/venv/bin/python"
}

missing=0
for command in promtool amtool docker-compose node npm python3; do
  command -v "$command" >/dev/null || { echo "FAIL $command is not installed (Debian: prometheus prometheus-alertmanager docker-compose nodejs npm python3-yaml)"; missing=1; }
done
[ "$missing" = 0 ] || exit 1
install_types || { echo "FAIL the npm packages could not be installed"; exit 1; }
python=$(find_python) || { echo "FAIL no Python with PyYAML"; exit 1; }

failed=0
for check in rules alerting compose dashboards acceptance; do
  "$python" "$here/$check.py" || failed=1
done
exit "$failed"
