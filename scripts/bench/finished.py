#!/usr/bin/env python3
"""What it takes to look at a run that is finished, with one or more binaries in turn.

    scripts/bench/finished.py BIN [BIN ...] [--stories 10000] [--shots 2] [--films 100] [--rounds 3] [--place DIR]

  start    `storyloom run` on a folder whose stories are all finished, to its end
  repair   `storyloom repair` of the same folder, with the binaries that have it
  verify   `storyloom verify` of a finished run of `--films` stories with videos, which decodes them

Each binary has folders of its own, made by itself.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from first_work import CONFIG, environment, manifest


def call(*command):
    begun = time.monotonic()
    ended = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True)
    return time.monotonic() - begun, ended


def made(binary, place, name, stories, shots, config):
    """A finished run: the arguments of its command, and its folder."""
    paths = [f"{place}/{name}.{kind}" for kind in ("toml", "jsonl", "out")]
    with open(paths[0], "w") as file:
        file.write(config)
    manifest(paths[1], stories, shots)
    run = ["run", "--config", paths[0], "--manifest", paths[1], "--out", paths[2]]
    seconds, ended = call(binary, *run)
    if ended.returncode != 0:
        sys.exit(f"the run was not made: {ended.stderr.decode()[-2000:]}")
    print(f"{name}: {stories} stories of {shots} shots made in {seconds:.1f} s", flush=True)
    return run, paths[2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binaries", nargs="+")
    parser.add_argument("--stories", type=int, default=10_000)
    parser.add_argument("--shots", type=int, default=2)
    parser.add_argument("--films", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place")
    options = parser.parse_args()
    binaries = [os.path.abspath(binary) for binary in options.binaries]
    place = tempfile.mkdtemp(prefix="finished-", dir=options.place)
    try:
        instant = CONFIG.replace("step_ms = 20", "step_ms = 0")
        folders = {}
        for number, binary in enumerate(binaries):
            films = instant.replace("videos = false", "videos = true")
            folders[binary] = (*made(binary, place, f"many-{number}", options.stories, options.shots, instant),
                               made(binary, place, f"films-{number}", options.films, 8, films)[1])
        times = {}
        for _ in range(options.rounds):
            for binary in binaries:
                run, many, filmed = folders[binary]
                for what, command in [("start", run), ("repair", ["repair", many]), ("verify", ["verify", filmed])]:
                    seconds, ended = call(binary, *command)
                    if what == "repair" and ended.returncode == 2:
                        continue
                    if ended.returncode != 0:
                        sys.exit(f"{what} ended with {ended.returncode}: {ended.stderr.decode()[-2000:]}")
                    times.setdefault((what, binary), []).append(seconds)
        for (what, binary), seconds in sorted(times.items()):
            middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
            print(f"{what:8} {middle:6.2f} s ({low:.2f} to {high:.2f})  {binary}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
