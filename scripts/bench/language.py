"""Times the language model beside transformers: same weights, same libtorch, same threads, in turns.

    python scripts/bench/language.py [--dtype f32|bf16] [--rounds 3]

A random Qwen3 of 184 million parameters is made on the spot below `--folder`. In every round both
sides run once, each alone; which one begins changes from round to round. Both take greedy tokens:
ours through the batch that planning uses, transformers by calls of the model with its cache and
nothing between them (`--generate` shows its `generate` beside, which does more). Ratios are those of medians
over all rounds. Needs scripts/parity/requirements.txt and a release build.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import time

# As `storyloom` sets it for itself: threads that spin while they wait lose on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SHAPE = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12}
SHAPE |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True}
SHAPE |= {"max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None}


def checkpoint(folder, dtype):
    """Writes a random model once; its texts never end by themselves."""
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        Qwen3ForCausalLM(Qwen3Config(**SHAPE)).to(dtype).save_pretrained(folder)
        Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))


def prompt(length, story):
    """The same tokens as `storyloom bench language`."""
    return torch.tensor([[(place * 7919 + story * 104729) % SHAPE["vocab_size"] for place in range(length)]])


def tell(model, ids, tokens):
    """A greedy text: seconds of the prompt, seconds of all further tokens, the text."""
    start = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    prefill = time.perf_counter() - start
    text = [token]
    start = time.perf_counter()
    for _ in range(tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        text.append(token)
    seconds = time.perf_counter() - start
    return prefill, seconds, torch.cat(text, 1)[0].tolist()


def whole(model, options):
    """Seconds of a prompt and its text by `generate`."""
    ids = prompt(options.prompt, 0)
    start = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=options.tokens)
    return time.perf_counter() - start


def reference(folder, options):
    """The times of transformers, in a process of its own."""
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[options.dtype]).eval()
    results = {"prefill": [], "alone": [], "one by one": [], "generate": []}
    with torch.no_grad():
        for repeat in range(options.repeats + 1):
            prefill, alone, text = tell(model, prompt(options.prompt, 0), options.tokens)
            each = [tell(model, prompt(options.prompt, story), options.tokens)[1] for story in range(options.stories)]
            generate = whole(model, options) - prefill if options.generate else None
            if repeat:
                for name, value in zip(results, (prefill, alone, sum(each), generate)):
                    results[name].append(value)
    if not options.generate:
        del results["generate"]
    return results | {"text": text}


def in_child(queue, *arguments):
    queue.put(reference(*arguments))


def theirs(folder, options):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue, folder, options))
    child.start()
    figures = queue.get()
    child.join()
    return figures


def ours(folder, options):
    command = [options.binary, "bench", "language", "--model", folder, "--dtype", options.dtype]
    for name in ("threads", "repeats", "prompt", "tokens", "stories"):
        command += [f"--{name}", getattr(options, name)]
    figures = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout)
    seconds = {name: figures[name]["seconds"] for name in ("prefill", "alone", "together")}
    return seconds | {"text": figures["text"], "parameters": figures["parameters"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="timed repeats a round")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a text")
    parser.add_argument("--stories", type=int, default=8, help="stories together, and one by one")
    parser.add_argument("--generate", action="store_true", help="time `generate` of transformers, too")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target/bench")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/storyloom")
    options = parser.parse_args()
    folder = options.folder / f"language-{options.dtype}"
    checkpoint(folder, DTYPES[options.dtype])

    results, parameters = {"storyloom": {}, "transformers": {}}, None
    texts = {}
    for turn in range(options.rounds):
        sides = [("storyloom", ours), ("transformers", theirs)]
        for name, side in sides if turn % 2 == 0 else reversed(sides):
            figures = side(folder, options)
            texts[name] = figures.pop("text")
            parameters = figures.pop("parameters", parameters)
            for what, seconds in figures.items():
                results[name].setdefault(what, []).extend(seconds)
            medians = ", ".join(f"{what} {statistics.median(s):.3f} s" for what, s in figures.items())
            print(f"round {turn + 1} {name}: {medians}; load {os.getloadavg()[0]:.1f}", flush=True)
    mine, other = ({what: statistics.median(s) for what, s in results[name].items()} for name in ("storyloom", "transformers"))
    further = options.tokens - 1
    print(f"{parameters / 1e6:.0f} M parameters, {options.dtype}, {options.threads} threads, prompts of {options.prompt}")
    same = sum(a == b for a, b in zip(*texts.values()))
    print(f"equal tokens of the first text: {same} of {options.tokens}")
    print(f"prefill: {mine['prefill']:.3f} s, transformers {other['prefill']:.3f} s, ratio {other['prefill'] / mine['prefill']:.2f}")
    rates = [further / mine["alone"], further / other["alone"]]
    print(f"alone: {rates[0]:.1f} tokens/s, transformers {rates[1]:.1f}, ratio {rates[0] / rates[1]:.2f}")
    if options.generate:
        print(f"transformers by generate: {further / other['generate']:.1f} tokens/s")
    rates = [further * options.stories / side for side in (mine["together"], other["one by one"])]
    print(f"{options.stories} stories: {rates[0]:.1f} tokens/s, transformers one by one {rates[1]:.1f}, ratio {rates[0] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
