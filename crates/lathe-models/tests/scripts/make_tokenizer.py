"""Writes the tokenizer expectations under tests/data/tokenizer/:

    vocab.gguf       a vocabulary of about 1,500 tokens, trained on the texts below, with special tokens
    expected.json    the texts, and their ids by pre-tokenizer as the `tokenizers` package gives them
    smollm2.json     with `--model F`: the ids of the same texts with the vocabulary of SmolLM2

Run with the packages of bench/peers/requirements.txt.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from gguf import GGUFWriter
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

here = Path(__file__).parent
sys.path.append(str(here.parents[3] / "bench/peers"))
import gguf_tokenizer  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im|>", "<|"]
TEXTS = [
    "Hello, world! It's 2024; they'll've said 'S'AY it'LL cost $1,234.56 (or ½ of Ⅷ ²).",
    "   leading and   inner    spaces  \t tabs\t\t and trailing   ",
    "line one\nline two\r\n\r\n  indented\n\n\n\n   \n end\n",
    "def f(x):\n    return x**2 + 3.14e-10  # comment\n\tif a!=b: print(f'{x:>10}')\n",
    "for (int i=0;i<n;++i){ a[i] &= ~0x1F<<3; } // ok?\n/* ... */ <|im_start|>user\nhi<|im_end|><|im|><|x<<||>",
    "日本語のテキストと漢字、カタカナ。中文字符测试，你好吗？한국어 문장입니다.",
    "Русский текст с числами 12345 и Ёлка. Ελληνικά κείμενο. עברית ושלום. العربية ١٢٣٤٥ فارسی ۱۲۳",
    "हिन्दी पाठ क्षत्रिय १२३ தமிழ் ภาษาไทย ๑๒๓ አማርኛ ქართული",
    "😀😃👩‍👩‍👧‍👦🏳️‍🌈👍🏽 emoji🇩🇪mixed❤️text ✓ ™ ① ㉈ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 ",
    "e\u0301 combining n\u0303 a\u0308\u0323 Z\u0351\u0365a\u0300lgo İstanbul ıǅ ʰʲ ªº ß ſt ﬁ K",
    "\u0000\u0001\u001b[31mred\u001b[0m\u007f\u0085\u009f nbsp:\u00a0\u00a0x\u2003em\u2009thin\u200bzero\u200c\u200d\ufeffbom\u3000wide\u2028ls\u2029ps\u180e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ================================ --------- ........ !!!???",
    "don't DON'T can’t we're WE'RE i'm I'D'd 'tis 's 'ss 'ſ o'clock ''' 're''ve",
    "1 12 123 1234 12345 1234567890 3.1415926 -42 +7 1e9 v1.2.3 10:30 50% 007 1st 2nd 3rd x1y2",
    "https://example.com/path?q=a%20b&c=d#frag user@mail.example C:\\dir\\file.txt ~/.config",
    "\ufffd private \ue000 \U0010ffff unassigned \u0378 \u2065 math ∑∫√≤≠ arrows →⇒ box ┌─┐ $€£¥₿ ^`~|<>+=",
    "", " ", "  ", "\n", " \n", "\n ", "a", " a", "  a", "a ", "\t", "\r\n", "'", "'s", "0", " 0", "é", "\u0301", "!\n\n", " !\n \n!",
]
CHARS = [" ", " ", "  ", "\n", "\r", "\t", "a", "B", "é", "ñ", "日", "ア", "1", "9", "½", "٣", "'", "s", "'ll", "!", "-", "_", "😀", "\u0301", "\u00a0", "<|im_end|>", "the", "ing"]


def texts():
    rng = random.Random(3)
    return TEXTS + ["".join(rng.choices(CHARS, k=rng.randint(2, 30))) for _ in range(60)]


def train(path):
    """A small vocabulary; bytes that no UTF-8 text has are not in it, as in SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 2 + [(here / "make_tokenizer.py").read_text()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    w = GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3] * 4 + [4] + [1] * (len(tokens) - 5))
    w.add_token_merges([" ".join(m) for m in model["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def default_split():
    """What the name `default` means in files: four cuts, one after the other."""
    cuts = [
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ]
    parts = [pre_tokenizers.Split(Regex(c), "isolated") for c in cuts]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    args = parser.parse_args()
    out = here.parent / "data/tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    train(out / "vocab.gguf")
    expected = {"texts": texts(), "ids": {}}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "default"):
        tokenizer = gguf_tokenizer.from_gguf(out / "vocab.gguf", "gpt-2" if pre == "default" else pre)
        if pre == "default":
            tokenizer.pre_tokenizer = default_split()
        if pre == "llama-bpe":
            tokenizer.model.ignore_merges = True
        expected["ids"][pre] = [tokenizer.encode(t).ids for t in texts()]
    dump = lambda name, value: (out / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")  # noqa: E731
    dump("expected.json", expected)
    if args.model:
        tokenizer = gguf_tokenizer.from_gguf(args.model)
        dump("smollm2.json", {"texts": TEXTS, "ids": [tokenizer.encode(t).ids for t in TEXTS]})


main()
