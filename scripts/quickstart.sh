#!/usr/bin/env bash
# From a fresh checkout to a report of four stories: set-up, build, run with storyloom-tiny, report.
# A second start takes seconds and makes nothing again. A binary that was built with MPI is built
# with MPI again, and never replaced by one without.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh

OUT=runs/quickstart
STORYLOOM=target/release/storyloom

features=()
if [ -x "$STORYLOOM" ] && "$STORYLOOM" --version | grep -q 'MPI: built in'; then
  features=(--features mpi)
fi
cargo build --release --locked --bin storyloom "${features[@]}"

# With stories that failed there is still a report to read, and the exit code says so.
status=0
"$STORYLOOM" run --config configs/quickstart.toml --manifest manifests/quickstart.jsonl --out "$OUT" \
  || status=$?
[ "$status" -le 1 ] || exit "$status"
"$STORYLOOM" report "$OUT" >/dev/null
echo "$PWD/$OUT/report/index.html"
exit "$status"
