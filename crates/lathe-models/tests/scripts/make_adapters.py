"""Writes tests/data/adapters/: low-rank adapters of models of tests/data/safetensors/, and the logits of the models with them.

    NAME/              a folder as PEFT saves it
    NAME.gguf          the same as llama.cpp's converter writes it, for the GGUF file of the model
    NAME.logits.bin    f32, little-endian: the logits at each position of the prompt, by PEFT over `transformers`

Run with the packages of bench/peers/requirements.txt and `peft`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from tiny_families import permute
from transformers import AutoModelForCausalLM

DATA = Path(__file__).parent.parent / "data"
OUT = DATA / "adapters"
PROMPT = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Name, model, settings.
ADAPTERS = [
    ("llama-all", "llama-f32", dict(r=4, lora_alpha=8, target_modules=ALL)),
    ("llama-heads", "llama-f32", dict(r=20, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True)),
    ("qwen2-all", "qwen2-f32", dict(r=3, lora_alpha=6, target_modules=ALL)),
    ("phi3-fused", "phi3", dict(r=8, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj"])),
    ("gpt2-all", "gpt2", dict(r=2, lora_alpha=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
]
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def as_gguf(name, config, settings):
    """As `convert_lora_to_gguf.py` writes it: rows of queries and keys in the order of the model's file."""
    w = GGUFWriter(OUT / f"{name}.gguf", "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", settings["lora_alpha"])
    for key, value in load_file(OUT / name / "adapter_model.safetensors").items():
        words = key.removeprefix("base_model.model.model.layers.").split(".")
        part = PARTS[".".join(words[1:3])]
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
        if words[3] == "lora_B" and heads:
            value = permute(value, heads)
        w.add_tensor(f"blk.{words[0]}.{part}.weight.{words[3].lower()}", np.ascontiguousarray(value))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def settle(folder, base):
    """Takes out what differs from machine to machine and from run to run."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": base, "target_modules": sorted(config["target_modules"])}
    path.write_text(json.dumps(config, indent=1) + "\n")
    (folder / "adapter_model.safetensors").chmod(0o644)


@torch.inference_mode()
def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for name, base, settings in ADAPTERS:
        load = lambda: AutoModelForCausalLM.from_pretrained(
            DATA / "safetensors" / base, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        plain = load()(torch.tensor([PROMPT])).logits[0]
        model = get_peft_model(load(), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        for key, w in model.named_parameters():
            if "lora_" in key:
                w.copy_(torch.randn_like(w) * (1.0 if "lora_B" in key else w.shape[-1] ** -0.5))
        logits = model(torch.tensor([PROMPT])).logits[0]
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink()
        settle(OUT / name, base)
        (OUT / f"{name}.logits.bin").write_bytes(logits.numpy().astype("<f4").tobytes())
        if base == "llama-f32" and not settings.get("use_rslora"):
            as_gguf(name, model.config, settings)
        print(name, f"{(logits - plain).abs().max() / plain.abs().max():.2f} of the largest logit apart")


main()
