#!/usr/bin/env bash
# Without npm the server still builds and signals, and says plainly what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="$PWD/target/without-npm"
DUET_BUILD_NPM=no-such-npm cargo build --locked --bin duet 2>&1 | tee "${TMPDIR:-/tmp}/duet-without-npm.log" | tail -n 2
grep -q 'built without the Socket.IO browser client' "${TMPDIR:-/tmp}/duet-without-npm.log"
rm -f "${TMPDIR:-/tmp}/duet-without-npm.log"

log=$(mktemp)
DUET_SERVER__LISTEN=127.0.0.1:0 DUET_ADMIN__LISTEN=127.0.0.1:0 DUET_LOG__FORMAT=json "$CARGO_TARGET_DIR/debug/duet" 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
until grep -q '"listening"' "$log"; do
  kill -0 "$server"
  sleep 0.05
done
address=$(sed -n 's/.*"listening","public":"\([^"]*\)".*/\1/p' "$log")
grep -q 'built without the Socket.IO client library' "$log"
answer=$(curl -s "http://$address/socket.io/socket.io.js")
case "$answer" in *"Install Node.js with npm and build again"*) ;; *) echo "unexpected: $answer"; exit 1 ;; esac
case "$(curl -s "http://$address/socket.io/?EIO=4&transport=polling")" in 0*sid*) ;; *) echo "signaling does not answer"; exit 1 ;; esac
echo "without npm: builds, signals, says what is missing"
