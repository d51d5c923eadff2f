"""How far is fast precision from exact? KL divergence per position over fixed texts.

    python -m bench.quality [--model smollm2|gemma] [--texts DIR] [--positions 2048] [--json FILE]

Teacher-forced: both precisions score the same token ids in windows of 256. Exact precision is float32 throughout and
equals transformers on the golden cases. The divergence is summed over the reference's 1,000 best tokens, the rest of the
vocabulary counted as one outcome: a lower bound that is tight where those tokens hold the mass (the mean mass outside them
is reported as ``tail_mass``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import inferlib
from bench import machine, models

WINDOW = 256
TOP = 1000
TEXTS = Path(__file__).parent.parent / "tests" / "golden" / "data" / "text"


def windows(model: inferlib.Model, texts: Path, positions: int) -> list[list[int]]:
    """Token ids of the texts in windows, round-robin over the files so that every language takes part."""
    per_file = []
    for path in sorted(texts.glob("*.txt")):
        ids = model.tokenizer.encode(path.read_text(encoding="utf8")).tolist()
        per_file.append([ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)])
    picked: list[list[int]] = []
    while any(per_file) and len(picked) * WINDOW < positions:
        for file in per_file:
            if file and len(picked) * WINDOW < positions:
                picked.append(file.pop(0))
    return picked


def logprobs(model: inferlib.Model, prompt: list[int]) -> list[dict[int, float]]:
    """Token id → log-probability for every position of the prompt but the first."""
    completion = model.generate(prompt, max_tokens=0, prompt_logprobs=TOP, temperature=0)
    return [{k: v.logprob for k, v in row.items()} for row in completion.prompt_logprobs or [] if row]


def divergence(exact: dict[int, float], fast: dict[int, float]) -> tuple[float, float]:
    """KL divergence and the mass outside the common tokens."""
    common = [token for token in exact if token in fast]
    p = np.exp(np.array([exact[token] for token in common]))
    q = np.exp(np.array([fast[token] for token in common]))
    rest_p, rest_q = max(1 - p.sum(), 0.0), max(1 - q.sum(), 1e-12)
    kl = float((p * np.log(p / q)).sum()) + (rest_p * np.log(max(rest_p, 1e-12) / rest_q) if rest_p > 0 else 0.0)
    return max(kl, 0.0), float(rest_p)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    with inferlib.Model.from_pretrained(path, precision="exact") as exact:
        prompts = windows(exact, arguments.texts, arguments.positions)
        reference = [logprobs(exact, prompt) for prompt in prompts]
    with inferlib.Model.from_pretrained(path, precision="fast") as fast:
        measured = [logprobs(fast, prompt) for prompt in prompts]
    kl, tail, same = [], [], []
    for a, b in zip(reference, measured, strict=True):
        for exact_row, fast_row in zip(a, b, strict=True):
            value, rest = divergence(exact_row, fast_row)
            kl.append(value)
            tail.append(rest)
            same.append(max(exact_row, key=exact_row.get) == max(fast_row, key=fast_row.get))
    result = {
        "model": path.name,
        "positions": len(kl),
        "kld_mean": float(np.mean(kl)),
        "kld_99.9": float(np.quantile(kl, 0.999)),
        "kld_max": float(np.max(kl)),
        "same_top1": float(np.mean(same)),
        "tail_mass": float(np.mean(tail)),
        **machine.describe(),
    }
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
