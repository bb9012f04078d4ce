#!/usr/bin/env python3
"""How fast a build is beside another one: what every run does most, in turns.

    scripts/bench/builds.py BEFORE AFTER [--rounds 5] [--stories 100] [--place DIR]

  run      `storyloom run` of `--stories` stories of 8 shots on the simulated engine that takes no time,
           in seconds
  denoise  seconds of the stage `denoise` in the records of the first story of manifests/quickstart.jsonl
           with configs/quickstart.toml
  ledger   what a shot costs in the ledger, the median of 150, in milliseconds (`storyloom bench store`)

In every round both builds do all three, and which one begins changes from round to round. A ratio is
BEFORE's median by AFTER's: above 1, AFTER is faster.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from first_work import CONFIG, environment, manifest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def call(binary, *arguments):
    command = [binary, *map(str, arguments)]
    ended = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {ended.returncode}: {ended.stderr.decode()[-2000:]}")
    return ended.stdout


def run(binary, place, out):
    begun = time.monotonic()
    call(binary, "run", "--config", place / "config.toml", "--manifest", place / "manifest.jsonl", "--out", out)
    return time.monotonic() - begun


def denoise(binary, place, out):
    # A build knows the keys of its own checkout, where it lies below target/release.
    checkout = next((folder for folder in pathlib.Path(binary).parents if (folder / "configs").is_dir()), ROOT)
    quickstart = checkout / "configs/quickstart.toml", checkout / "manifests/quickstart.jsonl"
    call(binary, "run", "--config", quickstart[0], "--manifest", quickstart[1], "--limit", 1, "--out", out)
    records = [json.loads(record.read_text()) for record in out.glob("stories/*/commits/*_*.json")]
    return sum(record["seconds"]["denoise"] for record in records if "seconds" in record)


def ledger(binary, place, out):
    out.mkdir()
    said = call(binary, "bench", "store", "--shots", 150, "--stories", 100, "--dir", out)
    return json.loads(said)["ledger"]["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", nargs=2, metavar="BIN")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--place")
    options = parser.parse_args()
    before, after = (os.path.abspath(binary) for binary in options.binaries)
    place = pathlib.Path(tempfile.mkdtemp(prefix="builds-", dir=options.place))
    try:
        (place / "config.toml").write_text(CONFIG.replace("step_ms = 20", "step_ms = 0"))
        manifest(place / "manifest.jsonl", options.stories, 8)
        values = {}
        for turn in range(options.rounds):
            for binary in [before, after] if turn % 2 == 0 else [after, before]:
                for measure in [run, denoise, ledger]:
                    value = measure(binary, place, place / "out")
                    shutil.rmtree(place / "out")
                    values.setdefault((measure.__name__, binary), []).append(value)
        for what, unit in [("run", "s"), ("denoise", "s"), ("ledger", "ms")]:
            one, two = values[what, before], values[what, after]
            ratio = statistics.median(one) / statistics.median(two)
            spread = ["{:.2f} ({:.2f} to {:.2f})".format(statistics.median(some), min(some), max(some))
                      for some in (one, two)]
            print(f"{what:8} before {spread[0]} {unit}, after {spread[1]} {unit}, ratio {ratio:.3f}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


main()
