#!/usr/bin/env bash
# Feeds any bytes to the readers of what comes from outside: see CONTRIBUTING.md and docs/durability.md.
#
#   scripts/fuzz.sh                       one minute for each target of tests/fuzz
#   scripts/fuzz.sh 3600 manifest ranks   an hour for each of these two
#
# Needs the nightly toolchain and cargo-fuzz 0.13. What was found lies in tests/fuzz/artifacts, what was
# learned in tests/fuzz/corpus; both stay there. The last lines are figures: executions, coverage, size
# of the corpus, seconds. Ends with 1 if something was found.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FUZZ=tests/fuzz
SECONDS_EACH="${1:-60}"
TARGETS=("${@:2}")
set --
. scripts/setup.sh
set +e

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
  echo 'fuzz: needs `rustup toolchain install nightly` and `cargo install cargo-fuzz --locked`' >&2
  exit 69
fi
# No sanitizer: our own code is safe Rust, and libtorch is not built with one.
OPTIONS=(--fuzz-dir "$FUZZ" --sanitizer none --features torch)
export LD_LIBRARY_PATH="$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cargo +nightly fuzz build "${OPTIONS[@]}" || exit 1

if [ "${#TARGETS[@]}" -eq 0 ]; then
  mapfile -t TARGETS < <(cd "$FUZZ/fuzz_targets" && printf '%s\n' *.rs)
  TARGETS=("${TARGETS[@]%.rs}")
fi

FOUND=0
FIGURES=()
for target in "${TARGETS[@]}"; do
  printf '== fuzz %s, %s s\n' "$target" "$SECONDS_EACH"
  mkdir -p "$FUZZ/corpus/$target"
  log="$FUZZ/target/$target.log"
  cargo +nightly fuzz run "${OPTIONS[@]}" "$target" "$FUZZ/corpus/$target" "$FUZZ/seeds/$target" -- \
    -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=2048 -dict="$FUZZ/json.dict" \
    -print_final_stats=1 >"$log" 2>&1
  if [ "$?" -ne 0 ]; then
    FOUND=1
    grep -E 'panicked|ERROR|SUMMARY|Test unit|Output of' -A1 "$log"
  fi
  FIGURES+=("$target $(sed -n 's/^stat::number_of_executed_units: */executions /p' "$log") \
$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -1)")
done

printf '== figures\n'
printf '%s\n' "${FIGURES[@]}"
exit "$FOUND"
