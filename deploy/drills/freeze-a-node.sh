#!/usr/bin/env bash
# A node stands still for 20 s and goes on. Its seats are given to others meanwhile; when it wakes it lets go of them.
. "$(dirname "$0")/lib.sh"

say "Two peers talk, one on node1, one on node2."
room=$(room)
pair "$(node node1)" "$(node node2)" "$room" || fail "they could not talk to begin with"

say "node2 is frozen."
since=$(now)
"${compose[@]}" pause node2 >/dev/null 2>&1
trap '"${compose[@]}" unpause node2 >/dev/null 2>&1 || true; rm -rf "$heard"' EXIT
hears "$A" '"bye"' 12 || fail "the peer on node1 was not told"
say "The peer on node1 was told after $(seconds_since "$since") s (at most 10)."
peer "$(node node3)" && C=$PEER && joins "$C" "$room" || fail "the seat of the frozen node's peer is not free"
reaches "$C" "$A" && reaches "$A" "$C" || fail "the two do not hear each other"
say "Another peer has the seat after $(seconds_since "$since") s."

stay 12 "$A" "$C"
hold "$A" "$C"
say "node2 goes on."
since=$(now)
"${compose[@]}" unpause node2 >/dev/null 2>&1
within 15 "node2 is ready again" ready node2
say "It is ready after $(seconds_since "$since") s."
forget "$A"
forget "$C"
tell "$B" '42["message","from the past"]' || true
reaches "$A" "$C" && reaches "$C" "$A" || fail "the two do not hear each other any more"
! grep -qF 'from the past' "$heard/${A##*sid=}" "$heard/${C##*sid=}" || fail "a peer without a seat was heard"
say "Its peer of before has no seat, and nobody hears it."
within 30 "the balancer uses node2" up_at_the_balancer 3
