#!/usr/bin/env python3
"""How long a release build takes after a change of one file, in two checkouts, in turns.

    scripts/bench/incremental.py OLD NEW [--rounds 3] [--touch-old FILE] [--touch-new FILE]

Each checkout is built once (`cargo build --release -p storyloom`), and once more to see that nothing is left
to do. Then, in every round, the file of each is touched and its build is timed; which one begins changes from
round to round. Without options the file is where the loop of StoryMem stands: crates/models/src/engine.rs in
OLD (commit ed2a047, one crate of all networks) and crates/engine/src/method/storymem/denoise.rs in NEW.

Both have the same environment from the first build to the last, for crates of libtorch are built again where
LIBTORCH or one of its kind differs: that of the caller, with LIBTORCH from NEW/.libtorch if the caller has
none, and without CARGO_TARGET_DIR, since each builds into its own target folder. Packages must be downloaded
and libtorch unpacked before (scripts/setup.sh in NEW, `cargo fetch` in OLD). Prints JSON: the ratio is OLD's
median by NEW's, above 1 where NEW builds faster.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

OLD = "crates/models/src/engine.rs"
NEW = "crates/engine/src/method/storymem/denoise.rs"


class Checkout:
    """A checkout with the file that is changed in it."""

    def __init__(self, folder, touched, package, environment):
        self.folder = pathlib.Path(folder).resolve()
        self.touched = self.folder / touched
        self.environment = environment
        self.command = ["cargo", "build", "--release", "--locked", "--package", package,
                        "--target-dir", str(self.folder / "target")]
        self.seconds = []
        self.compiled = []
        if not self.touched.is_file():
            sys.exit(f"{self.touched} is no file; name one with --touch-old or --touch-new")

    def build(self):
        """Builds, and returns the seconds and the crates that were compiled."""
        begun = time.monotonic()
        ended = subprocess.run(self.command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                               capture_output=True, text=True)
        seconds = time.monotonic() - begun
        if ended.returncode != 0:
            sys.exit(f"{' '.join(self.command)} in {self.folder}\nended with {ended.returncode}: {ended.stderr[-2000:]}")
        return seconds, re.findall(r"^ *Compiling (\S+)", ended.stderr, re.MULTILINE)

    def warm(self):
        """Builds everything; a second build then finds nothing to do, or the environment is not the same."""
        seconds, _ = self.build()
        print(f"{self.folder}: warm after {seconds:.0f} s", file=sys.stderr)
        _, left = self.build()
        if left:
            sys.exit(f"{self.folder}: a second build compiles {', '.join(left)} again, so nothing can be timed")

    def measure(self):
        os.utime(self.touched)
        seconds, compiled = self.build()
        if not compiled:
            sys.exit(f"{self.folder}: {self.touched} is not part of the build")
        self.seconds.append(seconds)
        self.compiled = compiled
        print(f"{self.folder}: {seconds:.1f} s ({', '.join(compiled)})", file=sys.stderr)

    def commit(self):
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=self.folder, capture_output=True, text=True)
        return head.stdout.strip() or None

    def report(self):
        return {
            "commit": self.commit(),
            "touched": str(self.touched.relative_to(self.folder)),
            "median_s": round(statistics.median(self.seconds), 2),
            "seconds": [round(seconds, 2) for seconds in self.seconds],
            "compiled": self.compiled,
        }


def settled(new):
    """One environment for all builds of both checkouts."""
    environment = dict(os.environ)
    environment.pop("CARGO_TARGET_DIR", None)
    shipped = pathlib.Path(new).resolve() / ".libtorch" / "torch"
    if "LIBTORCH" not in environment and shipped.is_dir():
        environment["LIBTORCH"] = str(shipped)
    if "LIBTORCH" in environment:
        environment.setdefault("LIBTORCH_CXX11_ABI", "1")
    return environment


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--touch-old", default=OLD, metavar="FILE")
    parser.add_argument("--touch-new", default=NEW, metavar="FILE")
    parser.add_argument("--package", default="storyloom")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    environment = settled(options.new)
    old = Checkout(options.old, options.touch_old, options.package, environment)
    new = Checkout(options.new, options.touch_new, options.package, environment)
    if old.folder == new.folder:
        parser.error("OLD and NEW are the same checkout")
    for checkout in [old, new]:
        checkout.warm()
    for turn in range(options.rounds):
        for checkout in [old, new] if turn % 2 == 0 else [new, old]:
            checkout.measure()
    figures = {"old": old.report(), "new": new.report()}
    figures["ratio"] = round(statistics.median(old.seconds) / statistics.median(new.seconds), 2)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
