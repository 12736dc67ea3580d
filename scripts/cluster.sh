#!/usr/bin/env bash
# Redis and some nodes on this machine, for trying out: scripts/cluster.sh [NODES]. Ctrl-C ends all of it.
# Node N serves http://localhost:808N, its metrics http://localhost:909N/metrics. Other ports: PUBLIC_PORT (8080), ADMIN_PORT
# (9090), each plus N, and REDIS_PORT (6390).
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-3}
case $count in [1-9]) ;; *) echo "usage: scripts/cluster.sh [1 to 9 nodes]"; exit 64 ;; esac
command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server"; exit 1; }
binary=${DUET_BIN:-}
# Not a setting of the server.
unset DUET_BIN
if [ -z "$binary" ]; then
  cargo build --release --locked --bin duet
  binary=target/release/duet
fi

directory=$(mktemp -d)
pids=()
end() {
  trap - EXIT INT TERM
  for pid in "${pids[@]:1}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]:1}"; do wait "$pid" 2>/dev/null || true; done
  [ "${#pids[@]}" = 0 ] || kill "${pids[0]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$directory"
}
trap end EXIT
trap 'exit 0' INT TERM

redis_port=${REDIS_PORT:-6390} public_port=${PUBLIC_PORT:-8080} admin_port=${ADMIN_PORT:-9090}
redis-server --bind 127.0.0.1 --port "$redis_port" --save "" --appendonly no --dir "$directory" >"$directory/redis.log" &
pids+=($!)
for n in $(seq "$count"); do
  # A short lease: on an empty Redis, nodes wait for one before they seat anybody.
  DUET_SERVER__LISTEN="127.0.0.1:$((public_port + n))" DUET_ADMIN__LISTEN="127.0.0.1:$((admin_port + n))" \
    DUET_REDIS__URL="redis://127.0.0.1:$redis_port" DUET_CLUSTER__LEASE=3s DUET_CLUSTER__RENEW=500ms \
    "$binary" >"$directory/node-$n.log" 2>&1 &
  pids+=($!)
done
for n in $(seq "$count"); do
  until curl -sf "http://127.0.0.1:$((admin_port + n))/readyz" >/dev/null; do
    kill -0 "${pids[$n]}" 2>/dev/null || { cat "$directory/node-$n.log" "$directory/redis.log"; exit 1; }
    sleep 0.1
  done
  echo "node $n is ready: http://localhost:$((public_port + n))   metrics: http://localhost:$((admin_port + n))/metrics   log: $directory/node-$n.log"
done
echo "Redis: 127.0.0.1:$redis_port. Ctrl-C ends all of it."
# A node may be killed, to see what the others make of it.
wait "${pids[0]}"
