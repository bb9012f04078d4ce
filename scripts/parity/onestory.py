"""OneStory: frame selection, adaptive conditioner and the forward with context tokens.

No code of the method is public. This is a composition in plain torch, written from the equations of
the paper (arXiv 2512.07802) and not from the Rust code; where the paper is silent, from the choices
that are the defaults of the Rust code too. The transformer is the one of diffusers.
"""

import shutil

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import common
from common import fill, randn, save_io, save_model, write_json
from dit import config, text

KERNELS = (2, 4, 8, 16)
# Frames of each kernel, from the finest, for a budget of 1, 2 and 3 frames.
SHARES = {1: (0, 3, 3, 2), 2: (1, 3, 3, 2), 3: (2, 3, 3, 2)}
STRIDE = 5
REFERENCE = "composition in torch, scripts/parity/onestory.py"


class CrossAttention(nn.Module):
    """Attention of queries to keys, which are the values too; norms before, the queries added after."""

    def __init__(self, width, head_dim, eps):
        super().__init__()
        self.heads = width // head_dim
        self.query_norm = nn.LayerNorm(width, eps)
        self.key_norm = nn.LayerNorm(width, eps)
        for name in ("to_q", "to_k", "to_v", "to_out"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, queries, keys, mask=None):
        """`[m, D]` and `[n, D]` to `[m, D]`; `mask` `[n]` is true where a key counts."""
        normed = self.key_norm(keys)
        parts = (self.to_q(self.query_norm(queries)), self.to_k(normed), self.to_v(normed))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(0, 1) for part in parts)
        logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        mixed = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
        return queries + self.to_out(mixed)


class Selector(nn.Module):
    """Equations 3 to 5 of the paper."""

    def __init__(self, shape):
        super().__init__()
        width, head_dim, eps = shape["width"], shape["head_dim"], shape["eps"]
        self.queries = nn.Parameter(torch.empty(shape["queries"], width))
        self.text_norm = nn.RMSNorm(shape["text_dim"], eps)
        self.text_proj = nn.Linear(shape["text_dim"], width)
        self.vision = nn.ModuleList(
            [
                nn.Conv2d(shape["latent_channels"], shape["vision_width"], 4, 4),
                nn.Conv2d(shape["vision_width"], width, 2, 2),
            ]
        )
        self.shot_age = nn.Parameter(torch.empty(shape["shot_ages"], width))
        self.frame_time = nn.Parameter(torch.empty(shape["frame_times"], width))
        self.text_attention = CrossAttention(width, head_dim, eps)
        self.vision_attention = CrossAttention(width, head_dim, eps)
        self.frame_norm = nn.LayerNorm(width, eps)
        self.frame_proj = nn.Linear(width, width)

    def see(self, history):
        """Shots `[C, T, h, w]` in their order to `[F, N, D]`."""
        latents = torch.cat(history, 1).transpose(0, 1)
        tokens = self.vision[1](pad(F.silu(self.vision[0](pad(latents, 4))), 2))
        tokens = tokens.flatten(2).transpose(1, 2)
        ages, times = [], []
        for index, shot in enumerate(history):
            age = len(history) - index
            ages += [min(age, len(self.shot_age)) - 1] * shot.shape[1]
            times += [min(time, len(self.frame_time) - 1) for time in range(shot.shape[1])]
        return tokens + (self.shot_age[ages] + self.frame_time[times]).unsqueeze(1)

    def forward(self, history, caption, mask, score_norm="cosine"):
        """Scores `[F]`; `caption` `[L, text_dim]`, of which the rows of `mask` are real."""
        words = self.text_proj(self.text_norm(caption))
        seen = self.see(history)
        queries = self.text_attention(self.queries, words, mask)
        queries = self.vision_attention(queries, seen.flatten(0, 1))
        frames = self.frame_proj(self.frame_norm(seen).mean(1))
        if score_norm == "cosine":
            frames, queries = F.normalize(frames, dim=-1), F.normalize(queries, dim=-1)
        scores = (frames @ queries.T).mean(1)
        return scores / frames.shape[-1] ** 0.5 if score_norm == "scaled_dot" else scores


def pad(planes, side):
    """Zeros at the right and the bottom, to multiples of `side`."""
    rows, columns = planes.shape[-2:]
    return F.pad(planes, (0, -columns % side, 0, -rows % side))


class Memory(nn.Module):
    """All that OneStory adds to a transformer, under the names of the component folder."""

    def __init__(self, shape):
        super().__init__()
        kernels = [int(name[1:]) for name in shape["kernels"]]
        channels, width = shape["latent_channels"], shape["width"]
        convolutions = {f"p{k}": nn.Conv3d(channels, width, (1, k, k), (1, k, k)) for k in kernels}
        self.patchifiers = nn.ModuleDict(convolutions)
        self.context_token = nn.Parameter(torch.empty(width))
        self.selector = Selector(shape)
        self.shape = shape

    def condition(self, history, chosen, ctx_time="shifted"):
        """Context tokens `[n, D]` and their positions `[n, 3]`; `chosen` as `choose` gives it."""
        latents = torch.cat(history, 1)
        tokens, positions = [], []
        # By kernel from the finest, then by time; `chosen` is in the order of time.
        for order, (frame, k) in sorted(enumerate(chosen), key=lambda entry: (entry[1][1], entry[0])):
            patches = self.patchifiers[f"p{k}"](pad(latents[:, frame : frame + 1], k).unsqueeze(0))
            time = STRIDE * (order - len(chosen)) if ctx_time == "shifted" else frame - latents.shape[1]
            tokens.append(patches.flatten(2)[0].T + self.context_token)
            positions += cells(time, k, *patches.shape[-2:])
        return torch.cat(tokens), torch.tensor(positions, dtype=torch.float64)


def cells(time, k, rows, columns):
    """Positions of the tokens of a frame, row by row, in units of the standard patch of 2 by 2."""

    def middle(cell):
        return k / 2 * (cell + 0.5) - 0.5

    return [(time, middle(row), middle(column)) for row in range(rows) for column in range(columns)]


def counts(units, rows, columns, kernels=KERNELS):
    """Frames of each kernel that a budget of `units` frames holds on a plane of latent cells."""
    tokens = [-(-rows // k) * -(-columns // k) for k in KERNELS]
    frames = [share if k in kernels else 0 for share, k in zip(SHARES[units], KERNELS)]
    while sum(a * b for a, b in zip(frames, tokens)) > units * tokens[0]:
        coarsest = max(index for index, count in enumerate(frames) if count)
        frames[coarsest] -= 1
    return frames


def choose(scores, frames_per_kernel):
    """Pairs of history frame and kernel in the order of time."""
    best = sorted(range(len(scores)), key=lambda frame: (scores[frame], frame), reverse=True)
    kernels = [k for k, count in zip(KERNELS, frames_per_kernel) for _ in range(count)]
    return sorted(zip(best, kernels))


def spread(weight, channels, k):
    """A patchifier `[D, C, 1, k, k]` out of the weight `[D, C', 1, 2, 2]` of the transformer's patches."""
    place = [2 * cell // k for cell in range(k)]
    return weight[:, :channels, :, place][..., place] / (k / 2) ** 2


def rotary(positions, head_dim):
    """The table of diffusers' attention for positions `[n, 3]`: `[1, n, 1, head_dim]`, values twice."""
    side = 2 * (head_dim // 6)
    angles = []
    for axis, channels in enumerate((head_dim - 2 * side, side, side)):
        inverse = 10000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        angles.append(positions[:, axis, None] * inverse)
    table = torch.cat(angles, -1).repeat_interleave(2, -1)[None, :, None]
    return table.cos().float(), table.sin().float()


def grid(frames, rows, columns):
    """Positions of the tokens of the sample."""
    return [(t, y, x) for t in range(frames) for y in range(rows) for x in range(columns)]


def forward(model, sample, timestep, words, context, positions, clean=False, image=None):
    """A forward of the parts of `model` with `context` `[n, D]` behind the tokens of the sample."""
    batch, patches = len(sample), model.patch_embedding(sample)
    own = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([own, context.expand(batch, -1, -1)], 1)
    times = torch.tensor(grid(*patches.shape[2:]), dtype=torch.float64)
    table = rotary(torch.cat([times, positions]), model.config.attention_head_dim)
    length = None
    if clean:
        length = tokens.shape[1]
        timestep = timestep[:, None].repeat(1, length)
        timestep[:, own.shape[1] :] = 0
    embedded = model.condition_embedder(timestep.flatten(), words, image, timestep_seq_len=length)
    time, modulation, words, image = embedded
    modulation = modulation.unflatten(-1, (6, -1))
    words = words if image is None else torch.cat([image, words], 1)
    for block in model.blocks:
        tokens = block(tokens, words, modulation, table)
    shift, scale = (model.scale_shift_table + time.unsqueeze(-2)).chunk(2, -2)
    if clean:
        shift, scale = shift.squeeze(2), scale.squeeze(2)
    tokens = model.proj_out(model.norm_out(tokens) * (1 + scale) + shift)
    return unpatchify(tokens[:, : own.shape[1]], patches.shape[2:])


def unpatchify(tokens, sizes):
    """`[B, N, 4 C]` to `[B, C, T, 2 h, 2 w]`; the channel of a token's values runs fastest."""
    values = tokens.unflatten(1, tuple(sizes)).unflatten(-1, (2, 2, -1))
    return values.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def shape(**changes):
    """A small component."""
    return {
        "width": 32,
        "queries": 4,
        "head_dim": 16,
        "text_dim": 24,
        "latent_channels": 8,
        "vision_width": 12,
        "shot_ages": 16,
        "frame_times": 21,
        "eps": 1e-6,
        "score_norm": "cosine",
        "kernels": ["p2", "p4", "p8", "p16"],
        **changes,
    }


def memory(name, **changes):
    """The parts of a case, filled and written as a component folder."""
    fields = shape(**changes)
    parts = fill(Memory(fields), name)
    folder = common.ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    tensors = {key: value.bfloat16().contiguous() for key, value in parts.state_dict().items()}
    (folder / "onestory").mkdir(parents=True)
    save_file(tensors, folder / "onestory" / "diffusion_pytorch_model.safetensors")
    write_json(folder / "onestory" / "config.json", {"_class_name": "OneStoryMemory", **fields})
    return parts


def shots(name, frames, *plane):
    """Latents of earlier shots, `frames` of each."""
    return [randn(f"{name} shot {index}", plane[0], n, *plane[1:]) for index, n in enumerate(frames)]


def stored(history):
    """Earlier shots under their names in the file."""
    return {f"history.{index}": shot for index, shot in enumerate(history)}


def picked(chosen):
    """`[K, 2]`: history frame and kernel."""
    return torch.tensor(chosen, dtype=torch.int64)


def selector():
    """Shots of unlike lengths; more shots and frames than the embeddings tell apart; two captions."""
    name = "onestory-selector"
    parts = memory(name, latent_channels=4, shot_ages=2, frame_times=5, kernels=["p2"])
    tensors = {}
    for key, plane, frames in (("even", (12, 20), (5, 3, 6)), ("odd", (7, 9), (2, 2))):
        history = shots(f"{name} {key}", frames, 4, *plane)
        tensors |= {f"{key}.{k}": v for k, v in stored(history).items()}
        for caption, real in (("first", 7), ("second", 12)):
            words, mask = randn(f"{name} {caption}", 12, 24), torch.arange(12) < real
            tensors[f"caption.{caption}"] = words * mask[:, None]
            found = scored(parts.selector, history, words, mask)
            tensors |= {f"{key}.{caption}.{k}": v for k, v in found.items()}
            for units in SHARES:
                chosen = choose(found["cosine"].tolist(), counts(units, *plane))
                tensors[f"{key}.{caption}.chosen.{units}"] = picked(chosen)
    save_io(common.ROOT / name, tensors, reference=REFERENCE, tolerance=1e-5)


def scored(parts, history, words, mask):
    """Scores by every rule. What stands in rows that are no words makes no difference, nor the order of queries."""
    scores = {norm: parts(history, words, mask, norm) for norm in ("cosine", "scaled_dot", "none")}
    assert torch.equal(parts(history, words * mask[:, None], mask), scores["cosine"])
    queries = parts.queries.clone()
    parts.queries.copy_(queries.flip(0))
    assert torch.allclose(parts(history, words, mask), scores["cosine"], atol=1e-6)
    parts.queries.copy_(queries)
    return scores


def conditioner():
    """All patchifiers on a plane that they divide and on one that they do not; patchifiers by `spread`."""
    name = "onestory-conditioner"
    parts = memory(name, width=16, queries=2, head_dim=8, text_dim=8, latent_channels=4)
    tensors = {}
    for plane, per_kernel in (((16, 32), (1, 2, 2, 1)), ((7, 9), (2, 1, 1, 2)), ((7, 9), (1, 3, 3, 2))):
        key = f"{plane[0]}x{plane[1]}.{sum(per_kernel)}"
        history = shots(f"{name} {key}", (3, 4), 4, *plane)
        tensors |= {f"{key}.{k}": v for k, v in stored(history).items()}
        scores = randn(f"{name} {key} scores", 7)
        # A tie: the later frame goes before.
        scores[2] = scores[5]
        chosen = choose(scores.tolist(), per_kernel)
        tensors |= {f"{key}.scores": scores, f"{key}.counts": torch.tensor(per_kernel), f"{key}.chosen": picked(chosen)}
        for rule in ("shifted", "true_distance"):
            tokens, positions = parts.condition(history, chosen, rule)
            tensors |= {f"{key}.context": tokens, f"{key}.positions.{rule}": positions}
    weight, bias = randn(f"{name} patches", 4, 9, 1, 2, 2), randn(f"{name} bias", 4)
    tensors |= {"patch_embedding.weight": weight, "patch_embedding.bias": bias}
    tensors |= {f"spread.p{k}": spread(weight, 4, k) for k in KERNELS}
    level(weight, bias)
    save_io(common.ROOT / name, tensors, reference=REFERENCE, tolerance=1e-5)


def level(weight, bias):
    """A flat latent gives the same token at every kernel made by `spread`."""
    tokens = []
    for k in KERNELS:
        flat = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 1, k, k)
        tokens.append(F.conv3d(flat, spread(weight, 4, k), bias).flatten())
    assert all(torch.allclose(token, tokens[0], atol=1e-4) for token in tokens), tokens


def whole_forward():
    """The tiny transformer with a context that the selector chose: shared and clean; image branch."""
    name = "onestory-forward"
    parts = memory(name, width=64, head_dim=32, text_dim=32, latent_channels=16, kernels=["p4", "p8"])
    history = shots(name, (5, 5), 16, 8, 12)
    run = {"sample": randn(f"{name} x", 2, 36, 5, 8, 12), "timestep": torch.tensor([733, 412]), "words": text(name, 2)}
    scores = parts.selector(history, run["words"][0], torch.arange(512) < 7)
    chosen = choose(scores.tolist(), counts(1, 8, 12))
    context, positions = parts.condition(history, chosen)
    assert context.shape == (24, 64), context.shape
    # Behind the words are rows of zeros, 512 rows in all.
    tensors = {**stored(history), **run, "words": run["words"][:, :7], "scores": scores, "chosen": picked(chosen)}
    tensors |= {"context": context, "context_positions": positions}
    for key, model, inputs in transformers(name, run):
        plain_is_diffusers(model, inputs)
        for clean in (False, True):
            output = forward(model, **inputs, context=context, positions=positions, clean=clean)
            tensors[f"{key}.{'zero' if clean else 'shared'}"] = output
        save_model(model, common.ROOT / name / key)
    tensors["image"] = inputs["image"]
    reference = f"diffusers WanTransformer3DModel, its parts run by {REFERENCE.split(', ')[1]}"
    save_io(common.ROOT / name, tensors, reference=reference, tolerance=1e-5)


def transformers(name, run):
    """Folder, transformer and inputs: without and with the image branch of Wan 2.1."""
    small = {"in_channels": 36, "num_attention_heads": 2, "attention_head_dim": 32}
    yield "transformer", fill(WanTransformer3DModel(**config(**small)), name), run
    small |= {"image_dim": 24, "added_kv_proj_dim": 64, "num_layers": 1}
    first = {key: value[:1] for key, value in run.items()} | {"image": randn(f"{name} image", 1, 17, 24)}
    yield "transformer_image", fill(WanTransformer3DModel(**config(**small)), f"{name} image"), first


def plain_is_diffusers(model, run):
    """Without context the composition is the reference class, to the bit."""
    nothing = {"context": torch.zeros(0, 64), "positions": torch.zeros(0, 3, dtype=torch.float64)}
    names = {"hidden_states": "sample", "timestep": "timestep", "encoder_hidden_states": "words"}
    inputs = {theirs: run[ours] for theirs, ours in names.items()}
    inputs |= {"encoder_hidden_states_image": run.get("image"), "return_dict": False}
    for clean in (False, True):
        if clean:
            inputs["timestep"] = run["timestep"][:, None].repeat(1, 5 * 4 * 6)
        assert torch.equal(forward(model, **run, **nothing, clean=clean), model(**inputs)[0])


def make():
    selector()
    conditioner()
    whole_forward()
