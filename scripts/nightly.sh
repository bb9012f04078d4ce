#!/usr/bin/env bash
# What takes too long for every change: a minute of each fuzz target, and 500 kills; see CONTRIBUTING.md.
# Half an hour on two cores. Ends with 1 if something was found.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FAILED=0
for campaign in fuzz torture; do
  printf '== %s\n' "$campaign"
  "scripts/$campaign.sh" || FAILED=1
done
exit "$FAILED"
