"""How fast are loading, the first token, prefill, decode and batches, through the public API?

    python -m bench.generate [--model smollm2|gemma] [--threads N] [--repeats 5] [--json FILE]

Nothing is drafted (see ``bench.drafting``).

Prompts are random token ids (speed does not depend on them). Prefill is prompt tokens over the time
to the first token; decode is the median over runs of tokens after the first over their time; a
batch of n decodes n sequences together after 64 tokens each. Read bandwidth is measured in the same
run, as the kernels read (``bench.machine``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import inferlib
from bench import machine, models

OPTIONS = {"temperature": 0, "ignore_eos": True}


def random_prompt(random: np.random.Generator, length: int) -> list[int]:
    """Ordinary token ids."""
    return random.integers(100, 20_000, length).tolist()


def first_token_seconds(path: Path) -> float:
    """A fresh process: import, load, and one token of a short prompt."""
    code = (
        "import sys, time, numpy; start = time.perf_counter()\n"
        "import inferlib\n"
        "model = inferlib.Model.from_pretrained(sys.argv[1])\n"
        "model.generate('Once upon a time', max_tokens=1, temperature=0)\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code, str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def prefill(model: inferlib.Model, prompt: list[int]) -> float:
    """Prompt tokens per second."""
    start = time.perf_counter()
    model.generate(prompt, max_tokens=1, **OPTIONS)
    return len(prompt) / (time.perf_counter() - start)


def decode(model: inferlib.Model, prompts: list[list[int]], tokens: int) -> float:
    """Tokens per second of all sequences together, after their first token."""
    completions = model.generate(prompts, max_tokens=tokens, progress=False, **OPTIONS)
    latency = statistics.median(c.timings.inter_token_latency for c in completions)
    return len(prompts) / latency


def measure(path: Path, threads: int | None, repeats: int) -> dict[str, float]:
    """Each figure's median over ``repeats``, workloads interleaved."""
    random = np.random.default_rng(0)
    samples: dict[str, list[float]] = {}
    first = [first_token_seconds(path) for _ in range(3)]
    with inferlib.Model.from_pretrained(
        path, threads=threads, enable_prefix_caching=False, speculation="off"
    ) as model:
        model.generate(random_prompt(random, 16), max_tokens=8, **OPTIONS)

        def add(name: str, value: float) -> None:
            samples.setdefault(name, []).append(value)

        for _ in range(repeats):
            add("read_bandwidth_gb_s", machine.read_bandwidth(threads))
            for length in (128, 512, 1024):
                add(f"prefill_{length}", prefill(model, random_prompt(random, length)))
            for context in (16, 1024):
                prompts = [random_prompt(random, context)]
                add(f"decode_{context}", decode(model, prompts, 48))
            for size in (8, 32):
                prompts = [random_prompt(random, 64) for _ in range(size)]
                add(f"batch_{size}", decode(model, prompts, 24))
        weight_bytes = model.stats()["details"]["weight_bytes"]
    result = {name: statistics.median(values) for name, values in samples.items()}
    result["best_decode_16"] = max(samples["decode_16"])
    result["load_to_first_token_seconds"] = statistics.median(first)
    result["weight_bytes"] = weight_bytes
    return result


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    result = {
        "model": path.name,
        "threads": arguments.threads or machine.cores(),
        **measure(path, arguments.threads, arguments.repeats),
        **machine.describe(),
    }
    print(json.dumps(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
