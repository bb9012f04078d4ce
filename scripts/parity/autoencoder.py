"""Shows stories of the drawn world to the autoencoder of a set, and nothing else.

    storyloom train manifest --stories 24 --out stories.jsonl
    storyloom train sheet --stories 24 --out stories.png
    python autoencoder.py SET stories.jsonl stories.png OUT
    storyloom eval OUT/drawn OUT/decoded

What `eval` finds in OUT/decoded is the most that a transformer between encoder and decoder could reach;
OUT/drawn has gone through the video codec alone. Needs ffmpeg.
"""

import argparse
import json
import pathlib
import subprocess

import numpy
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

WIDTH, HEIGHT, GAP = 160, 96, 3
FRAMES = 3
# As storyloom writes its videos.
CODEC = ["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p"]


@torch.no_grad()
def decoded(vae, picture):
    """What is left of `picture`, bytes `[height, width, 3]`."""
    pixels = torch.tensor(picture).permute(2, 0, 1).float() / 127.5 - 1.0
    latents = vae.encode(pixels[None, :, None]).latent_dist.mode()
    pixels = vae.decode(latents).sample[0, :, 0].clamp(-1.0, 1.0)
    return ((pixels.permute(1, 2, 0) + 1.0) * 127.5).round().byte().numpy()


def write(path, picture):
    """A still video of `picture`."""
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "8"]
    command = ["ffmpeg", "-y", "-v", "error", *given, "-i", "pipe:0", *CODEC, str(path)]
    subprocess.run(command, input=picture.tobytes() * FRAMES, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("set", "manifest", "sheet", "out"):
        parser.add_argument(name, type=pathlib.Path)
    options = parser.parse_args()
    vae = AutoencoderKLWan.from_pretrained(options.set / "t2v/vae", dtype=torch.float32).eval()
    sheet = numpy.array(Image.open(options.sheet).convert("RGB"))
    stories = [json.loads(line) for line in options.manifest.read_text().splitlines()]
    for row, story in enumerate(stories):
        script = story["script"]
        shots = [
            f"{scene['scene_num']:02d}_{number:02d}"
            for scene in script["scenes"]
            for number in range(1, len(scene["video_prompts"]) + 1)
        ]
        folders = [options.out / run / "stories" / story["id"] for run in ("drawn", "decoded")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "story.json").write_text(json.dumps({"script": script}))
        for column, shot in enumerate(shots):
            top, left = row * (HEIGHT + GAP), column * (WIDTH + GAP)
            picture = sheet[top : top + HEIGHT, left : left + WIDTH]
            for folder, frame in zip(folders, (picture, decoded(vae, picture))):
                write(folder / f"{shot}.mp4", numpy.ascontiguousarray(frame))


if __name__ == "__main__":
    main()
