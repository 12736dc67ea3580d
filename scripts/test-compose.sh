#!/usr/bin/env bash
# The compose deployment, really built and run: healthy, closed where it should be, two peers through the balancer, every drill.
# COMPOSE and DOCKER name other commands than `docker compose` and `docker`. Where there is no Docker, it says so and does
# nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
export COMPOSE=${COMPOSE:-docker compose} DOCKER=${DOCKER:-docker}
read -ra compose <<<"$COMPOSE"
read -ra docker <<<"$DOCKER"
unset DUET_BIN
skip() { echo "NOT RUN: the compose deployment ($1)"; exit 0; }
"${docker[@]}" info >/dev/null 2>&1 || skip "there is no Docker here, or it does not answer"
"${compose[@]}" version >/dev/null 2>&1 || skip "there is no Docker Compose here"
for image in debian:bookworm-slim redis:7; do
  "${docker[@]}" image inspect "$image" >/dev/null 2>&1 || "${docker[@]}" pull -q "$image" >/dev/null 2>&1 || skip "no images can be had"
done

fail() { echo "FAILED: $*"; "${compose[@]}" ps -a || true; "${compose[@]}" logs --tail 30 || true; exit 1; }
# A deployment of its own, beside any that runs; the drills find it by the same variables.
export COMPOSE_PROJECT_NAME=duet-test DUET_PORT=${DUET_PORT:-18080} PROMETHEUS_PORT=${PROMETHEUS_PORT:-19091}
# Peers are told of a relay, though none runs here.
export TURN_URLS=turn:192.0.2.1:3478
end() { "${compose[@]}" down -v --timeout 5 >/dev/null 2>&1 || true; }
trap end EXIT
end

"${compose[@]}" --profile turn config -q || fail "docker-compose.yml is not valid"
"${compose[@]}" up -d --build --wait || fail "it does not come up"
echo "up after $SECONDS s"

for service in redis node1 node2 node3 balancer prometheus; do
  id=$("${compose[@]}" ps -q "$service")
  "${docker[@]}" inspect -f '{{.HostConfig.ReadonlyRootfs}} {{.State.Health.Status}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Config}}' "$id" \
    | grep '^true healthy unless-stopped map\[max-file:3 max-size:10m\]$' >/dev/null || fail "$service: $("${docker[@]}" inspect -f '{{json .State.Health}}' "$id")"
done
published=$("${docker[@]}" ps --filter label=com.docker.compose.project="$COMPOSE_PROJECT_NAME" --format '{{.Ports}}' | grep -o '[^, ]*->[^, ]*' | sort -u)
[ "$(grep -v '^\[::\]\|^:::' <<<"$published")" = "$(printf '0.0.0.0:%s->8080/tcp\n127.0.0.1:%s->9090/tcp' "$DUET_PORT" "$PROMETHEUS_PORT")" ] || fail "published: $published"
image=$("${docker[@]}" inspect -f '{{.Config.Image}}' "$("${compose[@]}" ps -q node1)")
[ "$("${docker[@]}" image inspect -f '{{.Config.User}}' "$image")" = 65532:65532 ] || fail "the image runs as root"
"${docker[@]}" run --rm --entrypoint /bin/sh "$image" -c true 2>/dev/null && fail "there is a shell in the image"
id=$("${docker[@]}" create "$image")
# Not `grep -q`: it ends with the first match, and what is written to it then counts as failed.
"${docker[@]}" cp "$id:/usr/share/doc/duet/sbom.cdx.json" - 2>/dev/null | grep -a '"pkg:npm/socket.io-client@' >/dev/null || fail "no bill of materials in the image"
"${docker[@]}" rm "$id" >/dev/null
echo "image: $(($("${docker[@]}" image inspect -f '{{.Size}}' "$image") / 1048576)) MiB"

said=$("${docker[@]}" run --rm -e DUET_SERVER__PORT=1 "$image" 2>&1) && fail "a bad setting does not stop the container"
[ "$(wc -l <<<"$said")" = 1 ] && grep -q 'port' <<<"$said" || fail "a bad setting is told so: $said"
"${compose[@]}" --profile loadtest build loadtest >/dev/null || fail "the load generator's image"
"${docker[@]}" run --rm duet-loadtest:latest --version || fail "the load generator does not start"

grep -q '<html' <<<"$(curl -sf "http://127.0.0.1:$DUET_PORT/")" || fail "no page"
grep -q '"urls":\["turn:192.0.2.1:3478"\],"username":"[0-9]*:duet-.*"credential":".' <<<"$(curl -sf "http://127.0.0.1:$DUET_PORT/ice-servers")" || fail "no credentials for a relay"
grep -q 'Socket.IO v4' <<<"$(curl -sf "http://127.0.0.1:$DUET_PORT/socket.io/socket.io.js")" || fail "no client library"
targets() { curl -sf "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query?query=sum(up%7Bjob=%22duet%22%7D)" | grep -o '"[0-9]*"\]' | tr -d '"]'; }
end_of_patience=$((SECONDS + 60))
until [ "$(targets)" = 3 ]; do
  [ "$SECONDS" -lt "$end_of_patience" ] || fail "Prometheus scrapes $(targets) nodes"
  sleep 1
done
echo "Prometheus scrapes every node"

for drill in kill-a-node freeze-a-node restart-redis cut-a-node-off roll-all-nodes; do
  echo "-- $drill"
  "deploy/drills/$drill.sh" || fail "$drill"
done

"${compose[@]}" -f docker-compose.yml -f deploy/compose.more-nodes.yml up -d --wait || fail "more nodes do not come up"
end_of_patience=$((SECONDS + 60))
until [ "$(targets)" = 6 ]; do
  [ "$SECONDS" -lt "$end_of_patience" ] || fail "Prometheus scrapes $(targets) of 6 nodes"
  sleep 1
done
echo "six nodes after a second file; all of it in $SECONDS s"
