#!/usr/bin/env bash
# Everything that must hold before a change is merged: formatting, lints, all tests.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh --mpi --mpich --nvrtc --monitoring --browser --deny
set +e

# The worlds of the tests are those of Open MPI; MPICH has the collectives tried on it.
export MPICC=mpicc.openmpi PATH="$PWD/target/openmpi-bin:$PATH"
mkdir -p target/openmpi-bin
ln -sf "$(command -v mpirun.openmpi)" target/openmpi-bin/mpirun

# Many tests compute at the same time: threads that wait must not spin.
export OMP_WAIT_POLICY=PASSIVE

FEATURES=storyloom/mpi,storyloom-parallel/mpi
LOG=target/test.log
SUMMARY=()
FAILED=0
mkdir -p target
: >"$LOG"

# Runs a step, shows what it says, and notes how it went.
step() {
  local name="$1" start=$SECONDS
  shift
  printf '== %s\n' "$name"
  if "$@" 2>&1 | tee -a "$LOG"; then
    SUMMARY+=("ok      $name ($((SECONDS - start)) s)")
  else
    SUMMARY+=("FAILED  $name ($((SECONDS - start)) s)")
    FAILED=1
  fi
}

# Only a finding fails: what cannot be had without network is told.
check_sources() {
  if cargo fetch --quiet --locked; then
    cargo deny --locked check licenses bans sources
  else
    echo "skipped: licences, bans and sources: the packages of other systems cannot be downloaded"
  fi
}
check_advisories() {
  if cargo deny fetch db; then
    cargo deny --locked check advisories
  else
    echo "skipped: advisories: the database of RustSec cannot be reached"
  fi
}

step "format" cargo fmt --all --check
step "format of fuzz targets" cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
step "lints" cargo clippy --release --workspace --all-targets --locked --features "$FEATURES" -- -D warnings
step "tests" cargo test --release --workspace --locked --features "$FEATURES" --no-fail-fast
step "collectives on MPICH" env MPICC=mpicc.mpich MPIRUN=mpirun.mpich \
  cargo test --release --locked -p storyloom-parallel --features mpi --target-dir target/mpich
step "licences, bans and sources" check_sources
step "advisories" check_advisories

printf '== summary\n'
printf '%s\n' "${SUMMARY[@]}"
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored }' "$LOG"
grep -E '^skipped: ' "$LOG" | sort -u
exit "$FAILED"
