#!/bin/sh
# Counts instructions and allocations of the hot leaves under valgrind; fails when one has regressed.
set -eu
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { echo "bench: valgrind is missing (Debian: apt-get install valgrind)" >&2; exit 1; }
cargo build --release --quiet --package bench-micro
exec "${CARGO_TARGET_DIR:-target}/release/bench-micro" "$@"
