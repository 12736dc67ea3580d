#!/usr/bin/env bash
# Feeds what reads a stranger's input with what nobody would send: scripts/fuzz.sh [SECONDS a target (5)] [TARGET…].
# libFuzzer, with the compiler's own coverage pass, so that a stable toolchain does. What it finds to be new is kept in
# target/fuzz/corpus, what breaks a target in target/fuzz/found: such a file is to be added to tests/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
shift $(($# ? 1 : 0))
command -v c++ >/dev/null || { echo "a C++ compiler is missing: apt-get install build-essential"; exit 1; }

target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing"
for option in level=4 inline-8bit-counters pc-table trace-compares; do flags="$flags -Cllvm-args=-sanitizer-coverage-$option"; done
# With --target, what runs while building is built without the flags.
RUSTFLAGS=$flags cargo build --quiet --locked --release --manifest-path tests/fuzz/Cargo.toml --target "$host" --target-dir "$target"

targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' tests/fuzz/Cargo.toml)
mkdir -p "$target/found" "$target/log"
# One target: its inputs must not be too slow (seconds) or too large for the memory that it may take (MiB).
run() {
  local name=$1 log=$target/log/$1
  mkdir -p "$target/corpus/$name"
  if ! "$target/$host/release/$name" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=8192 -use_value_profile=1 \
    -print_final_stats=1 -artifact_prefix="$target/found/$name-" "$target/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "FAILED: $name"
    return 1
  fi
  awk -v name="$name" '
    / cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") coverage = $(i + 1); if ($i == "corp:") corpus = $(i + 1) } }
    /number_of_executed_units/ { executed = $2 }
    /peak_rss_mb/ { memory = $2 }
    END { printf "%-16s %12d inputs, %6d edges covered, %4d MiB, corpus %s\n", name, executed, coverage, memory, corpus }
  ' "$log"
}
export -f run
export target host seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I {} bash -euo pipefail -c 'run "$1"' - {}
