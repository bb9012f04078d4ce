#!/usr/bin/env python3
"""What planning costs a run of real networks: the same stories with ready scripts and of briefs.

    scripts/bench/planning.py [--stories 6] [--shots 3] [--share 0.2] [--rounds 3]

Runs of storyloom's random tiny networks on the processor, in turns: with ready scripts, of briefs
planned on a thread of the program, and of briefs planned by a rank of its own. The planner is the
simulated one: it takes `--share` of what the shots of a story took in a first run, and no processor.
Needs only the built program (target/release/storyloom, or the one named in STORYLOOM).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("STORYLOOM", str(ROOT / "target/release/storyloom"))


def call(*arguments):
    """Runs the program to its end; seconds it took."""
    begun = time.monotonic()
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{arguments}: code {done.returncode}\n{done.stderr}")
    return time.monotonic() - begun


def sets(**values):
    """Settings as arguments; two underscores stand for a point."""
    pairs = (f"{key.replace('__', '.')}={value}" for key, value in values.items())
    return [word for pair in pairs for word in ("--set", pair)]


def briefs(stories, shots):
    """Lines of briefs."""
    one = {"title": "The kettle", "selling_points": ["It is quiet."], "shots": shots}
    return [{"id": f"ad-{number:03}", **one} for number in range(stories)]


def ready(lines, out):
    """The same stories with the scripts that were planned in the run folder `out`."""
    for line in lines:
        plan = json.loads((out / "stories" / line["id"] / "plan.json").read_text())
        yield {"id": line["id"], "script": plan["script"]}


def render_seconds(out):
    """What the stages of all shots of a run took together, per story."""
    records = [json.loads(path.read_text()) for path in out.glob("stories/*/commits/*.json")]
    stories = {record["request"]["story"] for record in records}
    return sum(sum(record["seconds"].values()) for record in records) / len(stories)


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=6)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(pathlib.Path(folder), wanted), indent=2))


def measure(folder, wanted):
    models = folder / "models"
    call("model", "init-tiny", models, "--method", "storymem", "--seed", 1)
    common = sets(
        engine="torch", device="cpu", models__dir=models, run__threads=1, planner__backend="simulated",
        video__width=64, video__height=48, video__frames=9, video__fps=8, memory__quality_threshold=0,
        sampler__steps=12,
    )
    of_briefs = write(folder / "briefs.jsonl", briefs(wanted.stories, wanted.shots))

    def run(name, manifest, *more, ranks=1):
        world = ["launch", "-n", ranks] if ranks > 1 else []
        out = folder / name
        seconds = call(*world, "run", "--manifest", manifest, "--out", out, *common, *more)
        return out, seconds

    first, _ = run("first", of_briefs)
    scripts = write(folder / "ready.jsonl", ready(briefs(wanted.stories, wanted.shots), first))
    # One story at a time, so that no stage waits for the processor in its time.
    alone, _ = run("alone", scripts, *sets(topology__interleave=1))
    render = render_seconds(alone)
    cost = sets(simulated__plan_ms=round(1000 * wanted.share * render))
    ways = {
        "ready": lambda name: run(name, scripts),
        "thread": lambda name: run(name, of_briefs, *cost),
        "rank": lambda name: run(name, of_briefs, *cost, *sets(topology__planners=1), ranks=2),
    }
    times = {way: [] for way in ways}
    for number in range(wanted.rounds):
        for way, make in ways.items():
            times[way].append(make(f"{way}-{number}")[1])
    ratios = {
        way: [with_plans / without - 1 for with_plans, without in zip(times[way], times["ready"])]
        for way in ("thread", "rank")
    }
    return {
        "stories": wanted.stories,
        "shots": wanted.shots,
        "render_seconds_per_story": render,
        "plan_seconds_per_story": wanted.share * render,
        "seconds": times,
        "longer": {way: statistics.median(values) for way, values in ratios.items()},
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    main()
