#!/usr/bin/env bash
# Redis is restarted, and empty. Who talks goes on talking, nobody gets a third seat, and new rooms open within seconds.
. "$(dirname "$0")/lib.sh"

say "Two peers talk on node1, two more across node1 and node2."
here=$(room) across=$(room)
pair "$(node node1)" "$(node node1)" "$here" || fail "the two on one node could not talk to begin with"
one=$A other=$B
pair "$(node node1)" "$(node node2)" "$across" || fail "the two on two nodes could not talk to begin with"

say "Redis is stopped."
since=$(now)
"${compose[@]}" stop -t 1 redis >/dev/null 2>&1
reaches "$one" "$other" && reaches "$other" "$one" || fail "two peers of one node were disturbed"
say "The two on one node talk without it."
if [ -n "${HOLD:-}" ]; then
  say "It stays so for $HOLD s, and peers ask for seats meanwhile."
  end=$((SECONDS + HOLD))
  while [ "$SECONDS" -lt "$end" ]; do
    tell "$one" "42[\"create or join\",\"$(room)\"]" || true
    stay 1 "$one" "$other"
  done
fi
"${compose[@]}" start redis >/dev/null 2>&1
say "Redis is back after $(seconds_since "$since") s, empty."
since=$(now)
for n in 1 2 3; do within 15 "node$n is ready" ready "node$n"; done
say "All nodes are ready after $(seconds_since "$since") s more."

if [ -n "${HOLD:-}" ]; then
  # Longer than a lease: what could not be proven any more was given up.
  pair "$(node node1)" "$(node node2)" "$across" || fail "two peers on two nodes cannot meet again"
fi
reaches "$A" "$B" && reaches "$B" "$A" || fail "the two on two nodes do not hear each other"
reaches "$one" "$other" || fail "the two on one node do not hear each other"
for room in "$here" "$across"; do
  within 10 "a new peer gets in" peer "$BALANCER"
  tell "$PEER" "420[\"create or join\",\"$room\"]"
  hears "$PEER" '430[' 10 || fail "a join was not answered"
  grep -qF '"code":"full"' "$heard/${PEER##*sid=}" || fail "a third peer got into $room"
done
say "Both pairs talk, and both rooms are full for a third."
pair "$BALANCER" "$BALANCER" "$(room)" || fail "no new room can be opened"
say "A new pair talked $(seconds_since "$since") s after Redis came back."
