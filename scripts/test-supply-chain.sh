#!/usr/bin/env bash
# What duet is built of: licences, sources and bans (deny.toml), advisories, and the bill of materials, which is valid and names
# all that is in the binary. DUET_BIN names the binary; without one, the parts that need it are not run.
# ADVISORY_DB names a directory that holds a clone of https://github.com/RustSec/advisory-db, for where GitHub cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "FAILED: $*"; exit 1; }

# Built from crates.io, once; unoptimised, since building it takes longer than using it. This version, since options move.
deny=0.20.2
[ "$(cargo deny --version 2>/dev/null)" = "cargo-deny $deny" ] || nice cargo install --quiet --debug --locked --version "$deny" cargo-deny
for manifest in Cargo.toml tests/fuzz/Cargo.toml; do
  cargo deny --manifest-path "$manifest" --config deny.toml --log-level error --locked --all-features check licenses bans sources
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The database is fetched, or is there.
advisories() { cargo deny --config "$work/deny.toml" --log-level error --locked "$@" check advisories; }
cp deny.toml "$work/deny.toml"
if [ -n "${ADVISORY_DB:-}" ]; then
  sed -i "s|^\[advisories\]|&\ndb-path = \"$ADVISORY_DB\"|" "$work/deny.toml"
  advisories --offline
elif cargo deny --config "$work/deny.toml" --log-level error --locked fetch db >/dev/null 2>&1; then
  advisories
else
  echo "NOT RUN: advisories (the RustSec database cannot be fetched here: github.com is out of reach)"
fi

# Schema of CycloneDX 1.6, strict.
venv=target/supply-chain-venv
if ! "$venv/bin/python" -c 'import cyclonedx.validation.json, jsonschema' 2>/dev/null; then
  rm -rf "$venv"
  python3 -m venv "$venv" || fail "python3-venv is missing: apt-get install python3-venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check 'cyclonedx-python-lib[json-validation]==11.12.0'
fi
scripts/sbom.sh
cp target/sbom.cdx.json "$work/first"
scripts/sbom.sh >/dev/null
cmp -s "$work/first" target/sbom.cdx.json || fail "the bill of materials differs from one time to the next"
"$venv/bin/python" - target/sbom.cdx.json <<'PYTHON' || fail "the bill of materials is not valid"
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) and 1)
PYTHON

# It names every crate of the tree, as cargo's own metadata have it without this script's reading.
named() { grep -o "\"purl\": \"pkg:$1/[^\"]*" target/sbom.cdx.json | sed "s|.*pkg:$1/||" | sort -u; }
named cargo >"$work/named"
cargo tree --package duet --edges normal --prefix none --no-dedupe --locked | sed 's/^\([^ ]*\) v\([^ ]*\).*/\1@\2/' | sort -u >"$work/tree"
diff "$work/tree" "$work/named" >&2 || fail "the bill of materials names other crates than duet is built of"
client=$(sed -n '/"node_modules\/socket.io-client"/,/}/s/.*"version": "\(.*\)",/\1/p' package-lock.json)
named npm | grep -x "socket.io-client@$client" >/dev/null || fail "the bill of materials does not name socket.io-client $client"
if [ -n "${DUET_BIN:-}" ]; then
  # What shows in the binary: the paths that panics tell.
  grep -aoE 'registry/src/[^/]+/[A-Za-z0-9_+.-]+/' "$DUET_BIN" | sed 's|/$||; s|.*/||' | sort -u >"$work/binary"
  [ "$(wc -l <"$work/binary")" -gt 20 ] || fail "the binary shows no crates"
  missing=$(comm -23 "$work/binary" <(tr @ - <"$work/named" | sort))
  [ -z "$missing" ] || fail "in the binary, and not in the bill of materials: $missing"
  grep -aq "\"version\":\"$client\"\|Socket.IO v$client" "$DUET_BIN" || fail "the binary serves another client than $client"
  echo "the binary shows $(wc -l <"$work/binary") crates, all of them named"
fi
echo "$(wc -l <"$work/named") crates and $(named npm | wc -l) packages of npm"
