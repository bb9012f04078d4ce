"""A whole tiny pipeline of FLUX.1: from noise and prompts to latents and pixels, without and with a picture."""

import pathlib
import shutil
import tempfile

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

import common
from common import fill, randn, save_io, save_model
from text import tokenizer, write_pairs

PROMPT = "A courier in a yellow raincoat &amp; a red bicycle — “slowly”!"
SECOND = "A small lamp by the window,  ‘warm’ light."
NEGATIVE = "blurred"
ROWS = 40
SIZE = {"height": 48, "width": 64, "num_inference_steps": 4, "max_sequence_length": ROWS}


def scheduler():
    """The settings of FLUX.1-dev."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )


def parts():
    """Everything of a pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(pathlib.Path(folder), "<|endoftext|>")
        clip_tokenizer = CLIPTokenizer.from_pretrained(folder)
    vocabulary = len(clip_tokenizer)
    clip = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
    )
    tok = tokenizer()
    t5 = T5Config(
        vocab_size=len(tok) + 8, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    transformer = FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(16,) * 4,
        latent_channels=16, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    return {
        "tokenizer": clip_tokenizer,
        "tokenizer_2": tok,
        "text_encoder": fill(CLIPTextModel(clip), "flux-clip"),
        "text_encoder_2": fill(T5EncoderModel(t5), "flux-t5"),
        "transformer": fill(transformer, "flux-transformer"),
        "vae": fill(vae, "flux-vae"),
        "scheduler": scheduler(),
    }


def run(pipe, noise, **options):
    """Samples once to latents and once to pixels."""
    pipe.set_progress_bar_config(disable=True)
    prompts = {"prompt": PROMPT, "prompt_2": SECOND}
    options = {**SIZE, **prompts, **options}
    latents = pipe(latents=noise.clone(), output_type="latent", **options).images
    return latents, pipe(latents=noise.clone(), output_type="pt", **options).images


def make():
    folder = common.ROOT / "pipeline-flux"
    shutil.rmtree(folder, ignore_errors=True)
    components = parts()
    pipe = FluxPipeline(**components)
    # Twelve tokens of 2 x 2 places.
    noise = randn("flux-noise", 1, 12, 64)
    rows, pooled, _ = pipe.encode_prompt(PROMPT, SECOND, max_sequence_length=ROWS)
    latents, pixels = run(pipe, noise, guidance_scale=3.5)
    picture = torch.tanh(randn("flux-picture", 1, 3, 6, 8)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    kontext = FluxKontextPipeline(**components)
    kept = {"image": picture * 0.5 + 0.5, "max_area": 48 * 64, "_auto_resize": False}
    guided = {"guidance_scale": 2.5, "negative_prompt": NEGATIVE, "true_cfg_scale": 2.0}
    edited, edited_pixels = run(kontext, noise, **kept, **guided)
    assert (edited - latents).abs().mean() > 0.05
    pipe.save_pretrained(folder)
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        save_model(components[part], folder / part)
    tensors = {
        "latents": noise,
        "prompt_embeds": rows,
        "pooled_prompt_embeds": pooled,
        "output_latents": latents,
        "output_pixels": pixels,
        "picture": picture,
        "output_edited_latents": edited,
        "output_edited_pixels": edited_pixels,
    }
    recipe = {"prompt": PROMPT, "prompt_2": SECOND, "negative_prompt": NEGATIVE, **SIZE}
    save_io(folder, tensors, reference="diffusers FluxPipeline, FluxKontextPipeline", tolerance=1e-4, **recipe)
