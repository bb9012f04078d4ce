"""A StoryMem-style LoRA, applied by peft and kept apart."""

import shutil

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file

import common
from common import fill, randn, save_io, save_model
from dit import config, original_name, text

# scale = alpha / sqrt(rank), as StoryMem trains it.
RANK = ALPHA = 4


def make():
    name = "lora"
    model = fill(WanTransformer3DModel(**config(in_channels=36, attention_head_dim=12)), name)
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, folder / "transformer")
    targets = r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
    options = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets, use_rslora=True)
    inputs = {
        "hidden_states": randn(name + "x", 1, 36, 2, 4, 6),
        "timestep": torch.tensor([901]),
        "encoder_hidden_states": text(name, 1),
    }
    plain = model(**inputs, return_dict=False)[0]
    model = inject_adapter_in_model(options, model).eval()
    stored = {}
    for key, value in sorted(model.named_parameters()):
        if "lora_" not in key:
            continue
        value.copy_(randn(key, *value.shape, scale=0.1).bfloat16().float())
        bare = key.replace(".default.weight", ".weight")
        module, leaf = bare.split(".lora_")
        stored[f"base_model.model.{original_name(module + '.')[:-1]}.lora_{leaf}"] = value.clone()
    assert len(stored) == 2 * 10 * 2, len(stored)
    save_file(stored, folder / "lora.safetensors")
    output = model(**inputs, return_dict=False)[0]
    tensors = {**inputs, "output": output, "output_without_lora": plain}
    recipe = {"rank": RANK, "alpha": ALPHA, "scale": ALPHA / RANK**0.5, "tolerance": 1e-5}
    save_io(folder, tensors, reference="peft, use_rslora, not merged", **recipe)
