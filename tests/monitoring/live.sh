#!/usr/bin/env bash
# The live gate with the gateway that was built last; arguments go on to live.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
for python in python3 /usr/bin/python3 .tools/monitoring/venv/bin/python; do
  "$python" -c 'import yaml' 2>/dev/null && break
done
exec "$python" -B tests/monitoring/live.py "${CARGO_TARGET_DIR:-target}/debug/choreoai" "$@"
