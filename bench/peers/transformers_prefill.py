"""`transformers` in bf16 as a worker of compare.py: `python transformers_prefill.py MODEL.gguf`.

The weights are those of the GGUF file, dequantized. Only the prefill is measured, with logits for the last token only;
a sample is several prefills, since one is too short to see whether others used the machine meanwhile.
"""

import sys

import torch
import transformers

import reference
from worker import serve, timed


REPEAT = 4


class Model:
    def __init__(self, path):
        self.model = reference.load(path).to(torch.bfloat16)

    @torch.inference_mode()
    def measure(self, threads, prompt, generate):
        del generate
        torch.set_num_threads(threads)
        tokens = torch.tensor([[(7 * i + 1) % 1000 + 100 for i in range(prompt)]])
        return {"prefill": timed(REPEAT * prompt, lambda: self.prefill(tokens))}

    def prefill(self, tokens):
        for _ in range(REPEAT):
            self.model(tokens, use_cache=True, logits_to_keep=1)


if __name__ == "__main__":
    model = Model(sys.argv[1])
    serve(f"transformers {transformers.__version__} bf16, torch {torch.__version__}", model.measure)
