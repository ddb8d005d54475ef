"""Writes a random-weight Llama of 1.17 billion parameters (TinyLlama's shape, another vocabulary), for speed tests.

    python make_random.py TOKENIZER.gguf OUT.gguf --type Q4_0|Q8_0

The tokenizer's metadata is copied from TOKENIZER.gguf. Blocks are made of random codes and scales, a piece at a time;
the scales give every layer's result about the size of its input. The same arguments write the same bytes.
"""

import argparse

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 2048, 22, 32, 4, 5632, 2048
# Bytes of codes in a block of 32, and the standard deviation of a uniform code.
BLOCKS = {T.Q4_0: (16, 4.61), T.Q8_0: (32, 73.9)}
PIECE = 1 << 16


def tensors(vocab):
    """(name, shape, standard deviation of the weights); vectors are norms, all ones."""
    head = HIDDEN // HEADS
    residual = 1 / np.sqrt(2 * LAYERS)
    yield "token_embd.weight", (vocab, HIDDEN), 1.0
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (KV_HEADS * head, HIDDEN),
            "attn_v": (KV_HEADS * head, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (HIDDEN,), None
        for name, shape in shapes.items():
            scale = residual if name in ("attn_output", "ffn_down") else 1.0
            yield f"blk.{layer}.{name}.weight", shape, scale / np.sqrt(shape[1])
    yield "output_norm.weight", (HIDDEN,), None
    yield "output.weight", (vocab, HIDDEN), 1 / np.sqrt(HIDDEN)


def blocks(rng, count, ty, deviation):
    """The bytes of `count` blocks; scales have both signs, since the codes' mean is not 0."""
    size, code_deviation = BLOCKS[ty]
    scales = rng.uniform(0.7, 1.3, count) * rng.choice([-1, 1], count) * (deviation / code_deviation)
    codes = rng.integers(0, 256, (count, size), np.uint8)
    return np.concatenate([scales.astype("<f2").view(np.uint8).reshape(count, 2), codes], axis=1)


def copy_tokenizer(reader, writer):
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("output")
    parser.add_argument("--type", choices=[t.name for t in BLOCKS], default="Q4_0")
    args = parser.parse_args()
    ty = T[args.type]
    writer = GGUFWriter(args.output, "llama")
    writer.add_name(f"random-1.17b-{args.type.lower()}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    vocab = copy_tokenizer(GGUFReader(args.tokenizer), writer)
    writer.add_vocab_size(vocab)
    block = 2 + BLOCKS[ty][0]
    for name, shape, deviation in tensors(vocab):
        if deviation is None:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            stored = (shape[0], shape[1] // 32 * block)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    out = writer.fout[0]
    for _, shape, deviation in tensors(vocab):
        writer.write_padding(out, out.tell())
        if deviation is None:
            out.write(np.ones(shape, "<f4").tobytes())
            continue
        count = shape[0] * shape[1] // 32
        for at in range(0, count, PIECE):
            out.write(blocks(rng, min(PIECE, count - at), ty, deviation).tobytes())
    writer.write_padding(out, out.tell())
    writer.close()


if __name__ == "__main__":
    main()
