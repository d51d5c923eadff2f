"""Write what beam search of Hugging Face transformers finds on the tiny checkpoints, in float32.

    python tests/golden/make_beams.py        # needs torch and transformers 5

``data/beams.json`` holds, per checkpoint, the searches of ``SEARCHES``: the prompt, the end token
(one that a search without any finds, so that beams do end) and the results, best first, with
transformers' scores: ``sum of logprobs / len(tokens) ** length_penalty``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

DATA = Path(__file__).parent / "data"
SEARCHES = [
    {"num_beams": 2, "length_penalty": 1.0, "max_tokens": 8, "ends": False},
    {"num_beams": 4, "length_penalty": 1.0, "max_tokens": 12, "ends": True},
    {"num_beams": 5, "length_penalty": 0.0, "max_tokens": 12, "ends": True},
    {"num_beams": 3, "length_penalty": 2.0, "max_tokens": 12, "ends": True},
]


def search(model, prompt, *, num_beams, length_penalty, max_tokens, end):
    """The results as ``[{"score": …, "token_ids": […]}]``, best first."""
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=length_penalty,
        early_stopping=False,
        max_new_tokens=max_tokens,
        eos_token_id=end,
        pad_token_id=0 if end != 0 else 1,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    results = []
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        token_ids = row[len(prompt) :]
        if end is not None and end in token_ids:
            token_ids = token_ids[: token_ids.index(end) + 1]
        results.append({"score": round(score, 6), "token_ids": token_ids})
    return results


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    cases = {}
    for folder in sorted((DATA / "tiny").iterdir()):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        model.generation_config.eos_token_id = None
        prompt = np.load(folder / "reference.npz")["input_ids"][0].tolist()
        cases[folder.name] = []
        for each in SEARCHES:
            options = {name: value for name, value in each.items() if name != "ends"}
            end = None
            if each["ends"]:
                free = search(model, prompt, end=None, **{**options, "max_tokens": 6})
                end = free[-1]["token_ids"][3]
            results = search(model, prompt, end=end, **options)
            cases[folder.name].append({**options, "end": end, "prompt": prompt, "results": results})
    about = {"transformers": transformers.__version__, "torch": torch.__version__, "cases": cases}
    (DATA / "beams.json").write_text(json.dumps(about, indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main()
