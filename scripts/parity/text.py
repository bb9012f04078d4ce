"""UMT5, its tokenizer, and prompt cleaning."""

import html
import hashlib
import json
import re
import shutil
from pathlib import Path

import ftfy
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import common
from common import fill, save_io, save_model, write_json

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

PROMPTS = SENTENCES + ["", "Größe “quoted” — naïve café", "灯塔在海边，静止"]


def tokenizer():
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=240, special_tokens=["<pad>", "</s>", "<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tok.train_from_iterator(SENTENCES * 4, trainer)
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>", model_max_length=512
    )


def encoder(name, vocab):
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
    ids = [tok(prompt_clean(p)).input_ids for p in PROMPTS]
    write_json(folder / "tokens.json", [{"prompt": p, "ids": i} for p, i in zip(PROMPTS, ids)])
    rows = 96
    batch = [ids[0], ids[2]]
    input_ids = torch.tensor([i + [0] * (rows - len(i)) for i in batch])
    mask = (torch.arange(rows)[None] < torch.tensor([[len(i)] for i in batch])).long()
    output = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    tensors = {"input_ids": input_ids, "attention_mask": mask, "output": output}
    save_model(model, folder / "text_encoder")
    save_io(folder, tensors, reference="transformers UMT5EncoderModel", tolerance=1e-5)


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


def make_prompt_clean():
    folder = common.ROOT / "prompt_clean"
    write_json(folder / "pairs.json", [{"input": p, "output": prompt_clean(p)} for p in PAIRS])
    bench = Path(__file__).resolve().parents[3] / "shared" / "data" / "st-bench"
    if not bench.is_dir():
        print("the ST-Bench scripts are not here: their hashes stay as they are")
        return
    entries = []
    for path in sorted(bench.glob("*.json")):
        for s, scene in enumerate(json.loads(path.read_text())["scenes"]):
            for i, prompt in enumerate(scene["video_prompts"]):
                cleaned = prompt_clean(prompt)
                digest = hashlib.sha256(cleaned.encode()).hexdigest()
                entries.append({"file": path.name, "scene": s, "index": i, "sha256": digest, "changed": cleaned != prompt})
    lines = ",\n".join(json.dumps(e) for e in entries)
    (folder / "st_bench.json").write_text(f"[\n{lines}\n]\n")


def make():
    make_umt5()
    make_prompt_clean()
