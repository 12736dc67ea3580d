#!/bin/sh
# Builds everything, measures duet on 1, 2, 4 and 8 nodes, the reference cluster on Node.js, bare relays, alone and joined by Redis,
# and peers that come back to their seats, in one go, and writes docs/BENCHMARKS.md. Needs redis-server, Node.js and npm, and a machine
# that does nothing else: half an hour on 2 cores.
# Options are those of `loadtest bench all`.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked --workspace
exec target/release/loadtest bench all "$@"
