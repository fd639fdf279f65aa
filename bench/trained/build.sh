#!/bin/sh
# Builds the gateway as it is released (profile-guided optimisation): once so that it counts which ways through its code the
# benchmark's calls take, and once laid out for those ways. Leaves it as target/trained/choreoai; nothing else differs from
# `cargo build --release`. Needs llvm-profdata for the LLVM of this Rust.
set -eu
cd "$(dirname "$0")/../.."

root="${CARGO_TARGET_DIR:-$PWD/target}"
host=$(rustc -vV | sed -n 's/^host: //p')
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

profdata=
for program in "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$llvm"; do
    if command -v "$program" >/dev/null; then profdata=$program; break; fi
done
if [ -z "$profdata" ]; then
    echo "llvm-profdata is missing: rustup component add llvm-tools (or, on Debian, apt-get install llvm-$llvm)" >&2
    exit 1
fi

# What is built there is of no use to anything else, nor to the next training: cargo does not see the profile.
work="$root/trained/work"
rm -rf "$work"
mkdir -p "$work"

# Builds the gateway with the flags $2, apart from other builds, in $work/$1.
build() {
    TRAINING="$2" RUSTC_WRAPPER="$PWD/bench/trained/rustc.sh" CARGO_TARGET_DIR="$work/$1" \
        cargo build --release --locked --package choreoai --bin choreoai --target "$host"
}

build counting "-Cprofile-generate=$work/counts"
cargo build --release --locked --package bench
LLVM_PROFILE_FILE="$work/counts/%p.profraw" "$root/release/bench" train --gateway "$work/counting/$host/release/choreoai"
"$profdata" merge --output "$work/profile" "$work"/counts/*.profraw
rm -rf "$work/counting"
build trained "-Cprofile-use=$work/profile"

mv "$work/trained/$host/release/choreoai" "$root/trained/choreoai"
rm -rf "$work"
echo "$root/trained/choreoai"
