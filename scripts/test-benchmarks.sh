#!/usr/bin/env bash
# The benchmarks run from end to end and write their document. What they measure in so short a time says nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

document=$(mktemp)
trap 'rm -f "$document"' EXIT
status=0
target/release/loadtest bench all --write "$document" --rounds 1 --nodes 1,2,3 \
  --node=--rooms=50 --node=--rate=200 --node=--seconds=1 --node=--warm-up=1 --node=--join-sockets=100 --node=--hold-sockets=100 \
  --cluster=--rooms=56 --cluster=--rate=100 --cluster=--seconds=1 --cluster=--warm-up=1 --cluster=--idle-seconds=1 \
  --cluster=--hold-sockets=100 --cluster=--hold-seconds=1 --cluster=--starts=1 --cluster=--turns=2 --cluster=--turn-seconds=1 \
  --resume=--reloads=20 --resume=--moves=4 --resume=--pairs=4 --resume=--kills=1 --resume=--victims=8 >/dev/null || status=$?
# 1: an aim is missed, as it may be in a second.
[ "$status" -le 1 ] || { echo "bench all ended with $status"; exit 1; }
for line in '| CPU a relay, µs | duet : bare relay | ' '| | duet, 2 nodes | Node.js, 2 nodes |' '| CPU a join, µs | duet, 2 nodes | ' \
  '| | duet, busy, 3 nodes | duet, busy, 2 nodes |' '| | duet, busy, 3 nodes | bare cluster, busy, 3 nodes |' \
  '| not talking again in 30 s | reload, 1 node | **0** |' '| not talking again in 30 s | kill, 3 nodes | **0** |' '| messages lost | '; do
  grep -qF "$line" "$document" || { echo "the document has no line with: $line"; cat "$document"; exit 1; }
done
if grep -q 'did not relay each message' "$document"; then cat "$document"; exit 1; fi
echo "written, $(wc -l <"$document") lines"
