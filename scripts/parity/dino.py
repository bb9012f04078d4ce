"""DINOv2 towers."""

import shutil

from transformers import Dinov2Config, Dinov2Model

import common
from common import fill, randn, save_io, save_model


def make():
    shape = {"num_attention_heads": 4, "num_hidden_layers": 3}
    tower("dino-b14", hidden_size=48, patch_size=6, image_size=30, **shape)
    tower("dino-swiglu", hidden_size=40, patch_size=4, image_size=24, use_swiglu_ffn=True, qkv_bias=False, **shape)


def tower(name, **options):
    config = Dinov2Config(**options)
    model = fill(Dinov2Model(config), name)
    for key, value in sorted(model.named_parameters()):
        if key.endswith("lambda1"):
            value.copy_((0.7 + 0.2 * randn(name + key, *value.shape)).bfloat16().float())
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, folder / "image_encoder")
    side, patch = config.image_size, config.patch_size
    square, wide = randn(name + "x", 2, 3, side, side), randn(name + "y", 1, 3, side + patch + 1, side + 3 * patch)
    for file, pixels in (("wide.safetensors", wide), ("io.safetensors", square)):
        result = model(pixel_values=pixels)
        tensors = {"pixel_values": pixels, "output": result.last_hidden_state, "pooled": result.pooler_output.clone()}
        save_io(folder, tensors, file=file, reference="transformers Dinov2Model", tolerance=1e-5)
