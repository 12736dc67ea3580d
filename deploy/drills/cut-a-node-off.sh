#!/usr/bin/env bash
# A node loses the way to Redis. It closes the seats it can no longer prove, others are told, and it heals by itself.
. "$(dirname "$0")/lib.sh"

say "Two peers talk, one on node1, one on node2."
room=$(room)
pair "$(node node1)" "$(node node2)" "$room" || fail "they could not talk to begin with"

say "node2 is cut off from Redis."
victim=$(container node2)
network=$("${docker[@]}" inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{$name}}{{"\n"}}{{end}}' "$victim" | grep 'data$')
since=$(now)
"${docker[@]}" network disconnect "$network" "$victim"
trap '"${docker[@]}" network connect "$network" "$victim" 2>/dev/null || true; rm -rf "$heard"' EXIT
unready() { ! ready node2; }
within 10 "node2 is not ready any more" unready
say "It says so itself after $(seconds_since "$since") s."
hears "$A" '"bye"' 12 || fail "the peer on node1 was not told"
say "The peer on node1 was told after $(seconds_since "$since") s (at most 10)."
peer "$BALANCER" && joins "$PEER" "$room" && reaches "$PEER" "$A" || fail "the seat is not free for another"
say "Another peer has the seat after $(seconds_since "$since") s."
! reaches "$B" "$A" || fail "the peer that was cut off is still heard"

hold "$A" "$PEER"
say "node2 is connected again."
since=$(now)
"${docker[@]}" network connect "$network" "$victim"
within 10 "node2 is ready again" ready node2
say "Ready again after $(seconds_since "$since") s."
pair "$(node node2)" "$(node node1)" "$(room)" || fail "new peers on it do not reach others"
within 30 "the balancer uses node2" up_at_the_balancer 3
