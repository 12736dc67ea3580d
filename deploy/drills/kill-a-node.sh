#!/usr/bin/env bash
# A node dies without a word. The peer on the other node is told, its room is free again, and the balancer goes round the gap.
. "$(dirname "$0")/lib.sh"

say "Two peers talk, one on node1, one on node2."
room=$(room)
pair "$(node node1)" "$(node node2)" "$room" || fail "they could not talk to begin with"

say "node2 is killed."
since=$(now)
"${compose[@]}" kill -s KILL node2 >/dev/null 2>&1
hears "$A" '"bye"' 12 || fail "the peer on node1 was not told"
say "The peer on node1 was told after $(seconds_since "$since") s (at most 10)."
grep -q 'node_lost' "$heard/${A##*sid=}" || fail "it was told another reason"

peer "$BALANCER" || fail "the balancer let no new peer in"
joins "$PEER" "$room" || fail "the seat of the dead node's peer is not free"
reaches "$PEER" "$A" || fail "the two do not hear each other"
say "A new peer has its seat, and they talk, after $(seconds_since "$since") s."

hold "$A" "$PEER"
say "node2 is started again."
since=$(now)
"${compose[@]}" start node2 >/dev/null 2>&1
within 30 "node2 is ready" ready node2
within 30 "the balancer uses it" up_at_the_balancer 3
say "Back in service after $(seconds_since "$since") s."
