# What the drills share. They are run against the compose deployment of this directory's parent, on a Linux host:
#   docker compose up -d --build --wait && deploy/drills/kill-a-node.sh
# With HOLD=SECONDS what is broken stays so for that long, so that alerts fire: 60 to kill, 40 to freeze, 90 to cut off, 75 for Redis.
# COMPOSE and DOCKER name other commands than `docker compose` and `docker`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
read -ra compose <<<"${COMPOSE:-docker compose}"
read -ra docker <<<"${DOCKER:-docker}"
BALANCER=${BALANCER:-http://127.0.0.1:${DUET_PORT:-8080}}

now() { date +%s%N; }
seconds_since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", (to - from) / 1e9 }'; }
say() { printf '%s\n' "$*"; }
fail() { say "FAILED: $*"; exit 1; }

# within SECONDS WHAT COMMAND…: runs the command until it succeeds.
within() {
  local patience=$1 what=$2 since
  shift 2
  since=$(now)
  until "$@"; do
    awk -v from="$since" -v to="$(now)" -v most="$patience" 'BEGIN { exit !((to - from) / 1e9 > most) }' \
      && fail "$what: not within $patience s"
    sleep 0.1
  done
}

container() { "${compose[@]}" ps -q "$1" 2>/dev/null; }
# address NODE: where the host reaches it, past the balancer.
address() {
  "${docker[@]}" inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{$net.IPAddress}}{{"\n"}}{{end}}' \
    "$(container "$1")" | awk '$1 ~ /nodes$/ { print $2 }'
}
node() { printf 'http://%s:8080' "$(address "$1")"; }
ready() { curl -sf -m 2 "http://$(address "$1"):9090/readyz" >/dev/null; }
# metric NODE NAME: the sum of its series.
metric() { curl -sf -m 2 "http://$(address "$1"):9090/metrics" | awk -v name="$2" '$1 == name || index($1, name "{") == 1 { sum += $NF } END { print sum + 0 }'; }
up_at_the_balancer() {
  [ "$("${compose[@]}" exec -T balancer bash -c "exec 3<>/dev/tcp/127.0.0.1/8405; printf 'GET /;csv HTTP/1.0\r\n\r\n' >&3; cat <&3" 2>/dev/null \
    | grep -c '^nodes,node[0-9]*,.*,UP')" -ge "$1" ]
}

# A peer: a Socket.IO session that polls (Engine.IO protocol 4). PEER is its URL; what it has heard is in the file $heard/PEER.
heard=$(mktemp -d)
trap 'rm -rf "$heard"' EXIT
peer() {
  local sid
  sid=$(curl -sf -m 5 "$1/socket.io/?EIO=4&transport=polling" | sed -n 's/.*"sid":"\([^"]*\)".*/\1/p')
  [ -n "$sid" ] || return 1
  PEER="$1/socket.io/?EIO=4&transport=polling&sid=$sid"
  tell "$PEER" 40 || return 1
  hears "$PEER" '40{"sid"' 5
}
# tell PEER PACKET
tell() { curl -sf -m 5 -o /dev/null -H 'content-type: text/plain;charset=UTF-8' --data-binary "$2" "$1"; }
# listen PEER: one poll, heartbeats answered.
listen() {
  local packets
  packets=$(curl -sf -m "${2:-20}" "$1") || return $?
  tr '\036' '\n' <<<"$packets" >>"$heard/${1##*sid=}"
  ! grep -qx 2 <<<"$(tr '\036' '\n' <<<"$packets")" || tell "$1" 3
}
# hears PEER TEXT SECONDS: waits until it has heard something that contains TEXT, or its session has ended.
hears() {
  local file="$heard/${1##*sid=}" end=$((SECONDS + $3 + 1))
  touch "$file"
  until grep -qF "$2" "$file"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    listen "$1" 2 || [ $? = 28 ] || return 1
  done
}
# stay SECONDS PEER…: they go on listening, and answer heartbeats.
stay() {
  local end=$((SECONDS + $1)) each
  shift
  while [ "$SECONDS" -lt "$end" ]; do
    for each; do listen "$each" 1 || [ $? = 28 ] || sleep 0.2; done
  done
}
# hold PEER…: with HOLD, what is broken stays so, and these peers go on.
hold() { [ -z "${HOLD:-}" ] || { say "It stays so for $HOLD s."; stay "$HOLD" "$@"; }; }
forget() { : >"$heard/${1##*sid=}"; }
# joins PEER ROOM: takes a seat; asks again while that is refused for the moment.
joins() {
  local end=$((SECONDS + ${3:-15}))
  while [ "$SECONDS" -lt "$end" ]; do
    forget "$1"
    tell "$1" "420[\"create or join\",\"$2\"]" || return 1
    hears "$1" '430[' 6 || return 1
    ! grep -qF '430[{"ok":true' "$heard/${1##*sid=}" || return 0
    sleep 0.2
  done
  return 1
}
# reaches PEER OTHER [SECONDS]: what one says, the other hears.
reaches() {
  local word="word-$RANDOM$RANDOM"
  tell "$1" "42[\"message\",\"$word\"]" && hears "$2" "$word" "${3:-5}"
}
# pair URL URL ROOM: sets A and B, seated in one room and talking.
pair() {
  peer "$1" && A=$PEER && joins "$A" "$3" && peer "$2" && B=$PEER && joins "$B" "$3" && reaches "$A" "$B" 2 && reaches "$B" "$A" 2
}
room() { printf 'drill-%s-%s%s' "$(basename "$0" .sh)" "$RANDOM" "$RANDOM"; }

for command in curl awk; do command -v "$command" >/dev/null || fail "$command is missing"; done
[ -n "$(container node1)" ] || fail "the deployment is not up: docker compose up -d --build --wait"
