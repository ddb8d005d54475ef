"""Writes tests/data/tokenizer/kinds/: a small vocabulary of each kind, and what the reference makes of one long text.

    bpe.gguf, spm.gguf, unigram.gguf, wordpiece.gguf        vocabularies as GGUF has them
    byte-level.json, metaspace.json, unigram.json, wordpiece.json, words.json   the same kinds as `tokenizer.json`
    expected.json    for each kind, the SHA-256 of the ids of 2 MB of text (little-endian u32), and the ids of short texts

The reference for GGUF is llama.cpp, for `tokenizer.json` the `tokenizers` package. The text is made from a seed by the
same generator in tests/tokenizer_kinds.rs. `--only NAME` prints the reference's ids of standard input instead.
Needs gguf, tokenizers and llama-cpp-python.
"""

import argparse
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import llama_cpp
from gguf import GGUFReader, GGUFWriter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = Path(__file__).parent
out = here.parent / "data/tokenizer/kinds"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MASK = (1 << 64) - 1

WORDS = """the of and to in is that it was for on are with as his they at be this from have or by one had not but what all
were when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down only
don't I'm you've it'LL WE'RE o'clock HTTP JSON camelCase snake_case McDonald iPhone naïve café Straße déjà été señor façade
def return import self while print( if(x) for(i=0;i<n;++i){ }; => != == <= && || // /* */ #include <stdio.h> \\n 0x1F 1e-9
und der die das nicht mit привет мир это как не что 日本語 中文 你好 こんにちは 한국어 안녕 नमस्ते สวัสดี שלום مرحبا γειά""".split()
# Blocks without unassigned code points, so that any version of Unicode has the same properties for them.
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x17F), (0x391, 0x3A1), (0x3B1, 0x3C9), (0x410, 0x44F),
    (0x5D0, 0x5EA), (0x627, 0x63A), (0x660, 0x669), (0x905, 0x939), (0x93E, 0x94D), (0xE01, 0xE2E), (0x3041, 0x3096),
    (0x30A1, 0x30FA), (0x4E00, 0x4FFF), (0xAC00, 0xAFFF), (0x2010, 0x2027), (0x2190, 0x21FF), (0x2200, 0x22FF),
    (0x300, 0x36F), (0x1F600, 0x1F64F), (0x1F300, 0x1F31F), (0x2150, 0x215F), (0xFF01, 0xFF5E), (0x1D400, 0x1D433),
]
RARE = [0, 1, 7, 0x1B, 0x7F, 0x85, 0xA0, 0x2003, 0x2028, 0x200B, 0x200D, 0xFE0F, 0xFEFF, 0xFFFD, 0xFDD0, 0x10FFFF, 0xE000, 0x1F3FD, 0x2581, 9, 13]


class Random:
    """Xorshift, 64 bits."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        x = self.state
        x ^= (x << 13) & MASK
        x ^= x >> 7
        x ^= (x << 17) & MASK
        self.state = x
        return (x >> 11) % n


def make_text(seed, size):
    """At least `size` bytes of words, code, scripts, numbers, spaces, rare characters, repeats and long words."""
    r = Random(seed)
    parts, length = [], 0
    while length < size:
        kind = r.below(32)
        if kind < 16:
            part = WORDS[r.below(len(WORDS))] + (" " if r.below(8) else "")
        elif kind < 20:
            low, high = RANGES[r.below(len(RANGES))]
            part = "".join(chr(low + r.below(high - low + 1)) for _ in range(1 + r.below(9)))
        elif kind < 23:
            part = str(r.below(10 ** (1 + r.below(12))))
        elif kind < 26:
            part = " \n\t."[r.below(4)] * (1 + r.below(5))
        elif kind == 26:
            part = chr(RARE[r.below(len(RARE))])
        elif kind == 27:
            part = WORDS[r.below(len(WORDS))].upper() + ", "
        elif kind == 28:
            part = ["\r\n", "\n\n  ", ". ", "!? ", " \t ", "'S ", "...", "--", "_", "\n"][r.below(10)]
        elif kind == 29 and r.below(40) == 0:
            part = "a=é日 "[r.below(5)] * (1 + r.below(400))
        elif kind == 30 and r.below(40) == 0:
            part = "".join(chr(97 + r.below(26)) for _ in range(r.below(800)))
        else:
            part = WORDS[r.below(len(WORDS))] + WORDS[r.below(len(WORDS))] + " "
        parts.append(part)
        length += len(part.encode())
    return "".join(parts)


SHORT = ["", " ", "Hello", " Hello", "Hello  world ", "a<|im_end|>b", "<s>x</s> y", "x <mask> y", "12345 6", "日本語テキスト 한국어",
         "\u2581x", "é e\u0301 ﬁ Ⅷ ①", "👩‍👩‍👧‍👦🏽", "\x00\x01\t\n", "it's IT'S 'ſ", "  lead", "trail  ", "\n\nab\n", "[MASK] [CLS]", "  "]
PRE = ["gpt-2", "smollm", "llama-bpe", "qwen2", "default", "olmo", "phi-2", "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3",
       "falcon", "starcoder", "refact", "command-r", "mpt", "gpt-4o", "chatglm-bpe", "bloom", "viking", "bailingmoe",
       "seed-coder", "stablelm2", "exaone", "qwen35"]


def sample():
    return [make_text(seed, 60_000) for seed in (11, 12, 13)]


def write_gguf(name, model, tokens, types, scores=None, merges=None, **keys):
    w = GGUFWriter(out / name, "llama")
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if scores is not None:
        w.add_token_scores(scores)
    if merges is not None:
        w.add_tokenizer_pre("gpt-2")
        w.add_token_merges(merges)
    for key, value in keys.items():
        add = w.add_bool if isinstance(value, bool) else w.add_uint32
        add(f"tokenizer.ggml.{key}", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def train():
    out.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # Byte-level BPE.
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(sample(), trainers.BpeTrainer(vocab_size=2400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    t.save(str(out / "byte-level.json"), pretty=False)
    model = json.loads(t.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    write_gguf("bpe.gguf", "gpt2", tokens, [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3),
               merges=[" ".join(m) for m in model["merges"]], bos_token_id=0, eos_token_id=2)
    # BPE as SentencePiece has it: U+2581 for spaces, bytes for what is not in the vocabulary.
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    common = set("".join(WORDS))
    plain = ["".join(c if c in common else " " for c in text) for text in sample()]
    t.train_from_iterator(plain, trainers.BpeTrainer(vocab_size=2400, limit_alphabet=300, special_tokens=special + fallback + ["<mask>"], show_progress=False))
    spm = json.loads(t.to_str())
    spm["pre_tokenizer"] = None
    spm["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    spm["added_tokens"] = [a | {"lstrip": True} if a["content"] == "<mask>" else a for a in spm["added_tokens"] if a["id"] < 3 or a["content"] == "<mask>"]
    t = Tokenizer.from_str(json.dumps(spm))
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    t.save(str(out / "metaspace.json"), pretty=False)
    tokens = sorted(spm["model"]["vocab"], key=spm["model"]["vocab"].get)
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [USER_DEFINED] + [NORMAL] * (len(tokens) - 260)
    scores = [0.0] * 260 + [-float(i) for i in range(len(tokens) - 260)]
    write_gguf("spm.gguf", "llama", tokens, types, scores, bos_token_id=1, eos_token_id=2, unknown_token_id=0, add_bos_token=True)
    # Unigram.
    special = ["<pad>", "</s>", "<unk>"]
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.train_from_iterator(plain, trainers.UnigramTrainer(vocab_size=2000, special_tokens=special, unk_token="<unk>", show_progress=False))
    t.decoder = decoders.Metaspace()
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    t.save(str(out / "unigram.json"), pretty=False)
    vocab = json.loads(t.to_str())["model"]["vocab"]
    write_gguf("unigram.gguf", "t5", [v[0] for v in vocab], [CONTROL, CONTROL, UNKNOWN] + [NORMAL] * (len(vocab) - 3), [v[1] for v in vocab],
               padding_token_id=0, eos_token_id=1, unknown_token_id=2, add_space_prefix=True, remove_extra_whitespaces=True)
    # WordPiece.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # In GGUF, U+2581 begins a word, and is no piece.
    plain = [text.replace("\u2581", " ") for text in sample()]
    t.train_from_iterator(plain, trainers.WordPieceTrainer(vocab_size=2400, limit_alphabet=400, special_tokens=special, show_progress=False))
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.save(str(out / "wordpiece.json"), pretty=False)
    vocab = t.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    as_gguf = lambda x: x if x in special else x[2:] if x.startswith("##") else "\u2581" + x  # noqa: E731
    write_gguf("wordpiece.gguf", "bert", [as_gguf(x) for x in tokens], [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5),
               unknown_token_id=1, bos_token_id=2, seperator_token_id=3)
    # Added tokens of every kind over a small vocabulary of words.
    t = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "world": 2, ",": 3}, unk_token="<unk>"))
    t.normalizer = normalizers.Lowercase()
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.add_special_tokens(["<s>"])
    t.add_tokens([AddedToken("<L>", lstrip=True, normalized=False), AddedToken("<R>", rstrip=True, normalized=False), AddedToken("cat", single_word=True), AddedToken("Dog", normalized=True)])
    t.save(str(out / "words.json"), pretty=False)


def with_pre(pre, folder):
    """The byte-level vocabulary under another pre-tokenizer."""
    fields = GGUFReader(out / "bpe.gguf").fields
    get = lambda key: fields[f"tokenizer.ggml.{key}"].contents()  # noqa: E731
    path = Path(folder) / f"{pre}.gguf"
    w = GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(get("tokens"))
    w.add_token_types(get("token_type"))
    w.add_token_merges(get("merges"))
    w.add_bos_token_id(0)
    w.add_eos_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def reference(name, folder):
    """A function from text to ids, special tokens read as such, and one that adds what begins and ends a text."""
    # llama.cpp keeps only the first part of a syllable of Hangul in WordPiece, other than the model itself.
    name = "wordpiece.json" if name == "wordpiece.gguf" else name
    if name.endswith(".json"):
        t = Tokenizer.from_file(str(out / name))
        return lambda text, add: t.encode(text, add_special_tokens=add).ids
    path = with_pre(name, folder) if name in PRE else out / name
    m = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text, add: m.tokenize(text.encode(), add_bos=add, special=True)


KINDS = PRE + ["spm.gguf", "unigram.gguf", "wordpiece.gguf", "byte-level.json", "metaspace.json", "unigram.json", "wordpiece.json", "words.json"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    if args.only:
        print(json.dumps(reference(args.only, folder)(sys.stdin.buffer.read().decode(), False)))
        return
    train()
    text = make_text(1, 2_000_000)
    expected = {"text": hashlib.sha256(text.encode()).hexdigest(), "short": SHORT, "kinds": {}}
    for name in KINDS:
        encode = reference(name, folder)
        ids = encode(text, False)
        expected["kinds"][name] = {
            "count": len(ids),
            "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest(),
            "short": [encode(t, False) for t in SHORT],
            "with_specials": encode("Hello world", True),
        }
        print(name, len(ids), flush=True)
    (out / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


main()
