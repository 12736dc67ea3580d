#!/usr/bin/env bash
# Writes the bill of materials of the binary, the browser client that it serves included, to target/sbom.cdx.json (CycloneDX).
# Options are cargo's, such as --target aarch64-unknown-linux-gnu. The image has it in /usr/share/doc/duet.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
tree=$(mktemp)
trap 'rm -f "$tree"' EXIT
cargo tree --package duet --edges normal --prefix depth --format '{p}|{l}' --locked "$@" >"$tree"
node scripts/sbom.mjs "$tree" Cargo.lock package-lock.json >target/sbom.cdx.json
echo "target/sbom.cdx.json: $(grep -c '"bom-ref"' target/sbom.cdx.json) components"
