#!/usr/bin/env bash
# Time and size of the report of a large run, without videos, on the simulated engine.
#
#   scripts/bench/report.sh [STORIES [SHOTS [WIDTH HEIGHT]]]     1000 stories of 10 shots of 208 x 128
#
# Makes the run in a new folder below BENCH_DIR (default: the current folder) and removes it at the end;
# KEEP=1 keeps it.

set -euo pipefail
STORYLOOM="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/target/release/storyloom"
STORIES="${1:-1000}" SHOTS="${2:-10}" WIDTH="${3:-208}" HEIGHT="${4:-128}"
PLACE="$(mktemp -d "${BENCH_DIR:-.}/bench-report.XXXXXX")"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$PLACE"' EXIT

python3 - "$STORIES" "$SHOTS" >"$PLACE/manifest.jsonl" <<'PYTHON'
import json, sys
stories, shots = map(int, sys.argv[1:])
text = ("Shot {}: a prompt of the usual length, with a place, somebody, something to do, light and a "
        "movement of the camera, as the scripts of the benchmark have them.")
scene = {"scene_num": 1, "video_prompts": [text.format(n + 1) for n in range(shots)],
         "cut": [True] * shots}
for number in range(stories):
    script = {"story_name": f"The {number}th evening at the harbour", "scenes": [scene]}
    print(json.dumps({"id": f"story-{number:05}", "tenant": "north", "script": script}))
PYTHON

STORYLOOM_LOG=warn "$STORYLOOM" run --manifest "$PLACE/manifest.jsonl" --out "$PLACE/run" \
  --set engine=simulated --set simulated.videos=false --set storymem.steps=1 \
  --set storymem.quality_threshold=0 --set video.frames=9 \
  --set "video.width=$WIDTH" --set "video.height=$HEIGHT" >/dev/null

TIMEFORMAT='%1R s'
for round in first second; do
  printf '%s report: ' "$round" >&2
  time "$STORYLOOM" report "$PLACE/run" >/dev/null 2>&1
done
cd "$PLACE/run/report"
printf 'overview: %d bytes in %d files\n' "$(cat index.html assets/* data/* | wc -c)" \
  "$(find index.html assets data -type f | wc -l)"
printf 'all of it: %d files, %s\n' "$(find . -type f | wc -l)" "$(du -sh . | cut -f1)"
