"""Writes tests/data/tiny/beams.json: what `transformers` finds by beam search with the tiny model `llama-f32`.

A list of {prompt, width, ends, max_tokens, length_penalty, early_stopping, repetition_penalty, answers}; `answers` is a list of
[ids without the prompt, score], the best first, as `generate(num_beams=width, num_return_sequences=width)` gives them. Each case
was found in f32 and in f64 with the same ids, so none hangs on the rounding of a sum.

Run with the packages of bench/peers/requirements.txt.
"""

import itertools
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

DATA = Path(__file__).parent.parent / "data"
PROMPTS = [[1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44], [7, 90, 12], [100, 64, 2, 31, 77], [5] * 20]
# Tokens that end an answer: none, and two kinds that beams meet early.
ENDS = [[], [37, 83], [66, 101, 38, 44, 2, 5]]
SETTINGS = [(1.0, False), (0.0, True), (2.0, "never"), (-0.5, False), (0.7, True)]


def search(model, case):
    ids = torch.tensor([case["prompt"]])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=case["width"],
        num_return_sequences=case["width"], max_new_tokens=case["max_tokens"], length_penalty=case["length_penalty"],
        early_stopping=case["early_stopping"], repetition_penalty=case["repetition_penalty"],
        eos_token_id=case["ends"] or None, pad_token_id=0, output_scores=True, return_dict_in_generate=True,
    )
    answers = []
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist()):
        row = row[len(case["prompt"]):]
        end = next((i + 1 for i, token in enumerate(row) if token in case["ends"]), len(row))
        answers.append([row[:end], score])
    return answers


def main():
    folder = DATA / "safetensors/llama-f32"
    # Nothing of the model's own settings is used.
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=t) for t in (torch.float32, torch.float64)]
    for model in models:
        model.generation_config.eos_token_id = None
    cases, dropped = [], 0
    for number, (prompt, ends, (penalty, stopping)) in enumerate(itertools.product(PROMPTS, ENDS, SETTINGS)):
        case = dict(
            prompt=prompt, width=[4, 2, 3, 4, 5][number % 5], ends=ends, max_tokens=[8, 14, 20][number % 3],
            length_penalty=penalty, early_stopping=stopping, repetition_penalty=[1.0, 1.0, 1.3, 1.0][number % 4],
        )
        single, double = (search(model, case) for model in models)
        if [ids for ids, _ in single] != [ids for ids, _ in double]:
            dropped += 1
            continue
        case["answers"] = [[ids, round(score, 7)] for ids, score in double]
        cases.append(case)
    text = ",\n".join(json.dumps(case) for case in cases)
    (DATA / "tiny/beams.json").write_text(f"[\n{text}\n]\n")
    ended = sum(ids[-1] in case["ends"] for case in cases for ids, _ in case["answers"])
    print(f"{len(cases)} cases, {dropped} dropped, {ended} of {sum(len(c['answers']) for c in cases)} answers ended")


main()
