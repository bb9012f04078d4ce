"""Times storyloom beside diffusers: same weights, same libtorch, same threads, taking turns.

    python scripts/bench/compare.py denoise|decode|load [--dtype f32|bf16] [--rounds 3]

The weights are random, in the layout of the hub, and made on the spot below `--folder`. In every
round both sides run once, each alone on the machine; which one begins changes from round to
round. The ratio is that of the medians over all rounds. Needs scripts/parity/requirements.txt and
a release build; `storyloom bench` gives the figures of our side alone.
"""

import argparse
import json
import multiprocessing
import pathlib
import statistics
import subprocess
import time

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TEXT_ROWS, TEXT_WIDTH = 512, 4096

# 150 million parameters; the VAE is that of Wan 2.1 in full size.
DENOISER = {"num_attention_heads": 8, "attention_head_dim": 128, "num_layers": 8, "ffn_dim": 4096}
DENOISER |= {"in_channels": 16, "out_channels": 16, "text_dim": TEXT_WIDTH, "freq_dim": 256}
# 1 billion parameters: 2 GB in bf16.
LARGE = DENOISER | {"num_attention_heads": 16, "num_layers": 16, "ffn_dim": 8192}

CLIPS = {"denoise": (17, 384, 384), "decode": (17, 96, 160), "load": (17, 384, 384)}


def transformer(folder, config, dtype):
    """Writes a random transformer once."""
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        model = WanTransformer3DModel(**config).to(dtype)
        model.save_pretrained(folder)


def autoencoder(folder):
    """Writes a random VAE once."""
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        AutoencoderKLWan().save_pretrained(folder)


def timed(work, repeats):
    """Seconds of each repeat after one warm-up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def peak_resident():
    """Largest resident memory of this process, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def reference(what, folder, options):
    """The times of diffusers, in a process of its own."""
    torch.set_num_threads(options.threads)
    frames, height, width = options.clip
    latent = (1 + (frames - 1) // 4, height // 8, width // 8)
    generator = torch.Generator().manual_seed(0)
    dtype = DTYPES[options.dtype]
    before = peak_resident()
    with torch.no_grad():
        if what == "load":
            work = lambda: WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=True)
        elif what == "denoise":
            model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype).eval()
            hidden = torch.randn(1, model.config.in_channels, *latent, generator=generator).to(dtype)
            text = torch.randn(1, TEXT_ROWS, TEXT_WIDTH, generator=generator).to(dtype)
            step = torch.tensor([500])
            work = lambda: model(hidden, step, text, return_dict=False)
        else:
            model = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32).eval()
            latents = torch.randn(1, model.config.z_dim, *latent, generator=generator)
            work = lambda: model.decode(latents, return_dict=False)
        seconds = timed(work, options.repeats)
    return {"seconds": seconds, "peak_resident_bytes": peak_resident(), "before_bytes": before}


def in_child(queue, *arguments):
    queue.put(reference(*arguments))


def theirs(what, folder, options):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue, what, folder, options))
    child.start()
    figures = queue.get()
    child.join()
    return figures


def ours(what, folder, options):
    frames, height, width = options.clip
    command = [options.binary, "bench", what, "--model", folder, "--dtype", options.dtype]
    command += ["--threads", options.threads, "--repeats", options.repeats]
    command += ["--frames", frames, "--height", height, "--width", width]
    figures = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout)
    part = {"denoise": "forward", "decode": "decode", "load": "load"}[what]
    return figures | {"seconds": figures[part]["seconds"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=CLIPS)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="timed repeats a round")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target/bench")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/storyloom")
    parser.add_argument("--clip", type=int, nargs=3, metavar=("FRAMES", "HEIGHT", "WIDTH"))
    options = parser.parse_args()
    options.clip = options.clip or CLIPS[options.what]
    if options.what == "decode":
        folder = options.folder / "vae"
        autoencoder(folder)
    elif options.what == "load":
        folder = options.folder / "large-bf16"
        transformer(folder, LARGE, torch.bfloat16)
    else:
        folder = options.folder / f"denoiser-{options.dtype}"
        transformer(folder, DENOISER, DTYPES[options.dtype])

    results = {"storyloom": [], "diffusers": []}
    last = {}
    for turn in range(options.rounds):
        sides = [("storyloom", ours), ("diffusers", theirs)]
        for name, side in sides if turn % 2 == 0 else reversed(sides):
            last[name] = side(options.what, folder, options)
            results[name] += last[name]["seconds"]
            print(f"round {turn + 1} {name}: " + " ".join(f"{s:.3f}" for s in last[name]["seconds"]), flush=True)
    median = {name: statistics.median(seconds) for name, seconds in results.items()}
    for name, seconds in median.items():
        print(f"{name}: median {seconds:.3f} s, best {min(results[name]):.3f} s")
    print(f"ratio of medians, diffusers / storyloom: {median['diffusers'] / median['storyloom']:.2f}")
    figures = last["storyloom"]
    if options.what == "denoise":
        rate = figures["gflop"] / median["storyloom"]
        print(f"{figures['parameters'] / 1e6:.0f} M parameters, {figures['tokens']} tokens, {figures['gflop']:.0f} GFLOP")
        print(f"{rate:.0f} of {figures['matmul_gflop_per_second']:.0f} GFLOP/s of a plain f32 product: {rate / figures['matmul_gflop_per_second']:.0%}")
    if options.what == "load":
        size = figures["bytes"]
        print(f"{size / 1e9:.2f} GB; {size / median['storyloom'] / 1e9:.2f} GB/s")
        weights = size * (2 if options.dtype == "f32" else 1)
        for name in median:
            print(f"{name}: peak resident memory {last[name]['peak_resident_bytes'] / weights:.2f} of the loaded weights")


if __name__ == "__main__":
    main()
