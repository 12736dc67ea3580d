#!/usr/bin/env bash
# Every node is restarted, one after the other, as for an upgrade. All the while new pairs come in and talk, and none fails.
. "$(dirname "$0")/lib.sh"

probe() {
  local talked=0
  while [ ! -e "$heard/stop" ]; do
    # A pair that a restart interrupts begins anew, as clients do; what counts is that it gets through soon.
    local since
    since=$(now)
    until pair "$BALANCER" "$BALANCER" "$(room)"; do
      awk -v from="$since" -v to="$(now)" 'BEGIN { exit !((to - from) / 1e9 > 5) }' && { echo "a pair could not talk for 5 s" >"$heard/failed"; return; }
    done
    talked=$((talked + 1))
    echo "$talked" >"$heard/talked"
    tell "$A" 41 || true
    tell "$B" 41 || true
  done
}
probe &
prober=$!

begun=$(now)
for n in 1 2 3; do
  since=$(now)
  "${compose[@]}" stop "node$n" >/dev/null 2>&1
  say "node$n drained and ended in $(seconds_since "$since") s."
  [ "$("${docker[@]}" inspect -f '{{.State.ExitCode}}' "$("${compose[@]}" ps -aq "node$n" 2>/dev/null)")" = 0 ] || fail "node$n did not end as it should"
  "${compose[@]}" start "node$n" >/dev/null 2>&1
  within 30 "node$n is ready" ready "node$n"
  within 30 "the balancer uses it" up_at_the_balancer 3
  say "Back in service after $(seconds_since "$since") s."
  [ ! -e "$heard/failed" ] || fail "$(cat "$heard/failed")"
done
touch "$heard/stop"
wait "$prober"
[ ! -e "$heard/failed" ] || fail "$(cat "$heard/failed")"
say "$(cat "$heard/talked") pairs, one after the other, came in and talked in the $(seconds_since "$begun") s."
