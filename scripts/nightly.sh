#!/usr/bin/env bash
# What takes too long for every change: a minute of each fuzz target, 1,500 kills, each
# damage of each file, and a fifth method; see CONTRIBUTING.md. An hour on two cores. Ends with 1 if something was found.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FAILED=0
for campaign in fuzz torture damage fifth-method; do
  printf '== %s\n' "$campaign"
  "scripts/$campaign.sh" || FAILED=1
done
exit "$FAILED"
