#!/bin/sh
# Measures the gateway beside nginx, HAProxy and a bare pass-through: builds what is needed, takes the
# descriptors that thousands of streams need, and ends after ten minutes whatever happens.
# Usage: bench/run.sh [curves] [options of `bench run` or `bench curves`]; GATEWAY=program measures another build than the
# one that is released, which is made first where it is missing or older than its source.
set -eu
cd "$(dirname "$0")/.."

for program in nginx haproxy; do
    command -v "$program" >/dev/null || PATH="$PATH:/usr/sbin"
    command -v "$program" >/dev/null || { echo "bench: $program is missing (Debian: apt-get install $program)" >&2; exit 1; }
done

target="${CARGO_TARGET_DIR:-target}"
cargo build --release --quiet --package bench
if [ -z "${GATEWAY:-}" ]; then
    GATEWAY="$target/trained/choreoai"
    if [ ! -e "$GATEWAY" ] || [ -n "$(find src providers Cargo.toml Cargo.lock -newer "$GATEWAY" -print -quit)" ]; then
        bench/trained/build.sh >&2 || {
            echo "bench: measuring the ordinary release build instead" >&2
            cargo build --release --quiet --package choreoai
            GATEWAY="$target/release/choreoai"
        }
    fi
fi

# 5,000 streams are 10,000 sockets in a proxy.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -H -n)"
command=run
if [ "${1:-}" = curves ]; then
    command=curves
    shift
fi
exec timeout 600 "$target/release/bench" "$command" --gateway "$GATEWAY" --results bench/results "$@"
