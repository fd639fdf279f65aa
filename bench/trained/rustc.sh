#!/bin/sh
# Hands TRAINING to rustc for what becomes part of the gateway, and not for build scripts and macros. As RUSTFLAGS it would go
# into the names of all functions, and what one build counted would fit nothing in the next.
for argument in "$@"; do
    # Only what is built for a named target is part of the gateway.
    [ "$argument" = --target ] && exec "$@" $TRAINING
done
exec "$@"
