#!/usr/bin/env bash
# Measures OneStory on held-out stories of its three patterns: what it chooses of the history against what is newest,
# uniform or nothing, patchifiers by score against equal ones, and budgets. Started again it goes on; runs that are done
# are not made again.
#
#   scripts/eval-onestory.sh MODELS [OUT [STORIES [SEED]]]
#
# MODELS is the folder that has `onestory/` in it. All runs are made one after the other; for hours in the background:
#
#   nohup taskset -c 0,1 scripts/eval-onestory.sh runs/onestory-set > runs/eval-onestory.log 2>&1 &
#
# PATTERNS and VARIANTS choose some of them, the first variant is what the others are compared with, and SETTINGS is
# added to every run:
#
#   PATTERNS=insert_recall VARIANTS="recent learned" SETTINGS="onestory.steps=6" scripts/eval-onestory.sh MODELS

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODELS=${1:?the folder of the models}
OUT=${2:-runs/eval-onestory}
STORIES=${3:-60}
SEED=${4:-0}
STORYLOOM=${STORYLOOM:-target/release/storyloom}
CONFIG=${CONFIG:-configs/quickstart-onestory.toml}
PATTERNS=${PATTERNS:-insert_recall composable main_subject}
VARIANTS=${VARIANTS:-learned recent uniform none one-kernel one-frame last-frame budget-2 budget-3}
SETTINGS=${SETTINGS:-}

mkdir -p "$OUT"
exec 9>"$OUT/.lock"
flock -n 9 || { echo "$OUT: another start of this script is at it" >&2; exit 75; }

# The settings of a variant, each beside the same weights and seeds.
settings() {
  case $1 in
    learned) ;;
    recent) echo onestory.selector=recent ;;
    uniform) echo onestory.selector=uniform ;;
    none) echo onestory.budget=0 ;;
    # The same tokens, all frames as fine: four frames of 15 tokens instead of three of 15 and two of 6.
    one-kernel) echo onestory.frames_per_kernel=0,4,0,0 ;;
    # The same tokens for the one frame that is the most relevant, or the newest.
    one-frame) echo onestory.frames_per_kernel=1,0,0,0 ;;
    last-frame) echo onestory.frames_per_kernel=1,0,0,0 onestory.selector=recent ;;
    budget-2) echo onestory.budget=2 ;;
    budget-3) echo onestory.budget=3 ;;
    *) echo "there is no variant $1" >&2; exit 64 ;;
  esac
}

# Makes the stories of a pattern with a variant: `run PATTERN VARIANT`.
run() {
  local status=0 setting chosen given=()
  local manifest=$OUT/$1-$STORIES-from-$SEED.jsonl
  chosen=$(settings "$2")
  for setting in "models.dir=$MODELS" "run.seed=$SEED" method=onestory $chosen $SETTINGS; do
    given+=(--set "$setting")
  done
  [ -f "$manifest" ] || "$STORYLOOM" train manifest --split held-out --pattern "$1" --method onestory \
    --stories "$STORIES" --seed "$SEED" --out "$manifest"
  echo "$(date -u +%FT%TZ) $1 $2"
  "$STORYLOOM" run --config "$CONFIG" --manifest "$manifest" --out "$OUT/$1/$2" "${given[@]}" || status=$?
  # 75: stopped early and saved; 1: some shots failed, which the table says.
  [ "$status" -le 1 ] || exit "$status"
}

# The folders of a pattern's variants that are there: `made PATTERN VARIANT…`.
made() {
  local pattern=$1 variant
  shift
  for variant in "$@"; do
    [ ! -f "$OUT/$pattern/$variant/run.json" ] || echo "$OUT/$pattern/$variant"
  done
}

# Figures of all variants of a pattern, and how each differs from the first of VARIANTS.
measure() {
  local pattern=$1 folders
  mapfile -t folders < <(made "$pattern" $VARIANTS)
  "$STORYLOOM" eval "${folders[@]}" --out "$OUT/$pattern/all" --table "$OUT/$pattern/all.md" \
    --sheet "$OUT/$pattern/all.png" > "$OUT/$pattern/all.txt"
}

for pattern in $PATTERNS; do
  for variant in $VARIANTS; do
    run "$pattern" "$variant"
  done
  measure "$pattern"
done

# One page of all patterns.
for pattern in $PATTERNS; do
  printf '# %s\n\n' "$pattern"
  cat "$OUT/$pattern/all.md"
  echo
done > "$OUT/table.md"
cat "$OUT/table.md"
