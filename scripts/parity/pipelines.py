"""Whole tiny pipelines, from noise and prompt to latents and pixels."""

import shutil

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image

import common
from common import fill, randn, save_io, save_model
from dit import config
from schedulers import unipc
from text import encoder, tokenizer

PROMPT = "A courier in a yellow raincoat rides a red bicycle — “slowly”."
NEGATIVE = "blurred, static"
SIZE = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 8}


def parts(name, shift, in_channels):
    tok = tokenizer()
    text_encoder = encoder(name + "t5", len(tok))
    vae = fill(AutoencoderKLWan(base_dim=4, z_dim=16), name + "vae")
    experts = [fill(WanTransformer3DModel(**config(in_channels=in_channels, attention_head_dim=16)), name + e) for e in ("high", "low")]
    return {
        "tokenizer": tok,
        "text_encoder": text_encoder,
        "vae": vae,
        "scheduler": unipc(shift),
        "transformer": experts[0],
        "transformer_2": experts[1],
    }


def run(name, pipe, noise, **options):
    embeds, negative = pipe.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
    pipe.set_progress_bar_config(disable=True)
    common = {**SIZE, **options, "prompt": PROMPT, "negative_prompt": NEGATIVE, "max_sequence_length": 512}
    latents = pipe(latents=noise.clone(), output_type="latent", **common).frames
    video = pipe(latents=noise.clone(), output_type="pt", **common).frames
    high = sum(int(t >= pipe.config.boundary_ratio * 1000) for t in pipe.scheduler.timesteps)
    assert 0 < high < SIZE["num_inference_steps"], high
    return {
        "latents": noise,
        "prompt_embeds": embeds,
        "negative_prompt_embeds": negative,
        "output_latents": latents,
        "output_video": video,
    }, high


def save(name, pipe, tensors, **recipe):
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    for part in ("transformer", "transformer_2", "vae", "text_encoder"):
        shutil.rmtree(folder / part)
        save_model(getattr(pipe, part), folder / part)
    recipe |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "tolerance": 1e-4, **SIZE}
    save_io(folder, tensors, reference=type(pipe).__name__, **recipe)


def make():
    pipe = WanPipeline(**parts("pipeline-t2v", 12.0, 16), boundary_ratio=0.875)
    noise = randn("pipeline-t2v noise", 1, 16, 3, 4, 6)
    tensors, high = run("pipeline-t2v", pipe, noise, guidance_scale=4.0, guidance_scale_2=3.0)
    save("pipeline-t2v", pipe, tensors, high_noise_steps=high, shift=12.0, boundary=0.875, guidance=[4.0, 3.0])

    pipe = WanImageToVideoPipeline(
        **parts("pipeline-i2v", 5.0, 36), boundary_ratio=0.9, image_encoder=None, image_processor=None
    )
    noise = randn("pipeline-i2v noise", 1, 16, 3, 4, 6)
    pixels = (torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    tensors, high = run("pipeline-i2v", pipe, noise, image=image, guidance_scale=3.5, guidance_scale_2=3.5)
    tensors["image"] = pixels
    prepared = pipe.video_processor.preprocess(image, height=32, width=48)
    _, condition = pipe.prepare_latents(prepared, 1, 16, 32, 48, 9, torch.float32, "cpu", None, noise.clone())
    tensors["condition"] = condition
    save("pipeline-i2v", pipe, tensors, high_noise_steps=high, shift=5.0, boundary=0.9, guidance=[3.5, 3.5])
