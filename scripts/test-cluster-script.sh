#!/usr/bin/env bash
# scripts/cluster.sh does what it says: two nodes that know of each other, and nothing left when it ends.
set -euo pipefail
cd "$(dirname "$0")/.."
export DUET_BIN="$PWD/target/release/duet"
# Ports that nobody listens on, below those that the kernel gives to clients.
base=$((20000 + $$ % 1000 * 10))
until ! (for port in $(seq "$base" $((base + 9))); do (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null && exit 0; done; exit 1); do
  base=$((base + 10))
done
export PUBLIC_PORT=$base ADMIN_PORT=$((base + 3)) REDIS_PORT=$((base + 6))
log=$(mktemp)
scripts/cluster.sh 2 >"$log" 2>&1 &
cluster=$!
trap 'kill "$cluster" 2>/dev/null || true; rm -f "$log"' EXIT
until grep -q "Ctrl-C" "$log"; do
  kill -0 "$cluster" 2>/dev/null || { cat "$log"; exit 1; }
  sleep 0.1
done
for n in 1 2; do
  curl -sf "http://127.0.0.1:$((ADMIN_PORT + n))/metrics" | grep '^duet_nodes 2$' >/dev/null || { echo "node $n does not see the other"; exit 1; }
done
kill "$cluster"
wait "$cluster" || true
! curl -sf "http://127.0.0.1:$((ADMIN_PORT + 1))/livez" >/dev/null || { echo "a node is left"; exit 1; }
echo "scripts/cluster.sh: two nodes, one service"
