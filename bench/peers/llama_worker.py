"""llama.cpp as a worker of compare.py: `python llama_worker.py MODEL.gguf`, with the library's defaults.

Decoding is greedy, so that each token waits for the one before it, as in real use.
"""

import sys

import llama_cpp
import numpy as np

from worker import serve, timed


class Model:
    def __init__(self, path):
        self.llama = llama_cpp.Llama(path, n_ctx=1024, n_batch=512, verbose=False)
        self.context = self.llama._ctx.ctx
        self.vocab = self.llama.n_vocab()

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, tokens):
        """Runs the tokens after those before, and chooses the next."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.vocab,))
        return int(logits.argmax())

    def generate(self, token, count):
        for _ in range(count):
            token = self.step([token])

    def measure(self, threads, prompt, generate):
        llama_cpp.llama_set_n_threads(self.context, threads, threads)
        tokens = [(7 * i + 1) % 1000 + 100 for i in range(prompt)]
        self.clear()
        result = {"prefill": timed(prompt, lambda: self.step(tokens))}
        result["decode_at_prompt"] = timed(generate, lambda: self.generate(100, generate))
        self.clear()
        result["decode"] = timed(generate, lambda: self.generate(100, generate))
        return result


if __name__ == "__main__":
    model = Model(sys.argv[1])
    serve(f"llama-cpp-python {llama_cpp.__version__}", model.measure)
