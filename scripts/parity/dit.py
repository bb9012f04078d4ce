"""The Wan transformer in every variant."""

import json
import shutil

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

import common
from common import fill, randn, save_io, save_model


REFERENCE = "diffusers WanTransformer3DModel"


def config(**changes):
    """A small transformer; four heads, so that it splits over 1, 2 and 4 ranks."""
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 64,
        "ffn_dim": 96,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        **changes,
    }


def text(name, batch, width=32, rows=512, real=7):
    """Encoded text: `real` rows, and zeros to the full length."""
    states = torch.zeros(batch, rows, width)
    states[:, :real] = randn(name + "text", batch, real, width)
    return states


def case(name, latent, timestep, dtype=torch.float32, image=None, save=None, **changes):
    """One forward of one variant."""
    model = fill(WanTransformer3DModel(**config(**changes)), name)
    batch = latent[0]
    inputs = {
        "hidden_states": randn(name + "x", *latent),
        "timestep": timestep,
        "encoder_hidden_states": text(name, batch),
    }
    if image is not None:
        inputs["encoder_hidden_states_image"] = randn(name + "image", *image)
    output = model(**inputs, return_dict=False)[0]
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, folder / "transformer", dtype, **(save or {}))
    save_io(folder, {**inputs, "output": output}, reference=REFERENCE, tolerance=1e-5)
    return model, inputs, output


ORIGINAL = [
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    (".attn1.to_out.0.", ".self_attn.o."),
    (".attn2.to_out.0.", ".cross_attn.o."),
    (".attn1.to_", ".self_attn."),
    (".attn2.to_", ".cross_attn."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
]


def original_name(key):
    """The name of a diffusers tensor in the original Wan code."""
    if key == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in ORIGINAL:
        key = key.replace(ours, theirs)
    return key


def original_layout():
    """The tensors of dit-t2v under the names of the original Wan code."""
    source, folder = common.ROOT / "dit-t2v", common.ROOT / "dit-t2v-original"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "transformer").mkdir(parents=True)
    tensors = load_file(source / "transformer" / "diffusion_pytorch_model.safetensors")
    renamed = {original_name(k): v.bfloat16() for k, v in tensors.items()}
    save_file(renamed, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    fields = {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "model_type": "t2v",
        "dim": 96,
        "eps": 1e-06,
        "ffn_dim": 96,
        "freq_dim": 64,
        "in_dim": 16,
        "num_heads": 4,
        "num_layers": 2,
        "out_dim": 16,
        "text_len": 512,
    }
    (folder / "transformer" / "config.json").write_text(json.dumps(fields, indent=1) + "\n")
    recipe = {"reference": REFERENCE, "same_as": "dit-t2v, with the names of the original code", "tolerance": 1e-5}
    save_io(folder, load_file(source / "io.safetensors"), **recipe)


def make():
    t = torch.tensor
    half = torch.bfloat16
    case("dit-t2v", (2, 16, 3, 6, 10), t([733, 21]))
    original_layout()
    # Odd sides: the last row and column do not fill a patch and are dropped.
    case("dit-i2v", (1, 36, 2, 5, 7), t([940]), half, in_channels=36, attention_head_dim=16, freq_dim=256)
    per_token = torch.cat([torch.zeros(1, 15), torch.full((1, 30), 612.0)], 1)
    shape = {"in_channels": 8, "out_channels": 8, "attention_head_dim": 12}
    case("dit-ti2v", (1, 8, 3, 6, 10), per_token, half, **shape)
    shape = {"in_channels": 36, "attention_head_dim": 16, "image_dim": 24, "added_kv_proj_dim": 64}
    case("dit-wan21-i2v", (1, 36, 2, 4, 6), t([500]), half, image=(1, 17, 24), **shape)
    shape = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 20}
    case("dit-t2v-sharded", (1, 16, 1, 4, 4), t([1]), half, save={"max_shard_size": "100KB"}, **shape)
    memory_positions()


def memory_positions():
    """StoryMem: memory slots at negative temporal positions with stride 5."""
    name, memory, latents = "storymem-rope", 3, 3
    model = fill(WanTransformer3DModel(**config(in_channels=36, attention_head_dim=16)), name)
    inputs = {
        "hidden_states": randn(name + "x", 1, 36, memory + latents, 4, 6),
        "timestep": torch.tensor([888]),
        "encoder_hidden_states": text(name, 1),
    }
    times = [-5 * (memory - k) for k in range(memory)] + list(range(latents))
    plain = model(**inputs, return_dict=False)[0]
    table = rotary_table(times, 2, 3, 16)
    model.rope.forward = lambda hidden_states: table
    output = model(**inputs, return_dict=False)[0]
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, folder / "transformer")
    tensors = {**inputs, "output": output, "output_without_shift": plain}
    tensors["temporal_positions"] = torch.tensor(times)
    save_io(folder, tensors, reference=f"{REFERENCE}, rotary table replaced", tolerance=1e-5)


def rotary_table(times, rows, columns, dim):
    """Cosines and sines in the form the reference class wants: repeated for both of a pair."""
    side = 2 * (dim // 6)

    def angles(positions, channels):
        inverse = 10000 ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        return torch.outer(torch.tensor(positions, dtype=torch.float64), inverse)

    t, h, w = len(times), rows, columns
    parts = [
        angles(times, dim - 2 * side)[:, None, None].expand(t, h, w, -1),
        angles(range(h), side)[None, :, None].expand(t, h, w, -1),
        angles(range(w), side)[None, None, :].expand(t, h, w, -1),
    ]
    table = torch.cat(parts, -1).reshape(1, t * h * w, 1, -1).repeat_interleave(2, -1)
    return table.cos().float(), table.sin().float()
