"""What every golden case needs: paths, random filling, saving."""

import importlib.metadata
import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2] / "tests" / "golden"
SEED = 20260
PACKAGES = ("torch", "diffusers", "transformers", "peft", "tokenizers", "ftfy")

torch.set_num_threads(2)
torch.set_grad_enabled(False)


def generator(name):
    """A generator that depends on the case only; different names give different streams."""
    return torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))


def fill(model, name, spread=0.05):
    """Refills every parameter so that no path is near zero; values are exact in bf16."""
    gen = generator(name)
    for key, value in sorted(model.named_parameters()):
        noise = torch.randn(value.shape, generator=gen)
        is_norm = key.endswith("gamma") or ("norm" in key and key.endswith("weight"))
        if is_norm:
            new = 1 + 0.1 * noise
        elif "table" in key:
            new = 0.3 * noise
        elif value.dim() >= 2:
            # Keeps activations of order one whatever the width.
            fan_in = value[0].numel()
            new = noise / fan_in**0.5
        else:
            new = spread * noise
        value.copy_(new.bfloat16().float())
    return model.eval()


def randn(name, *shape, scale=1.0):
    """Normal numbers that depend on the name only."""
    return torch.randn(*shape, generator=generator(name)) * scale


def save_io(folder, tensors, **recipe):
    """Writes inputs and results, and what made them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = recipe.pop("file", "io.safetensors")
    for name, value in tensors.items():
        assert torch.isfinite(value.float()).all(), f"{folder.name}: {name} is not finite"
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / file)
    if recipe:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        write_json(folder / "recipe.json", {"seed": SEED, **recipe, "versions": versions})


def write_json(path, value):
    """Writes JSON a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path, entries):
    """Writes a JSON list with one line for each entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(e, ensure_ascii=False) for e in entries) + "\n]\n")


def save_model(model, folder, dtype=torch.bfloat16, **options):
    """Saves in the hub layout; the values are exact in bf16, so the dtype costs nothing."""
    for value in model.parameters():
        value.data = value.data.to(dtype)
    model.save_pretrained(folder, **options)
    model.float()
