"""Language models: logits, greedy texts, chat templates, pictures."""

import json
import shutil

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import common
from common import fill, generator, save_io, save_model, write_json
from text import SENTENCES

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
TEXTS = SENTENCES[:3] + ["", "Größe “quoted”\n\n  naïve\tcafé 123 4567", "灯塔在海边 🎬"]
SHAPE = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
NEW_TOKENS = 64
KEPT_LOGITS = 6

CHATML = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content.strip() + '<|im_end|>\\n' }}
    {%- set turns = messages[1:] %}
{%- else %}
    {{- '<|im_start|>system\\nYou write story boards.<|im_end|>\\n' }}
    {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
    {{- '<|im_start|>' ~ turn['role'] ~ '\\n' ~ turn['content'] ~ '<|im_end|>' }}
    {{ '' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# With what the templates of models that think use: a namespace, a walk from the end, methods of
# strings, JSON, a variable of its own.
THINKING = """\
{%- set state = namespace(last=messages|length - 1, found=false) %}
{%- for turn in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not state.found and turn.role == 'user' and not turn.content.startswith('<note>') %}
        {%- set state.last = index %}
        {%- set state.found = true %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set said = turn.content if turn.content is string else '' %}
    {%- if turn.role == 'assistant' %}
        {%- if '</think>' in said %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > state.last %}
            {%- set said = '<think>\\n\\n</think>\\n\\n' + said %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + turn.role + '\\n' + said + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if tools is defined and tools %}
    {{- tools | tojson }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA = """\
{% if messages[0]['role'] == 'system' %}
{% set rules = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% set turns = messages[1:] %}
{% else %}
{% set rules = '' %}
{% set turns = messages %}
{% endif %}
{% for turn in turns %}
{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if turn['role'] == 'user' %}
{{ bos_token + '[INST] ' + (rules if loop.first else '') + turn['content'] | trim + ' [/INST]' }}
{% else %}
{{ ' ' + turn['content'] | trim + ' ' + eos_token }}
{% endif %}
{% endfor %}
"""

PICTURES = """\
{% set count = namespace(value=0) %}{% for turn in messages %}<|im_start|>{{ turn.role }}
{% if turn.content is string %}{{ turn.content }}{% else %}{% for part in turn.content %}
{% if part.type == 'image' or 'image' in part %}{% set count.value = count.value + 1 %}
{% if add_vision_id %}Picture {{ count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part.text }}{% endif %}
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TALKS = [
    {"messages": [("user", "A film about a red mug.")]},
    {"messages": [("system", "  Answer in JSON. "), ("user", "Größe “42”?"), ("assistant", " {\"a\": 1} "), ("user", "More <b>&'\"")]},
    {"messages": [("user", "one"), ("assistant", "<think>\nhm\n</think>\n\ntwo"), ("user", "three")], "add_generation_prompt": False},
    {"messages": [("user", "one"), ("assistant", "two")], "add_generation_prompt": False},
    {"messages": [("user", "quick")], "variables": {"enable_thinking": False, "add_vision_id": True}},
    {"messages": [("user", "json")], "variables": {"tools": [{"name": "shot", "unit": "“s”"}]}},
]
SEEING = [
    {"messages": [("user", [None, "What is it?"])]},
    {"messages": [("system", "Be brief."), ("user", ["Compare", None, None])], "variables": {"add_vision_id": True}},
]


def merges(count, words):
    """The most frequent neighbours, joined again and again; ties by their letters."""
    words = [list(word) for word in words]
    chosen = []
    while len(chosen) < count:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        chosen.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return chosen


def byte_tokenizer():
    """Byte pairs in the manner of Qwen2."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [("Ġ" if at else "") + word for text in SENTENCES for at, word in enumerate(text.split())]
    pairs = merges(50, words)
    entries = letters + ["".join(pair) for pair in pairs]
    tok = Tokenizer(models.BPE({entry: at for at, entry in enumerate(entries)}, pairs))
    tok.normalizer = normalizers.NFC()
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def piece_tokenizer():
    """Pieces with a fall back to bytes, in the manner of LLaMA-2."""
    words = ["▁" + word for text in SENTENCES for word in text.split()]
    letters = sorted({letter for word in words for letter in word})
    pairs = merges(50, words)
    entries = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    entries += letters + ["".join(pair) for pair in pairs]
    model = models.BPE(
        {entry: at for at, entry in enumerate(entries)}, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tok = Tokenizer(model)
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def conversation(talk):
    """Messages as `apply_chat_template` takes them; `None` is a picture."""
    def content(said):
        if isinstance(said, str):
            return said
        return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in said]

    return [{"role": role, "content": content(said)} for role, said in talk["messages"]]


def chats(tok, talks):
    """What becomes of each conversation, or that it is refused."""
    results = []
    for talk in talks:
        options = talk.get("variables", {}) | {"add_generation_prompt": talk.get("add_generation_prompt", True)}
        try:
            text = tok.apply_chat_template(conversation(talk), tokenize=False, **options)
            ids = tok(text, add_special_tokens=False).input_ids
        except Exception as error:
            text, ids = None, str(error)
        results.append(talk | {"text": text, "ids": ids})
    return results


def save_tokenizer(tok, folder, template, inside=False):
    """In the hub's layout; the template in a file of its own, or inside the config."""
    tok.chat_template = template
    tok.save_pretrained(folder)
    if inside:
        (folder / "chat_template.jinja").unlink()
        path = folder / "tokenizer_config.json"
        write_json(path, json.loads(path.read_text()) | {"chat_template": template})


def prepare(model, name, tok):
    """Random weights; experts with rows of unit length, and no text ends by chance."""
    fill(model, name)
    gen = generator(name + "/more")
    for key, value in sorted(model.named_parameters()):
        if "experts" in key:
            value.copy_((torch.randn(value.shape, generator=gen) / value.shape[-1] ** 0.5).bfloat16().float())
        elif key.endswith("ln_q.weight"):
            value.copy_((1 + 0.1 * torch.randn(value.shape, generator=gen)).bfloat16().float())
    # Rows of ends and of places for pictures score 0, which is never the most.
    for row in [tok.eos_token_id, *tok.convert_tokens_to_ids([t for t in SPECIAL if t in tok.get_vocab()])]:
        model.lm_head.weight[row] = 0
    return model


def greedy(model, ids, **pictures):
    """Scores of the whole prompt, and the likeliest tokens with their scores."""
    ids = torch.tensor([ids])
    prompt = model(input_ids=ids, **pictures).logits[0]
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
        **pictures,
    )
    tokens = made.sequences[0, ids.shape[1] :]
    assert len(tokens) == NEW_TOKENS
    return prompt, tokens, torch.cat(made.logits)


def make_text(case, cls, config, tok, template, inside=False, shard=None):
    folder = common.ROOT / case
    shutil.rmtree(folder, ignore_errors=True)
    save_tokenizer(tok, folder, template, inside)
    vocab = (len(tok) + 7) // 8 * 8
    ends = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id}
    model = prepare(cls(config(vocab_size=vocab, **ends)), case, tok)
    tensors = {}
    for at, text in enumerate(TEXTS[:3]):
        ids = tok(text, add_special_tokens=False).input_ids[: 9 + 8 * at]
        prompt, tokens, steps = greedy(model, ids)
        tensors |= {f"prompt.{at}": torch.tensor(ids), f"greedy.{at}": tokens}
        if at == 0:
            tensors |= {"logits": prompt, "steps": steps[:KEPT_LOGITS]}
            if case == "language-qwen3":
                save_io(folder, {"input_ids": torch.tensor([ids]), "output": prompt[None]}, file="forward.safetensors")
    write_json(folder / "chats.json", chats(tok, TALKS))
    write_json(folder / "tokens.json", [{"text": t, "ids": tok(t, add_special_tokens=False).input_ids} for t in TEXTS])
    save_model(model, folder, **({"max_shard_size": shard} if shard else {}))
    save_io(folder, tensors, reference=f"transformers {cls.__name__}", tolerance=1e-4)


def picture(width, height):
    """A picture by a formula; the tests make the same."""
    image = Image.new("RGB", (width, height))
    image.putdata([((x * 3 + y * 2) % 256, x * 5 % 256, y * 7 % 256) for y in range(height) for x in range(width)])
    return image


def make_seeing():
    folder = common.ROOT / "language-qwen25vl"
    shutil.rmtree(folder, ignore_errors=True)
    tok = byte_tokenizer()
    save_tokenizer(tok, folder, PICTURES)
    places = dict(zip(SPECIAL, tok.convert_tokens_to_ids(SPECIAL)))
    vocab = (len(tok) + 7) // 8 * 8
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    text = SHAPE | {"vocab_size": vocab, "rope_parameters": rotary, "eos_token_id": tok.eos_token_id, "bos_token_id": None}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 56, "num_heads": 2, "window_size": 56}
    vision |= {"fullatt_block_indexes": [1], "out_hidden_size": SHAPE["hidden_size"]}
    ids = {"image_token_id": places["<|image_pad|>"], "video_token_id": vocab - 1}
    ids |= {"vision_start_token_id": places["<|vision_start|>"], "vision_end_token_id": places["<|vision_end|>"]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    model = prepare(Qwen2_5_VLForConditionalGeneration(config), "language-qwen25vl", tok)
    processor = Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)
    processor.save_pretrained(folder)
    seen = processor([picture(150, 90), picture(40, 64)], return_tensors="pt")
    grids = seen["image_grid_thw"]
    features = model.get_image_features(seen["pixel_values"], grids).pooler_output
    prompt = []
    counts = iter([int(grid.prod()) // 4 for grid in grids])
    for token in tok("<|im_start|>Compare <|vision_start|><|image_pad|><|vision_end|> with <|vision_start|><|image_pad|><|vision_end|>!").input_ids:
        prompt += [token] * (next(counts) if token == ids["image_token_id"] else 1)
    kinds = torch.tensor([[int(token == ids["image_token_id"]) for token in prompt]])
    positions, delta = model.model.get_rope_index(torch.tensor([prompt]), kinds, grids)
    inputs = {"pixel_values": seen["pixel_values"], "image_grid_thw": grids, "mm_token_type_ids": kinds}
    logits, tokens, steps = greedy(model, prompt, **inputs)
    plain = tok(TEXTS[0]).input_ids[:9]
    _, plain_tokens, _ = greedy(model, plain)
    tensors = {"prompt": torch.tensor(prompt), "grids": grids, "positions": positions, "delta": delta}
    tensors |= {"pixels": seen["pixel_values"][::17].clone(), "features": torch.cat(features), "logits": logits[::3]}
    tensors |= {"greedy": tokens, "steps": steps[:KEPT_LOGITS], "plain.prompt": torch.tensor(plain), "plain.greedy": plain_tokens}
    write_json(folder / "chats.json", chats(tok, SEEING + TALKS[:2]))
    save_model(model, folder)
    save_io(folder, tensors, reference="transformers Qwen2_5_VLForConditionalGeneration", tolerance=1e-4)


def make():
    stretched = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    halved = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    plain = {"rope_type": "default", "rope_theta": 1e6}

    def config(cls, **more):
        return lambda **rest: cls(**(SHAPE | more | rest))

    qwen2 = config(Qwen2Config, tie_word_embeddings=True, rope_parameters=stretched)
    make_text("language-qwen2", Qwen2ForCausalLM, qwen2, byte_tokenizer(), CHATML, inside=True)
    qwen3 = config(Qwen3Config, head_dim=12, rope_parameters=plain)
    make_text("language-qwen3", Qwen3ForCausalLM, qwen3, byte_tokenizer(), THINKING, shard="60KB")
    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": True}
    moe = config(Qwen3MoeConfig, head_dim=12, num_hidden_layers=3, mlp_only_layers=[1], rope_parameters=plain, **experts)
    make_text("language-qwen3moe", Qwen3MoeForCausalLM, moe, byte_tokenizer(), THINKING)
    llama = config(LlamaConfig, num_key_value_heads=6, rope_parameters=halved)
    make_text("language-llama2", LlamaForCausalLM, llama, piece_tokenizer(), LLAMA)
    make_seeing()
