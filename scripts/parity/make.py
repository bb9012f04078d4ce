"""Makes the golden tensors of `tests/golden` with the reference packages.

    python scripts/parity/make.py [--out DIR] [name...]

Without names everything is remade; see `CASES` for the names. `--out` writes somewhere else, for
a look at what would change.
"""

import argparse
import importlib
import pathlib

import common

# In this order: `lora` and the pipelines use what cases before them define or write.
CASES = {
    "dit": ("dit", "make"),
    "vae": ("vae", "make"),
    "umt5": ("text", "make_umt5"),
    "clip-tokenizer": ("text", "make_clip_tokenizer"),
    "prompt_clean": ("text", "make_prompt_clean"),
    "schedulers": ("schedulers", "make"),
    "clip": ("clip", "make"),
    "dino": ("dino", "make"),
    "lora": ("lora", "make"),
    "pipelines": ("pipelines", "make"),
    "pipeline-flux": ("flux", "make"),
    "language": ("language", "make"),
    "onestory": ("onestory", "make"),
    "pipeline-onestory": ("onestory_pipeline", "make"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(CASES))
    parser.add_argument("--out", type=pathlib.Path, default=common.ROOT)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(CASES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    common.ROOT = arguments.out.resolve()
    for name in arguments.names or CASES:
        print(name, flush=True)
        module, function = CASES[name]
        getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
