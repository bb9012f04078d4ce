"""Makes the golden tensors of `tests/golden` with the reference packages."""

import importlib
import sys

MODULES = ["dit", "vae", "text", "clip", "schedulers", "lora", "pipelines"]

if __name__ == "__main__":
    for name in sys.argv[1:] or MODULES:
        print(name, flush=True)
        importlib.import_module(name).make()
