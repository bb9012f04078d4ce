"""One Wan block as plain PyTorch composes it, timed on a GPU; figures as JSON on stdout.

    python gpu_reference.py [--config t2v-a14b|t2v-1.3b|ti2v-5b|tiny] [--clip 81 480 832] [--compile]

Needs nothing but torch. The block has random bf16 weights and the rounding of storyloom: residual,
norms, modulation and rotation in f32, products and attention in bf16. A forward has as many equal
blocks as the model has layers, so that one block tells the time of all. `storyloom bench denoise
--random` gives the figures of our side.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# heads, width of the feed-forward layer, layers, factor between pixels and latents
CONFIGS = {
    "t2v-a14b": (40, 13824, 40, 8),
    "t2v-1.3b": (12, 8960, 30, 8),
    "ti2v-5b": (24, 14336, 30, 16),
    "tiny": (2, 192, 2, 8),
}
DIM, TEXT_ROWS, EPS = 128, 512, 1e-6
BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def seconds_of(device, work, repeats):
    """Seconds of each repeat after a warm-up, by CUDA events on a GPU."""
    work()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return times
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])]


def timing(seconds):
    middle = sorted(seconds)[len(seconds) // 2]
    return {"median_seconds": middle, "best_seconds": min(seconds), "seconds": seconds}


class Block:
    """Weights of one block and what it is given."""

    def __init__(self, heads, ffn, tokens, device, dtype):
        width = heads * DIM
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape, scale=1.0, kind=dtype):
            noise = torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)
            return (noise * scale).to(kind)

        def linear(inputs, outputs):
            return random(outputs, inputs, scale=inputs**-0.5), random(outputs, scale=0.02)

        self.heads, self.dtype = heads, dtype
        self.own = [linear(width, width) for _ in range(4)]
        self.text_query, self.text_out = linear(width, width), linear(width, width)
        self.up, self.down = linear(width, ffn), linear(ffn, width)
        self.norms = [1.0 + random(width, scale=0.1, kind=torch.float32) for _ in range(3)]
        self.cross = [1.0 + random(width, scale=0.1, kind=torch.float32), random(width, scale=0.02, kind=torch.float32)]
        self.modulation = random(6, 1, 1, width, scale=0.3, kind=torch.float32)
        angles = random(tokens, DIM // 2, scale=10.0, kind=torch.float32)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.text = [random(1, heads, TEXT_ROWS, DIM) for _ in range(2)]
        self.hidden = random(1, tokens, width, kind=torch.float32)

    def modulated(self, hidden, shift, scale):
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=EPS)
        return (normed * (1.0 + self.modulation[scale]) + self.modulation[shift]).to(self.dtype)

    def split(self, x, norm=None, rotate=False):
        """[1, tokens, width] to heads, normed over all of them and rotated."""
        if norm is not None:
            x = x.float()
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.norms[norm]
        x = x.unflatten(-1, (self.heads, DIM)).transpose(1, 2)
        if rotate:
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            first, second = even * self.cos - odd * self.sin, even * self.sin + odd * self.cos
            x = torch.stack([first, second], -1).flatten(-2)
        return x.to(self.dtype)

    def forward(self):
        hidden = self.hidden
        normed = self.modulated(hidden, 0, 1)
        query, key, value = (F.linear(normed, *weights) for weights in self.own[:3])
        query, key, value = self.split(query, 0, True), self.split(key, 1, True), self.split(value)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(attended, *self.own[3]) * self.modulation[2]

        normed = F.layer_norm(hidden, hidden.shape[-1:], *self.cross, eps=EPS).to(self.dtype)
        query = self.split(F.linear(normed, *self.text_query), 2)
        attended = F.scaled_dot_product_attention(query, *self.text).transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(attended, *self.text_out)

        fed = F.gelu(F.linear(self.modulated(hidden, 3, 4), *self.up), approximate="tanh")
        return hidden + F.linear(fed, *self.down) * self.modulation[5]


def attention(block, tokens, device, repeats):
    """Self-attention of the block by each back end."""
    shape = (1, block.heads, tokens, DIM)
    query, key, value = (torch.randn(shape, device=device, dtype=block.dtype) for _ in range(3))
    work = lambda: F.scaled_dot_product_attention(query, key, value)
    flops = 4.0 * block.heads * tokens * tokens * DIM
    results = {}
    for name, back_end in [("default", None), *BACK_ENDS.items()]:
        try:
            if back_end is None:
                figures = timing(seconds_of(device, work, repeats))
            else:
                with sdpa_kernel(back_end):
                    figures = timing(seconds_of(device, work, repeats))
            results[name] = figures | {"tflop_per_second": flops / figures["median_seconds"] / 1e12}
        except RuntimeError as error:
            results[name] = {"refused": str(error).splitlines()[0]}
    return results


def matmul(device, dtype, repeats):
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = min(seconds_of(device, lambda: a @ b, repeats))
    return 2.0 * side**3 / best / 1e12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="t2v-a14b")
    parser.add_argument("--clip", type=int, nargs=3, default=(81, 480, 832), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the block through torch.compile")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16
    heads, ffn, layers, factor = CONFIGS[options.config]
    frames, height, width = options.clip
    tokens = (1 + (frames - 1) // 4) * (height // factor // 2) * (width // factor // 2)
    channels = heads * DIM
    flops = 12.0 * tokens * channels**2 + 4.0 * tokens * channels * ffn
    flops += 4.0 * tokens * (tokens + TEXT_ROWS) * channels
    with torch.no_grad():
        block = Block(heads, ffn, tokens, device, dtype)
        forward = torch.compile(block.forward) if options.compile else block.forward
        assert forward().isfinite().all()
        figures = timing(seconds_of(device, forward, options.repeats))
        result = {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "config": options.config,
            "compiled": options.compile,
            "tokens": tokens,
            "layers": layers,
            "block": figures,
            "forward_seconds": figures["median_seconds"] * layers,
            "tflop_per_second": flops / figures["median_seconds"] / 1e12,
            "matmul_tflop_per_second": matmul(device, dtype, options.repeats),
            "attention": attention(block, tokens, device, options.repeats),
        }
        if device.type == "cuda":
            result["cudnn"] = torch.backends.cudnn.version()
            result["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
