#!/usr/bin/env bash
# The admin API is what its OpenAPI document says: schemathesis asks a running node whatever the document allows, and what it does
# not, and checks every answer. DUET_BIN names another binary; EXAMPLES how many requests an operation gets.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${DUET_BIN:-target/release/duet}")
examples=${EXAMPLES:-60}

venv=$PWD/target/admin-api-venv
if ! "$venv/bin/st" --version >/dev/null 2>&1; then
  rm -rf "$venv"
  python3 -m venv "$venv" || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi

work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT
read -r public admin < <(python3 - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in sockets))
PYTHON
)
token=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
printf '%s\n' "$token" >"$work/token"
# The node refuses settings that it does not know, and DUET_BIN is meant for this script.
env -u DUET_BIN DUET_SERVER__LISTEN="127.0.0.1:$public" DUET_ADMIN__LISTEN="127.0.0.1:$admin" DUET_ADMIN__TOKEN_FILE="$work/token" \
  DUET_TIMEOUTS__PING_TIMEOUT=10m DUET_LOG__FORMAT=json DUET_LOG__LEVEL=warn "$binary" 2>"$work/log" &
pids+=($!)
api=http://127.0.0.1:$admin/api/v1
until curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null; do
  kill -0 "${pids[0]}" 2>/dev/null || { cat "$work/log"; echo "the node did not start"; exit 1; }
  sleep 0.05
done

# Somebody who polls sits in the room of the document's example.
engine="http://127.0.0.1:$public/socket.io/?EIO=4&transport=polling"
session=$(curl -sf "$engine" | grep -o '"sid":"[^"]*"' | cut -d'"' -f4)
curl -sf -d 40 "$engine&sid=$session" >/dev/null
curl -sf "$engine&sid=$session" >/dev/null
curl -sf -d '42["create or join","foo"]' "$engine&sid=$session" >/dev/null
curl -sf -H "Authorization: Bearer $token" "$api/rooms/foo" | grep '"role":"created"' >/dev/null || { echo "nobody sits in foo"; exit 1; }
curl -sf -H "Authorization: Bearer $token" "$api/openapi.json" >"$work/openapi.json"

# The node drains on the way, and goes on answering.
(cd "$work" && timeout 300 "$venv/bin/st" run openapi.json --url "$api" --header "Authorization: Bearer $token" --header "Connection: close" \
  --checks all --seed 1 --generation-database none --max-examples "$examples" --request-timeout 10 --no-color) >"$work/said" 2>&1 \
  || { cat "$work/said"; exit 1; }
sed -n '/=== SUMMARY/,$p' "$work/said"
panics=$(curl -sf "http://127.0.0.1:$admin/metrics" | grep '^duet_panics_total ')
[ "$panics" = "duet_panics_total 0" ] || { echo "$panics"; exit 1; }
if grep -F "$token" "$work/log"; then echo "the token is in the log"; exit 1; fi
