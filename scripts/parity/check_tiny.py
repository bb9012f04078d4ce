"""Loads a set of tiny checkpoints with diffusers and runs it.

    python check_tiny.py DIR [--pictures OUT] [--size WIDTHxHEIGHT] [--frames N] [--untrained]

DIR was written by `storyloom model init-tiny` (two experts and adapters) or by `storyloom train tiny
--export` (one expert).

Both pipelines are loaded as they lie on disk and sample a short clip; the second one starts from
a frame of the first. Fails when a file is missing, a tensor is left over, or a picture is flat,
saturated or the same for two prompts; with --untrained, pictures may look like anything.
"""

import argparse
import pathlib

import numpy
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from safetensors import safe_open
from transformers import CLIPVisionModelWithProjection

OPTIONS = {
    "height": 96,
    "width": 160,
    "num_frames": 9,
    "num_inference_steps": 6,
    "guidance_scale": 3.5,
    "negative_prompt": "blurred, still, grey, low quality, subtitles, three legs, walking backwards",
}
PROMPTS = (
    "A red boat on the sea in the morning, warm light",
    "An old woman walks through a dark forest at night, snow on the trees",
)
# In the words of the drawn world.
DRAWN_PROMPTS = (
    "medium shot: a purple and orange mug with a heart stands on a beach with blue parasols, "
    "morning light, fixed camera.",
    "wide shot: a robot with a green body and a red lamp walks in a forest with green trees, "
    "night, fixed camera.",
)


def has_two_experts(root):
    return (root / "transformer_2").is_dir()


def prompts(root):
    return PROMPTS if has_two_experts(root) else DRAWN_PROMPTS


def generator():
    return torch.Generator("cpu").manual_seed(0)


# Whether pictures may look like anything.
UNTRAINED = False


def report(name, frames):
    deviation, clipped = frames.std(), (abs(frames - 0.5) > 0.499).mean()
    print(f"{name}: mean {frames.mean():.3f} deviation {deviation:.3f} clipped {clipped:.3f}")
    assert numpy.isfinite(frames).all(), name
    assert UNTRAINED or deviation > 0.05, f"{name} is flat"
    assert UNTRAINED or clipped < 0.35, f"{name} is saturated"


def save(frames, path):
    if path is not None:
        strip = numpy.concatenate([frames[i] for i in (0, len(frames) // 2, -1)], axis=1)
        Image.fromarray((strip * 255).astype("uint8")).save(path)


def text_to_video(root, pictures):
    pipeline = WanPipeline.from_pretrained(root, torch_dtype=torch.float32)
    assert pipeline.config.boundary_ratio == (0.875 if has_two_experts(root) else None)
    clips = []
    for index, prompt in enumerate(prompts(root)):
        clip = pipeline(prompt, generator=generator(), **OPTIONS).frames[0]
        report(f"t2v {index}", clip)
        save(clip, pictures and pictures / f"t2v_{index}.png")
        clips.append(clip)
    difference = abs(clips[0] - clips[1]).mean()
    assert UNTRAINED or difference > 0.02, "the prompt has no effect"
    return clips


def image_to_video(root, first, pictures):
    pipeline = WanImageToVideoPipeline.from_pretrained(root, torch_dtype=torch.float32)
    assert pipeline.config.boundary_ratio == (0.9 if has_two_experts(root) else None)
    for index, clip in enumerate(first):
        image = Image.fromarray((clip[-1] * 255).astype("uint8"))
        made = pipeline(image, prompts(root)[1], generator=generator(), **OPTIONS)
        report(f"i2v {index}", made.frames[0])
        save(made.frames[0], pictures and pictures / f"i2v_{index}.png")


def vision_tower(folder, clips):
    tower = CLIPVisionModelWithProjection.from_pretrained(folder)
    side = tower.config.image_size
    places = (0, len(clips[0]) // 2, -1)
    frames = torch.from_numpy(numpy.stack([clip[i] for clip in clips for i in places]))
    frames = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2).float(), (side, side))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        embeds = tower((frames - mean) / std).image_embeds
    embeds = embeds / embeds.norm(dim=-1, keepdim=True)
    print("similarity of the first, middle and last frames of both clips:")
    print((embeds @ embeds.T).numpy().round(3))


def main():
    global UNTRAINED
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path)
    parser.add_argument("--size", default="160x96")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--untrained", action="store_true")
    arguments = parser.parse_args()
    UNTRAINED = arguments.untrained
    OPTIONS["width"], OPTIONS["height"] = map(int, arguments.size.split("x"))
    OPTIONS["num_frames"] = arguments.frames
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    clips = text_to_video(arguments.folder / "t2v", arguments.pictures)
    image_to_video(arguments.folder / "i2v", clips, arguments.pictures)
    vision_tower(arguments.folder / "clip", clips)
    experts = ("high_noise", "low_noise") if has_two_experts(arguments.folder / "t2v") else ()
    for expert in experts:
        with safe_open(arguments.folder / f"lora/backbone_{expert}.safetensors", "np") as file:
            assert len(file.keys()) == 4 * 10 * 2
    print("all well")


if __name__ == "__main__":
    main()
