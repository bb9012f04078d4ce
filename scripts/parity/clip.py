"""CLIP image encoders."""

import shutil

from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

import common
from common import fill, randn, save_io, save_model


def make():
    b32("clip-b32")
    h14("clip-h14")


def b32(name):
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPVisionConfig(image_size=40, patch_size=8, projection_dim=20, hidden_act="quick_gelu", **shape)
    model = fill(CLIPVisionModelWithProjection(config), name)
    pixels = randn(name + "x", 3, 3, 40, 40)
    result = model(pixel_values=pixels)
    tensors = {"pixel_values": pixels, "output": result.image_embeds, "last_hidden_state": result.last_hidden_state}
    write(name, model, tensors, "transformers CLIPVisionModelWithProjection", prefixed=True)


def h14(name):
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=28, patch_size=14, hidden_act="gelu", **shape)
    model = fill(CLIPVisionModel(config), name)
    pixels = randn(name + "x", 1, 3, 28, 28)
    result = model(pixel_values=pixels, output_hidden_states=True)
    tensors = {"pixel_values": pixels, "output": result[0], "penultimate": result.hidden_states[-2], "pooled": result.pooler_output}
    write(name, model, tensors, "transformers CLIPVisionModel", prefixed=False)


def write(name, model, tensors, reference, prefixed):
    """Hub files carry the prefix `vision_model.` or not, by version: one case of each."""
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, folder / "image_encoder")
    file = folder / "image_encoder" / "model.safetensors"
    bare = {k.removeprefix("vision_model."): v for k, v in load_file(file).items()}
    keep = lambda k: k if not prefixed or k.startswith("visual_projection") else f"vision_model.{k}"
    save_file({keep(k): v for k, v in bare.items()}, file)
    save_io(folder, tensors, reference=reference, tolerance=1e-5)
