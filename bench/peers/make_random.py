"""Writes a random-weight Llama for speed tests: TinyLlama's shape (1.17 billion parameters), half a billion, or 3.1 billion;
or a mixture of experts.

    python make_random.py TOKENIZER.gguf OUT.gguf --type Q4_K [--size 0.5b] [--experts 8 --used 2]

The tokenizer's metadata is copied from TOKENIZER.gguf. Blocks are made of random codes and scales, a piece at a time;
the scales give every layer's result about the size of its input. Routers choose the first experts most often: the rows of the
i-th are smaller by the root of i. The same arguments write the same bytes.
"""

import argparse

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFValueType, GGUFWriter
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# Hidden size, layers, heads, key and value heads, width inside the feed-forward.
SIZES = {"1.17b": (2048, 22, 32, 4, 5632), "0.5b": (1024, 28, 16, 4, 4096), "3.1b": (3072, 28, 24, 8, 8192)}
SIZES["mixture"] = (1024, 16, 16, 4, 2048)
CONTEXT = 2048
# Bytes at which a block's scale is, and perhaps its minimum (or the scale of those) with what centres the values.
BLOCKS = {
    T.Q4_0: [(0, 1.0)],
    T.Q4_1: [(0, 1.0), (2, -7.5)],
    T.Q5_0: [(0, 1.0)],
    T.Q5_1: [(0, 1.0), (2, -15.5)],
    T.Q8_0: [(0, 1.0)],
    T.Q2_K: [(80, 1.0), (82, 1.5)],
    T.Q3_K: [(108, 1.0)],
    T.Q4_K: [(0, 1.0), (2, 7.5)],
    T.Q5_K: [(0, 1.0), (2, 15.5)],
    T.Q6_K: [(208, 1.0)],
    T.IQ4_NL: [(0, 1.0)],
    T.IQ4_XS: [(0, 1.0)],
}
PIECE = 1 << 16


def tensors(vocab, size, experts):
    """(name, shape, standard deviation of the weights); vectors are norms, all ones; those of routers are by row."""
    hidden, layers, heads, kv_heads, ffn = size
    head = hidden // heads
    residual = 1 / np.sqrt(2 * layers)
    yield "token_embd.weight", (vocab, hidden), 1.0
    for layer in range(layers):
        shapes = {
            "attn_q": (hidden, hidden),
            "attn_k": (kv_heads * head, hidden),
            "attn_v": (kv_heads * head, hidden),
            "attn_output": (hidden, hidden),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
        }
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (hidden,), None
        if experts:
            rows = 2 / np.sqrt(hidden * np.arange(1, experts + 1))
            yield f"blk.{layer}.ffn_gate_inp.weight", (experts, hidden), rows
            for name in ("ffn_gate", "ffn_up", "ffn_down"):
                shapes[f"{name}_exps"] = (experts, *shapes.pop(name))
        for name, shape in shapes.items():
            scale = residual if name in ("attn_output", "ffn_down", "ffn_down_exps") else 1.0
            yield f"blk.{layer}.{name}.weight", shape, scale / np.sqrt(shape[-1])
    yield "output_norm.weight", (hidden,), None
    yield "output.weight", (vocab, hidden), 1 / np.sqrt(hidden)


def blocks(rng, count, ty, scale):
    """The bytes of `count` blocks; scales have both signs, since the codes' mean is not 0."""
    out = rng.integers(0, 256, (count, GGML_QUANT_SIZES[ty][1]), np.uint8)
    scales = rng.uniform(0.7, 1.3, count) * rng.choice([-1, 1], count) * scale
    for at, factor in BLOCKS[ty]:
        out[:, at : at + 2] = (scales * factor).astype("<f2").view(np.uint8).reshape(count, 2)
    return out


def unit_scale(ty):
    """The scale that gives values a standard deviation of 1."""
    values = dequantize(blocks(np.random.default_rng(1), 4096, ty, 1 / 16).reshape(-1), ty)
    return 1 / 16 / values.std()


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
    parser.add_argument("--size", choices=SIZES, default="1.17b")
    parser.add_argument("--experts", type=int, default=0, help="experts of a layer; none: no mixture")
    parser.add_argument("--used", type=int, default=2, help="experts that a token is sent to")
    args = parser.parse_args()
    ty, size = T[args.type], SIZES[args.size]
    hidden, layers, heads, kv_heads, ffn = size
    length, bytes_each = GGML_QUANT_SIZES[ty]
    unit = unit_scale(ty)
    writer = GGUFWriter(args.output, "llama")
    writer.add_name(f"random-{args.size}-{args.type.lower()}")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)
    if args.experts:
        writer.add_expert_count(args.experts)
        writer.add_expert_used_count(args.used)
    vocab = copy_tokenizer(GGUFReader(args.tokenizer), writer)
    writer.add_vocab_size(vocab)
    for name, shape, deviation in tensors(vocab, size, args.experts):
        if deviation is None or np.ndim(deviation):
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        else:
            stored = (*shape[:-1], shape[-1] // length * bytes_each)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    out = writer.fout[0]
    for _, shape, deviation in tensors(vocab, size, args.experts):
        writer.write_padding(out, out.tell())
        if deviation is None:
            out.write(np.ones(shape, "<f4").tobytes())
            continue
        if np.ndim(deviation):
            out.write((rng.standard_normal(shape) * deviation[:, None]).astype("<f4").tobytes())
            continue
        count = int(np.prod(shape)) // length
        for at in range(0, count, PIECE):
            out.write(blocks(rng, min(PIECE, count - at), ty, deviation * unit).tobytes())
    writer.write_padding(out, out.tell())
    writer.close()


if __name__ == "__main__":
    main()
