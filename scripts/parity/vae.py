"""Both Wan autoencoders, both ways."""

import shutil

from diffusers import AutoencoderKLWan

import common
from common import fill, randn, save_io, save_model

WAN22 = {
    "base_dim": 4,
    "decoder_base_dim": 4,
    "z_dim": 8,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.1 * i for i in range(8)],
    "latents_std": [1 + 0.1 * i for i in range(8)],
}


def case(name, options, video, latents):
    """Pixels to the mode of the posterior, and latents to clamped pixels; neither normalised."""
    model = fill(AutoencoderKLWan(**options), name)
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    sample = randn(name + "x", *video, scale=0.5).clamp(-1, 1)
    mode = model.encode(sample).latent_dist.mode()
    save_io(folder, {"sample": sample, "output": mode}, file="encode.safetensors")
    z = randn(name + "z", *latents)
    pixels = model.decode(z, return_dict=False)[0]
    recipe = {"reference": "diffusers AutoencoderKLWan", "tolerance": 1e-5}
    recipe["clamped_share"] = (pixels.abs() >= 1).float().mean().item()
    save_io(folder, {"latents": z, "output": pixels}, file="decode.safetensors", **recipe)
    save_model(model, folder / "vae")


def make():
    case("vae21", {"base_dim": 5, "z_dim": 16}, (1, 3, 13, 40, 56), (1, 16, 3, 5, 7))
    case("vae22", WAN22, (1, 3, 9, 48, 32), (1, 8, 3, 3, 2))
