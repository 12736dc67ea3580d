#!/usr/bin/env bash
# Installs what the tests need (on Debian, with a Rust toolchain and npm), then runs everything.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "what the tests need"
need=()
command -v redis-server >/dev/null || need+=(redis-server)
command -v redis-cli >/dev/null || need+=(redis-tools)
command -v redis-sentinel >/dev/null || need+=(redis-sentinel)
command -v openssl >/dev/null || need+=(openssl)
command -v chromium >/dev/null || need+=(chromium)
fc-list 2>/dev/null | grep -i 'cjk' >/dev/null || need+=(fontconfig fonts-noto-cjk)
command -v curl >/dev/null || need+=(curl)
command -v kill >/dev/null && [ -x /bin/kill ] || need+=(procps)
command -v cc >/dev/null || need+=(build-essential)
command -v haproxy >/dev/null || need+=(haproxy)
command -v nginx >/dev/null || need+=(nginx-light)
command -v promtool >/dev/null || need+=(prometheus)
command -v kubectl >/dev/null || need+=(kubernetes-client)
command -v jq >/dev/null || need+=(jq)
command -v turnserver >/dev/null || need+=(coturn)
command -v systemd-analyze >/dev/null || need+=(systemd)
python3 -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
if ((${#need[@]})); then
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  # Nothing that is installed here starts as a service.
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer"; exit 1; }

step "formatting and lints"
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step "unit tests and guarantees"
tests=$(mktemp)
# One that never ends would keep all others from being run, and its name would not be told.
if ! timeout -k 10 30m cargo test --workspace --locked 2>&1 | tee "$tests"; then
  echo "of the tests that took long, these did not end well:"
  sed -n 's/^test \(.*\) has been running for over.*/\1/p' "$tests" | grep -vxFf <(sed -n 's/^test \(.*\) \.\.\. ok$/\1/p' "$tests") || true
  exit 1
fi
rm "$tests"

step "the release build"
cargo build --release --workspace --locked
binary="$PWD/target/release/duet"

step "what it is built of"
DUET_BIN="$binary" scripts/test-supply-chain.sh

step "strangers' input, fuzzed"
scripts/fuzz.sh 5

step "the benchmarks, in small"
scripts/test-benchmarks.sh

step "official clients"
(cd tests/clients && npm ci --silent && DUET_BIN="$binary" node --test)

step "the page in Chromium"
(cd tests/browser && npm ci --silent && DUET_BIN="$binary" node --test)

step "several nodes on this machine"
scripts/test-cluster-script.sh

step "nodes behind balancers, and restarted one after the other"
DUET_BIN="$binary" node --test tests/deploy/

step "monitoring"
DUET_BIN="$binary" scripts/test-monitoring.sh

step "the admin API against its document"
DUET_BIN="$binary" scripts/test-admin-api.sh

step "manifests and units"
DUET_BIN="$binary" scripts/test-manifests.sh

step "the compose deployment"
scripts/test-compose.sh

step "a build without npm"
scripts/test-without-npm.sh

step "done"
