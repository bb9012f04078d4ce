"""Whole tiny pipelines, from noise and prompt to latents and pixels."""

import shutil

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image
from transformers import AutoTokenizer, UMT5EncoderModel

import common
from common import fill, generator, randn, save_io, save_model
from dit import config
from schedulers import unipc
from text import encoder, tokenizer

PROMPT = "A courier in a yellow raincoat rides a red bicycle — “slowly”."
NEGATIVE = "blurred, static"
SIZE = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 8}


def parts(name, shift, in_channels):
    """Everything of a pipeline with two experts."""
    tok = tokenizer()
    text_encoder = encoder(name + "t5", len(tok))
    vae = fill(AutoencoderKLWan(base_dim=4, z_dim=16), name + "vae")
    experts = [fill(WanTransformer3DModel(**config(in_channels=in_channels, attention_head_dim=12)), name + e) for e in ("high", "low")]
    return {
        "tokenizer": tok,
        "text_encoder": text_encoder,
        "vae": vae,
        "scheduler": unipc(shift),
        "transformer": experts[0],
        "transformer_2": experts[1],
    }


def run(pipe, noise, **options):
    """Samples once to latents and once to pixels."""
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
    """Writes the pipeline as it lies on the hub, weights in bf16."""
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    for part in ("transformer", "transformer_2", "vae", "text_encoder"):
        shutil.rmtree(folder / part)
        save_model(getattr(pipe, part), folder / part)
    recipe |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "tolerance": 1e-4, **SIZE, "notes": NOTES}
    save_io(folder, tensors, reference=type(pipe).__name__, **recipe)


NOTES = {
    "guidance": "high-noise expert, low-noise expert",
    "output_latents": "normalised latents after the last step",
    "output_video": "[batch, frame, channel, row, column] in 0..1",
    "image": "[row, column, channel] in 0..255",
    "image_tensor": "the same as [batch, channel, row, column] in -1..1",
    "condition": "4 mask channels and 16 latent channels",
}


def text_to_video():
    pipe = WanPipeline(**parts("pipeline-t2v", 12.0, 16), boundary_ratio=0.875)
    noise = randn("pipeline-t2v noise", 1, 16, 3, 4, 6)
    tensors, high = run(pipe, noise, guidance_scale=4.0, guidance_scale_2=3.0)
    save("pipeline-t2v", pipe, tensors, high_noise_steps=high, shift=12.0, boundary=0.875, guidance=[4.0, 3.0])


def picture(name, rows, columns):
    """A random picture, as 8-bit pixels and as PIL sees it."""
    pixels = (torch.rand(rows, columns, 3, generator=generator(name)) * 255).to(torch.uint8)
    return pixels, Image.fromarray(pixels.numpy())


def image_to_video():
    pipe = WanImageToVideoPipeline(
        **parts("pipeline-i2v", 5.0, 36), boundary_ratio=0.9, image_encoder=None, image_processor=None
    )
    noise = randn("pipeline-i2v noise", 1, 16, 3, 4, 6)
    pixels, image = picture("pipeline-i2v image", 32, 48)
    tensors, high = run(pipe, noise, image=image, guidance_scale=3.5, guidance_scale_2=3.5)
    prepared = pipe.video_processor.preprocess(image, height=32, width=48)
    _, condition = pipe.prepare_latents(prepared, 1, 16, 32, 48, 9, torch.float32, "cpu", None, noise.clone())
    tensors |= {"image": pixels, "image_tensor": prepared, "condition": condition}
    save("pipeline-i2v", pipe, tensors, high_noise_steps=high, shift=5.0, boundary=0.9, guidance=[3.5, 3.5])


def five_billion():
    """The way of TI2V-5B: one transformer, a timestep for each token, VAE 2.2; text and image."""
    name, size = "pipeline-ti2v5b", {**SIZE, "width": 64}
    folder, umt5, vae22 = common.ROOT / name, common.ROOT / "umt5", common.ROOT / "vae22"
    shutil.rmtree(folder, ignore_errors=True)
    shape = {"in_channels": 8, "out_channels": 8, "attention_head_dim": 12}
    components = {
        "tokenizer": AutoTokenizer.from_pretrained(umt5 / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(umt5 / "text_encoder", dtype=torch.float32).eval(),
        "vae": AutoencoderKLWan.from_pretrained(vae22 / "vae", torch_dtype=torch.float32).eval(),
        "transformer": fill(WanTransformer3DModel(**config(**shape)), name),
        "scheduler": unipc(5.0),
    }
    noise = randn(name + " noise", 1, 8, 3, 2, 4)
    pixels, image = picture(name + " image", 32, 64)
    common_options = {**size, "prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 5.0, "output_type": "latent"}
    tensors = {"latents": noise, "image": pixels}
    for kind, extra in ((WanPipeline, {}), (WanImageToVideoPipeline, {"image": image})):
        pipe = kind(**components, expand_timesteps=True)
        pipe.set_progress_bar_config(disable=True)
        key = "output_latents_i2v" if extra else "output_latents_t2v"
        tensors[key] = pipe(latents=noise.clone(), **common_options, **extra).frames
    tensors["image_tensor"] = pipe.video_processor.preprocess(image, height=32, width=64)
    embeds = pipe.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=512)
    tensors |= dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeds))
    save_model(components["transformer"], folder / "transformer")
    components["scheduler"].save_pretrained(folder / "scheduler")
    recipe = {"vae": "../vae22/vae", "text_encoder": "../umt5/text_encoder", "tokenizer": "../umt5/tokenizer"}
    recipe |= {"prompt": PROMPT, "negative_prompt": NEGATIVE, "shift": 5.0, "guidance": 5.0, **size}
    save_io(folder, tensors, reference="WanPipeline and WanImageToVideoPipeline, expand_timesteps", tolerance=1e-4, **recipe)


def make():
    text_to_video()
    image_to_video()
    five_billion()
