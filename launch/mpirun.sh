#!/usr/bin/env bash
# One world under mpirun: the ranks of one node, or of the nodes of a hostfile.
#
#   CONFIG=config.toml MANIFEST=stories.jsonl OUT=/shared/run RANKS=8 launch/mpirun.sh
#
# CONFIG, MANIFEST, OUT   what `storyloom run` takes; every node must see them under these names
# RANKS                   processes of the world, one per GPU
# HOSTFILE                hosts of the world, one a line; without it all ranks are on this one
#
# Arguments go to `storyloom run`, for example --set run.lease_timeout=120. Ends with the exit code of
# the run: 75 means stopped early, or that a rank or mpirun was killed, run me again. Works with Open MPI
# and MPICH.

set -euo pipefail

for name in CONFIG MANIFEST OUT RANKS; do
  if [ -z "${!name:-}" ]; then
    echo "$name is not set; the head of this file says what it is" >&2
    exit 2
  fi
done

command -v mpirun >/dev/null || {
  echo "mpirun is not there; install the MPI that your build was made with, Open MPI or MPICH" >&2
  exit 69
}

# Every rank would say the same, and mpirun a page more. The binary of other hosts is not looked at.
if command -v storyloom >/dev/null && [[ "$(storyloom --version)" == *"MPI: not built in"* ]]; then
  echo "this storyloom was built without MPI: build it with --features mpi (scripts/setup.sh --mpi)," \
    "or start the ranks of one machine with storyloom launch" >&2
  exit 78
fi

# Arithmetic threads use all cores of a rank; Open MPI would give them one.
options=(-bind-to none -n "$RANKS")
[ -z "${HOSTFILE:-}" ] || options+=(-machinefile "$HOSTFILE")
# SIGUSR2 drains, where mpirun forwards it; mpirun of MPICH would die of it.
drain=USR1
if [[ "$(mpirun --version)" == *"Open MPI"* ]]; then
  drain=USR2
  # Open MPI leaves the environment behind when it starts ranks on other hosts; all must have the
  # same settings.
  for name in "${!STORYLOOM_@}"; do options+=(-x "$name"); done
fi

# Runs mpirun and ends as the run ended. SIGTERM, SIGINT or SIGUSR1 to this script becomes SIGUSR1
# to mpirun, which forwards it to all ranks: they stop after the running step and save it. Open MPI
# would follow SIGTERM with SIGKILL a second later, before anything is saved.
as_one_world() {
  local world="" asked="" status=0
  pass_on() {
    asked=$1
    [ -z "$world" ] || kill -"$1" "$world" 2>/dev/null || true
  }
  trap 'pass_on USR1' TERM INT USR1
  trap 'pass_on "$drain"' USR2
  # A process group of its own: Ctrl-C, and a SIGTERM for the whole group, reach only this script.
  set -m
  "$@" </dev/null &
  world=$!
  set +m
  # Asked to stop before there was anything to ask.
  [ -z "$asked" ] || pass_on "$asked"
  # A signal ends `wait`, not the world.
  while kill -0 "$world" 2>/dev/null; do wait "$world" || true; done
  wait "$world" || status=$?
  # After a signal, mpirun of MPICH sometimes says 0 whatever the ranks ended with; and what gets
  # one before it listens ends by it (128 + the signal, for ranks of MPICH the signal). To run again
  # is right in each case: a run that is done ends with 0 at once.
  case "$asked:$status" in
    USR1:0 | USR1:10 | USR1:138 | USR2:0 | USR2:12 | USR2:140) status=75 ;;
    # mpirun itself got SIGTERM, as from a scheduler that signals every process of a job: it kills the
    # ranks a second later, and then says 143, or 1 (Open MPI), whatever they have saved.
    *:143 | USR1:1 | USR2:1 | USR1:15 | USR2:15)
      echo "mpirun was ended by SIGTERM (it says $status, the ranks would say 75): what was saved is" \
        "kept, run the same command again; to stop a run signal this script, which lets it save" >&2
      status=75
      ;;
    :1)
      echo "mpirun says 1: some shots failed, as the ranks tell above, or mpirun itself got SIGTERM" \
        "(Open MPI says 1 then, too); the same command goes on from what was saved" >&2
      ;;
    # A rank was killed (SIGKILL: for want of memory, by hand, with its node), and mpirun tells how
    # that one ended, not how the others did. They have saved, and the world can go on.
    *:137 | *:9)
      echo "a rank was killed; what was saved is kept, run the same command again" >&2
      status=75
      ;;
  esac
  exit "$status"
}

# --on-preempt: inside a Slurm job a stopped run would wait for the end of the job.
as_one_world mpirun "${options[@]}" \
  storyloom run --config "$CONFIG" --manifest "$MANIFEST" --out "$OUT" --on-preempt exit "$@"
