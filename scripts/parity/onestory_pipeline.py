"""A whole tiny story of OneStory: three shots that begin with an image, from noise to latents.

The networks are those of other cases. The first shot is the image-to-video pipeline of diffusers; the
shots behind it are that pipeline's loop around the forward with context tokens.
"""

import copy
import json
import shutil

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

import common
from common import randn, save_io
from onestory import Memory, choose, counts, forward
from pipelines import NEGATIVE, picture
from schedulers import unipc

NAME = "pipeline-onestory"
PARTS = {
    "transformer": "../onestory-forward/transformer_image",
    "onestory": "../onestory-forward/onestory",
    "vae": "../vae21/vae",
    "text_encoder": "../umt5/text_encoder",
    "tokenizer": "../umt5/tokenizer",
    "image_encoder": "../clip-h14/image_encoder",
}
PROMPTS = [
    "A courier in a yellow raincoat rides a red bicycle through the harbour.",
    "The lighthouse keeper lights a small lamp by the window.",
    "The same courier stops and smiles at the keeper.",
]
SIZE = {"height": 64, "width": 96, "num_frames": 13}
STEPS, SHIFT, GUIDANCE = 4, 3.0, 5.0
LATENTS = (1, 16, 4, 8, 12)


def folder(part):
    return (common.ROOT / NAME / PARTS[part]).resolve()


def pipeline():
    """The reference class with the networks of other cases."""
    load = {"torch_dtype": torch.float32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pipe = WanImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder("tokenizer")),
        text_encoder=UMT5EncoderModel.from_pretrained(folder("text_encoder"), dtype=torch.float32).eval(),
        image_encoder=CLIPVisionModel.from_pretrained(folder("image_encoder"), dtype=torch.float32).eval(),
        image_processor=processor,
        transformer=WanTransformer3DModel.from_pretrained(folder("transformer"), **load).eval(),
        vae=AutoencoderKLWan.from_pretrained(folder("vae"), **load).eval(),
        scheduler=unipc(SHIFT),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def memory():
    """Selector and patchifiers."""
    shape = json.loads((folder("onestory") / "config.json").read_text())
    parts = Memory(shape)
    weights = load_file(folder("onestory") / "diffusion_pytorch_model.safetensors")
    parts.load_state_dict({key: value.float() for key, value in weights.items()})
    return parts.eval()


def sample(pipe, noise, channels, texts, image, context):
    """The loop of diffusers' pipeline with context tokens; both texts see the same."""
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(STEPS)
    latents = noise.clone()
    for step in scheduler.timesteps:
        inputs = {"sample": torch.cat([latents, channels], 1), "timestep": step.expand(1), "image": image, **context}
        positive, negative = (forward(pipe.transformer, words=words, **inputs) for words in texts)
        velocity = negative + GUIDANCE * (positive - negative)
        latents = scheduler.step(velocity, step, latents, return_dict=False)[0]
    return latents


def beginning(pipe, parts, texts, noise):
    """The first shot, by the reference class and by the loop here; `[C, T, h, w]`."""
    pixels, image = picture(f"{NAME} image", SIZE["height"], SIZE["width"])
    options = {"guidance_scale": GUIDANCE, "num_inference_steps": STEPS, "max_sequence_length": 512, **SIZE}
    options |= {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "output_type": "latent"}
    expected = pipe(image=image, latents=noise.clone(), **options).frames
    prepared = pipe.video_processor.preprocess(image, SIZE["height"], SIZE["width"])
    sizes = (1, 16, SIZE["height"], SIZE["width"], SIZE["num_frames"])
    _, channels = pipe.prepare_latents(prepared, *sizes, torch.float32, "cpu", None, noise.clone())
    nothing = {"context": torch.zeros(0, 64), "positions": torch.zeros(0, 3, dtype=torch.float64)}
    tokens = pipe.encode_image(image, "cpu")
    found = sample(pipe, noise, channels, texts, tokens, nothing)
    assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()
    return expected[0], {"image": pixels, "image_tokens": tokens}


def chosen_frames(parts, history, prompt, words, pipe):
    """Scores and choice; no two scores are so close that the choice could be another."""
    real = len(pipe.tokenizer(prompt).input_ids)
    scores = parts.selector(history, words[0], torch.arange(512) < real)
    ranked = scores.sort().values
    assert (ranked[1:] - ranked[:-1]).min() > 1e-4, ranked
    return scores, choose(scores.tolist(), counts(1, *LATENTS[3:]))


def make():
    pipe, parts = pipeline(), memory()
    # Behind the first shot nothing is given: no mask, no latents, and the tokens of a black picture.
    channels = torch.zeros(1, 20, *LATENTS[2:])
    black = pipe.encode_image(Image.new("RGB", (28, 28)), "cpu")
    tensors, history = {"image_tokens.black": black}, []
    for index, prompt in enumerate(PROMPTS):
        noise = randn(f"{NAME} noise {index}", *LATENTS)
        texts = pipe.encode_prompt(prompt, NEGATIVE, max_sequence_length=512)
        if not history:
            shot, more = beginning(pipe, parts, texts, noise)
        else:
            scores, chosen = chosen_frames(parts, history, prompt, texts[0], pipe)
            context = dict(zip(("context", "positions"), parts.condition(history, chosen)))
            shot = sample(pipe, noise, channels, texts, black, context)[0]
            more = {"scores": scores, **context}
        history.append(shot)
        tensors |= {f"{index}.{key}": value for key, value in {"noise": noise, "latents": shot, **more}.items()}
    recipe = {"parts": PARTS, "prompts": PROMPTS, "negative_prompt": NEGATIVE, **SIZE}
    recipe |= {"steps": STEPS, "shift": SHIFT, "guidance": GUIDANCE, "tolerance": 1e-4}
    shutil.rmtree(common.ROOT / NAME, ignore_errors=True)
    save_io(common.ROOT / NAME, tensors, reference="WanImageToVideoPipeline, and its loop with context tokens", **recipe)
