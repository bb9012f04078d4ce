#!/usr/bin/env bash
# Every kind of damage of every kind of file of a run folder, as a table; see docs/durability.md.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh

cargo test --release --locked -p storyloom --test system -- --ignored --nocapture --test-threads=1 every_damage
