"""UMT5, its tokenizer, prompt cleaning, and CLIP's tokenizer."""

import collections
import html
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import ftfy
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import common
from common import fill, save_io, save_model, write_json, write_lines

SENTENCES = [
    "A courier in a yellow raincoat rides a red bicycle through the harbour at dawn.",
    "The lighthouse keeper lights a small lamp and writes a letter by the window.",
    "Close-up of a ceramic mug with a blue stripe on a wooden table, steam rising.",
    "Wide shot: the market square fills with people, lanterns swing in the wind.",
    "The same mug stands on a stone wall above the sea, camera slowly pushes in.",
    "An old clockmaker repairs a silver watch; gears gleam in warm light.",
    "A fox crosses the snow, looks back once, and vanishes between the birches.",
    "The running shoe splashes through a puddle in slow motion, neon reflections.",
]

MORE_SENTENCES = [
    "Night rain on a tin roof, a child counts the seconds between lightning and thunder.",
    "The baker opens the shop, flour floats in the first sunlight, medium shot.",
    "A small robot waters tomatoes on a balcony and waves to the camera.",
    "Aerial view of a river delta at sunset, birds cross the frame from left to right.",
    "She folds the map, puts it into her coat and walks towards the station.",
    "A violinist tunes her instrument in an empty hall, dust in a beam of light.",
    "The courier stops, wipes the rain from her face and smiles at the keeper.",
    "Macro shot of an ant carrying a green leaf over wet gravel.",
    "Two old friends play chess in the park, autumn leaves fall on the board.",
    "The train leaves the tunnel and the valley opens below, wide angle, morning fog.",
    "A paper boat floats along the gutter, past the red bicycle, under the bridge.",
    "He paints the door blue; a cat sleeps on the warm stone step.",
    "Slow pan over a workbench with brass gears, springs and a magnifying glass.",
    "The lantern goes out, only the sea and the wind can be heard.",
    "A diver rises to the surface with a silver coin in an open hand.",
    "Snow melts from the birches, the fox returns with two cubs, soft light.",
]

PROMPTS = SENTENCES + ["", "Größe “quoted” — naïve café", "灯塔在海边，静止", "a&amp;amp;b　ｆｕｌｌ　ｗｉｄｔｈ"]


def pieces():
    """Pieces of a unigram model with their log-probabilities.

    Counted, not trained: the trainer of `tokenizers` gives another vocabulary on every run.
    """
    counts = collections.Counter()
    for sentence in SENTENCES + MORE_SENTENCES:
        for word in ("▁" + w for w in sentence.split()):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + 6) + 1):
                    counts[word[start:end]] += 1
    letters = sorted(p for p in counts if len(p) == 1)
    longer = sorted((p for p in counts if len(p) > 1), key=lambda p: (-counts[p] * len(p), p))
    chosen = longer[: 236 - len(letters)] + letters
    total = sum(counts[p] for p in chosen)
    special = [(p, 0.0) for p in ("<pad>", "</s>", "<s>", "<unk>")]
    return special + [(p, math.log(counts[p] / total)) for p in chosen]


def tokenizer():
    """A tokenizer with the form and the special ids of UMT5's."""
    tok = Tokenizer(models.Unigram(pieces(), unk_id=3))
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tok.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>", model_max_length=512
    )


def encoder(name, vocab):
    """A small UMT5 encoder; each of its layers has its own position table."""
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    options = UMT5Config(vocab_size=vocab + 8, is_encoder_decoder=False, **shape)
    return fill(UMT5EncoderModel(options), name)


def prompt_clean(text):
    """What the Wan pipelines do to a prompt."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


def make_umt5():
    folder = common.ROOT / "umt5"
    shutil.rmtree(folder, ignore_errors=True)
    tok = tokenizer()
    tok.save_pretrained(folder / "tokenizer")
    model = encoder("umt5", len(tok))
    padded = tok([prompt_clean(p) for p in PROMPTS], padding="max_length", max_length=512, truncation=True)
    ids = [row[: sum(mask)] for row, mask in zip(padded.input_ids, padded.attention_mask)]
    write_lines(folder / "tokens.json", [{"prompt": p, "ids": i} for p, i in zip(PROMPTS, ids)])
    # The last sequence reaches the largest distance the position table tells apart.
    rows = 152
    batch = [ids[0], ids[2], [i for row in ids[3:9] for i in row[:-1]][: rows - 5] + [1]]
    input_ids = torch.tensor([i + [0] * (rows - len(i)) for i in batch])
    mask = (torch.arange(rows)[None] < torch.tensor([[len(i)] for i in batch])).long()
    output = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    tensors = {"input_ids": input_ids, "attention_mask": mask, "output": output}
    save_model(model, folder / "text_encoder")
    note = "rows of `output` beyond a mask are of no use"
    save_io(folder, tensors, reference="transformers UMT5EncoderModel", note=note, tolerance=1e-5)


PAIRS = [
    "plain text", "  leading and   trailing  ", "It’s  a&amp;b", "‘single’ and “double” quotes", "„low‟ ‛reversed",
    "a — dash – and … dots", "ﬁne ﬂow ﬀ ﬃ ﬄ ﬅ ﬆ", "Ĳ ĳ ŉ Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ", "ＬＯＵＤ　ＮＯＩＳＥ！？１２３", "Ｕﾀｰﾝ", "ﾊﾟﾋﾟ ｶﾞ",
    "ﾡﾢ ￠￡￢￣￤￥￦ ￨￩￪", "line\r\nbreak\rand\u2028more\u2029end\u0085x", "non\u00a0breaking\u202fspace\u3000wide", "tab\tand\x0cfeed",
    "zero\u200bwidth\u200cjoin\u200der", "bom\ufeff inside", "obj\ufffcect \ufff9a\ufffab\ufffb", "ctl\x00\x01\x08\x0b\x0e\x1f\x7f", "cafe\u0301 nai\u0308ve", "A\u030a ngstrom",
    "&lt;b&gt;bold&lt;/b&gt;", "<b>&amp; kept for html pass</b>", "&amp;amp;amp; thrice", "&eacute;t&eacute; &nbsp; &copy; &hearts;", "P&EACUTE;REZ", "&amp", "&notanentity; &#233; &#xe9; &#8217;",
    "AT&T and R&D; x", "price &pound5", "\x1b[31mred\x1b[0m text", "\x1b[no", "中文，标点。“引号”！", "日本語「かぎ」", "한국어", "emoji 👩‍👩‍👧 ok ✈️",
    "ª º ² ½ № ™", "ſ long s", "′ prime ″", "«guillemets»", "soft\u00adhyphen", "rtl\u200f mark \u202eover", "\u2066isolate\u2069", "\u206ashape", "combining \u1100\u1161",
    "ʼn with modifier ʼ", "ﷺ stays", "①②③ Ⅳ", "ﬀ&amp;ﬁ’s", "&ldquo;hi&rdquo;", "a\n\nb\n c", "x < y &amp; z\nnext &amp;amp; line", "“", "", " ", "&quot;", "…wait—what?!",
    "30 °C, ±5 %", "Ωmega Å K", "e\u0301\u0327", "\u0344", "q\u0323\u0307",
]


# Text decoded with the wrong code page. ftfy repairs it; a port need not.
MOJIBAKE = [
    "Itâ€™s late", "â€œquotedâ€\x9d", "cafÃ© crÃ¨me", "GrÃ¶ÃŸe", "wait â€” what", "20 Â°C", "âœ” done",
    "l’humanitÃ©", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "ä½ å¥½", "naÃ¯ve &amp; brÃ»lÃ©e", "Ã  la carte", "schÃ¶n\u0092s",
]


def cleaned(texts):
    """Texts and what becomes of them."""
    return [{"input": text, "output": prompt_clean(text)} for text in texts]


def make_prompt_clean():
    folder = common.ROOT / "prompt_clean"
    write_json(folder / "mojibake.json", cleaned(MOJIBAKE))
    write_json(folder / "pairs.json", cleaned(PAIRS))
    bench = Path(__file__).resolve().parents[3] / "shared" / "data" / "st-bench"
    if not bench.is_dir():
        print("the ST-Bench scripts are not here: their hashes stay as they are")
        return
    entries = []
    for path in sorted(bench.glob("*.json")):
        for s, scene in enumerate(json.loads(path.read_text())["scenes"]):
            for i, prompt in enumerate(scene["video_prompts"]):
                clean = prompt_clean(prompt)
                digest = hashlib.sha256(clean.encode()).hexdigest()
                entries.append({"file": path.name, "scene": s, "index": i, "sha256": digest, "changed": clean != prompt})
    assert (len(entries), sum(e["changed"] for e in entries)) == (300, 47)
    write_lines(folder / "st_bench.json", entries)


CLIP_PROMPTS = PROMPTS + [
    "It's 1999: they'll DON'T stop, we've seen", "wow!!! really! ?!", "tabs\tand\n\nlines \u3000 wide", "cafe\u0301 CAFÉ İstanbul ẞ",
    "🎬 scene 12b, f/2.8 @ 50mm", "<|endoftext|> inside <|startoftext|>", "red " * 90, "!" * 80, "ſtraße ｆｕｌｌ “x”",
]


def byte_letters():
    """The letter that stands for each byte, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def byte_pairs(count):
    """Merges of the most frequent neighbours; the trainer of `tokenizers` breaks ties by chance."""
    letters = byte_letters()
    words = collections.Counter()
    for sentence in SENTENCES + MORE_SENTENCES:
        for word in re.findall(r"[a-z]+|[^\sa-z]+", sentence.lower()):
            symbols = [letters[b] for b in word.encode()]
            words[(*symbols[:-1], symbols[-1] + "</w>")] += 1
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = collections.Counter()
        for word, times in words.items():
            merged[merge(word, best)] += times
        words = merged
    return merges


def merge(word, pair):
    """A word in which the neighbours `pair` are one symbol."""
    result, i = [], 0
    while i < len(word):
        joined = word[i : i + 2] == pair
        result.append("".join(pair) if joined else word[i])
        i += 2 if joined else 1
    return tuple(result)


def write_pairs(folder, pad):
    """The files that a CLIP tokenizer has in the published folders."""
    merges = byte_pairs(120)
    letters = list(byte_letters().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = {word: i for i, word in enumerate(words + ["<|startoftext|>", "<|endoftext|>"])}
    write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    write_json(folder / "tokenizer_config.json", {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


def make_clip_tokenizer():
    folder = common.ROOT / "clip-tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizers = {}
    for name, pad in [("first", "<|endoftext|>"), ("second", "!")]:
        write_pairs(folder / name, pad)
        tokenizers[name] = CLIPTokenizer.from_pretrained(folder / name)
    tokenizers["first"].save_pretrained(folder / "whole")
    entries = []
    for prompt in CLIP_PROMPTS:
        ids = {name: tok(prompt, truncation=True, max_length=77).input_ids for name, tok in tokenizers.items()}
        entries.append({"prompt": prompt, **ids})
    write_lines(folder / "tokens.json", entries)
