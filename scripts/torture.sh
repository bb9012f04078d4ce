#!/usr/bin/env bash
# The long durability test: 1,500 kills over 100 stories of 5 shots; see docs/durability.md.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh

cargo test --release --locked -p storyloom --test system -- --ignored --nocapture fifteen_hundred_kills
