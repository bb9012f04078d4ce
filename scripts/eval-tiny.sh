#!/usr/bin/env bash
# Measures storyloom-tiny on held-out stories: with memory and without, and what parts of the memory
# are worth. Started again it goes on; runs that are done are not made again.
#
#   scripts/eval-tiny.sh [MODELS [OUT [STORIES [SEED]]]]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODELS=${1:-models/storyloom-tiny}
OUT=${2:-runs/eval-tiny}
STORIES=${3:-100}
SEED=${4:-0}
STORYLOOM=${STORYLOOM:-target/release/storyloom}

MANIFEST=$OUT/held-out-$STORIES-from-$SEED.jsonl
mkdir -p "$OUT"
[ -f "$MANIFEST" ] || "$STORYLOOM" train manifest --split held-out \
  --stories "$STORIES" --seed "$SEED" --out "$MANIFEST"

# A run with these settings: `run NAME KEY=VALUE…`.
run() {
  local name=$1 status=0 setting settings=()
  shift
  for setting in "models.dir=$MODELS" "run.seed=$SEED" "$@"; do
    settings+=(--set "$setting")
  done
  "$STORYLOOM" run --config configs/quickstart.toml --manifest "$MANIFEST" --out "$OUT/$name" \
    "${settings[@]}" || status=$?
  # 75: stopped early and saved; 1: some shots failed, which the table says.
  [ "$status" -le 1 ] || exit "$status"
}

# Every shot stands alone: the per-shot baseline.
run none storymem.max_images=0 storymem.sink=0
run memory
# A shot sees only the newest pictures.
run window storymem.sink=0
# The first frame of every shot is remembered, whatever it shows.
run first-frame storymem.selection=first-frame
# The similarity below which a frame is new never falls: as many keyframes as there are frames stay.
run no-decay storymem.max_keyframes=9

echo "memory against none"
"$STORYLOOM" eval "$OUT/none" "$OUT/memory" --out "$OUT/memory-against-none" --sheet "$OUT/memory-against-none.png"
echo
echo "parts of the memory against all of it"
"$STORYLOOM" eval "$OUT/memory" "$OUT/window" "$OUT/first-frame" "$OUT/no-decay" \
  --out "$OUT/parts-against-memory"
