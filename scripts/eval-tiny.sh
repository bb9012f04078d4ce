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

for variant in none memory window first-frame no-decay; do
  # 75: stopped early and saved; 1: some shots failed, which the table says.
  status=0
  "$STORYLOOM" run --config "configs/tiny-$variant.toml" --manifest "$MANIFEST" \
    --out "$OUT/$variant" --set "models.dir=$MODELS" --set "run.seed=$SEED" || status=$?
  [ "$status" -le 1 ] || exit "$status"
done

echo "memory against none"
"$STORYLOOM" eval "$OUT/none" "$OUT/memory" --out "$OUT/memory-against-none"
echo
echo "parts of the memory against all of it"
"$STORYLOOM" eval "$OUT/memory" "$OUT/window" "$OUT/first-frame" "$OUT/no-decay" \
  --out "$OUT/parts-against-memory"
