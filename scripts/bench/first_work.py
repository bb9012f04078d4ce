#!/usr/bin/env python3
"""Time from the start of `storyloom run` to its first work, on many stories, and how soon it stops.

    scripts/bench/first_work.py BIN [BIN ...] [--stories 10000] [--shots 8] [--rounds 3] [--place DIR]

Each round makes, with every binary in turn, a new run folder on the simulated engine and measures:

  first    until the first story is taken: the first attempt at a shot is in the journal
  status   until `storyloom status` of that binary knows the folder (it is asked again and again)
  stop     from SIGTERM, sent when `--stop-after` seconds have gone by, until the program has ended
  again    the same command on a folder whose stories all have their files, until the first work

A folder whose stories all have their files is made once with each binary, by letting it write them or,
where the binary writes them only as stories are taken, by writing them here in the form it uses.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = """engine = "simulated"
device = "cpu"
[video]
width = 64
height = 48
frames = 9
fps = 8
[sampler]
steps = 2
[simulated]
step_ms = 20
videos = false
[metrics]
listen = ""
"""


def manifest(path, stories, shots):
    with open(path, "w") as file:
        for number in range(stories):
            prompts = [f"Shot {shot} of story {number}: a red kettle stands on a wooden table by a window, and the "
                       "morning light moves slowly over it while the camera comes closer." for shot in range(shots)]
            scene = {"scene_num": 1, "video_prompts": prompts, "cut": [True] * shots}
            line = {"id": f"story-{number:05}", "script": {"story_name": f"Story {number}", "scenes": [scene]}}
            file.write(json.dumps(line) + "\n")


def environment():
    return {key: value for key, value in os.environ.items() if not key.startswith("STORYLOOM_")}


def start(binary, place, out):
    command = [binary, "run", "--config", f"{place}/c.toml", "--manifest", f"{place}/m.jsonl", "--out", out]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def works(out):
    """Whether a journal of the run has a story that somebody holds, or an attempt at a shot."""
    folder = os.path.join(out, "leases", "stories")
    try:
        return any(os.scandir(folder))
    except FileNotFoundError:
        return False


def until(process, condition, limit=600):
    begun = time.monotonic()
    while not condition():
        if process.poll() is not None:
            sys.exit(f"the program ended by itself with code {process.returncode}")
        if time.monotonic() - begun > limit:
            sys.exit("nothing happens")
        time.sleep(0.005)
    return time.monotonic()


def end(process):
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    return process.wait(), time.monotonic() - begun


def first(binary, place, out):
    begun = time.monotonic()
    process = start(binary, place, out)
    seconds = until(process, lambda: works(out)) - begun
    end(process)
    return seconds


def seen(binary, place, out):
    asked = [binary, "status", out]
    begun = time.monotonic()
    process = start(binary, place, out)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment()}
    seconds = until(process, lambda: subprocess.run(asked, **quiet).returncode == 0) - begun
    end(process)
    return seconds


def stop(binary, place, out, after):
    process = start(binary, place, out)
    time.sleep(after)
    code, seconds = end(process)
    return code, seconds


def fill(binary, place, out):
    """A folder in which every story has its file: as the binary leaves it, the missing ones written here."""
    process = start(binary, place, out)
    until(process, lambda: works(out))
    end(process)
    shutil.rmtree(os.path.join(out, "leases"))
    for line in open(f"{place}/m.jsonl"):
        entry = json.loads(line)
        path = os.path.join(out, "stories", entry["id"], "story.json")
        if os.path.exists(path):
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            story = {"format": 1, "id": entry["id"], "script": entry["script"], "seed": None, "tenant": None,
                     "reference_images": [], "size": None, "state": {"state": "pending"}, "video": None}
            json.dump(story, file, indent=2)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binaries", nargs="+", metavar="BIN")
    arguments.add_argument("--stories", type=int, default=10_000)
    arguments.add_argument("--shots", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--stop-after", type=float, default=2.0)
    arguments.add_argument("--place", help="a folder on the disk to measure")
    arguments = arguments.parse_args()
    place = tempfile.mkdtemp(prefix="first-work-", dir=arguments.place)
    names = [os.path.abspath(binary) for binary in arguments.binaries]
    times = {binary: {"first": [], "status": [], "stop": [], "again": []} for binary in names}
    try:
        with open(f"{place}/c.toml", "w") as file:
            file.write(CONFIG)
        manifest(f"{place}/m.jsonl", arguments.stories, arguments.shots)
        fresh = os.path.join(place, "out")

        def anew():
            shutil.rmtree(fresh, ignore_errors=True)
            return fresh

        full = {binary: os.path.join(place, f"full-{number}") for number, binary in enumerate(names)}
        for binary in names:
            fill(binary, place, full[binary])
        for _ in range(arguments.rounds):
            for binary in names:
                found = times[binary]
                found["first"].append(first(binary, place, anew()))
                found["status"].append(seen(binary, place, anew()))
                code, seconds = stop(binary, place, anew(), arguments.stop_after)
                if code != 75:
                    print(f"{binary}: SIGTERM ended it with code {code}, not 75")
                found["stop"].append(seconds)
                shutil.rmtree(os.path.join(full[binary], "leases"), ignore_errors=True)
                found["again"].append(first(binary, place, full[binary]))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"{arguments.stories} stories of {arguments.shots} shots, median of {arguments.rounds} (least to most), in s")
    for binary in names:
        print(binary)
        for what, seconds in times[binary].items():
            low, high = min(seconds), max(seconds)
            print(f"  {what:<7} {statistics.median(seconds):8.2f}  ({low:.2f} to {high:.2f})")
    if len(names) > 1:
        medians = [statistics.median(times[binary]["first"]) for binary in names]
        print(f"first work of the first binary over that of the last: {medians[0] / medians[-1]:.1f}x")


if __name__ == "__main__":
    main()
