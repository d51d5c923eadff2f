"""What do shared prefixes and forks save?

    python -m bench.sequences [--model smollm2|gemma] [--threads N] [--repeats 5] [--json FILE]

Scores 32 options of a 500-token prompt with ``choose`` and, in turns, as 32 requests of their own
without a prefix cache; the log-probabilities must be equal. Also the time of a fork, and of going
on from a held sequence against prefilling its tokens. Medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import inferlib
from bench import drafting, machine, models

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")
NUM_PROMPT_TOKENS = 500
NUM_OPTIONS = 32
NUM_FORKS = 1000


def seconds(call: Callable[[], Result]) -> tuple[float, Result]:
    """Time of one call, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def separately(
    model: inferlib.Model, prompt: list[int], options: list[list[int]]
) -> list[list[float]]:
    """Each option as a request of its own, one after another, nothing cached."""
    scores = []
    for option in options:
        completion = model.generate(
            [*prompt, *option],
            max_tokens=0,
            prompt_logprobs=0,
            prompt_logprobs_start=len(prompt),
        )
        rows = completion.prompt_logprobs[len(prompt) :]
        scores.append([row[token].logprob for row, token in zip(rows, option, strict=True)])
    return scores


def measure(path: Path, threads: int | None, repeats: int) -> dict[str, object]:
    """All figures of one model."""
    load = {"threads": threads, "kv_cache": "16k tokens"}
    with (
        inferlib.Model.from_pretrained(path, **load) as model,
        inferlib.Model.from_pretrained(path, **load, enable_prefix_caching=False) as uncached,
    ):
        text = " ".join(drafting.PROMPTS["ordinary"].values()) + drafting.TEXT
        tokens = model.tokenizer.encode(text).tolist()
        prompt = (tokens * NUM_PROMPT_TOKENS)[:NUM_PROMPT_TOKENS]
        options = [tokens[i : i + 2] for i in range(NUM_OPTIONS)]
        shared, alone, going_on, prefilling = [], [], [], []
        for repeat in range(repeats):
            prompt[0] = repeat + 10  # so that nothing is found in the prefix cache
            took, choice = seconds(partial(model.choose, list(prompt), options))
            shared.append(took)
            took, scores = seconds(partial(separately, uncached, list(prompt), options))
            alone.append(took)
            assert scores == [score.tokens for score in choice.logprobs]
            took, sequence = seconds(partial(uncached.prefill, list(prompt)))
            prefilling.append(took)
            took, _ = seconds(partial(sequence.next_token_logprobs, top=1))
            going_on.append(took)
        took, forks = seconds(partial(sequence.fork, NUM_FORKS))
        for fork in forks:
            fork.close()
        sequence.close()
    result = {
        "choose_seconds": statistics.median(shared),
        "separate_seconds": statistics.median(alone),
        "prefill_seconds": statistics.median(prefilling),
        "next_token_of_held_seconds": statistics.median(going_on),
        "fork_microseconds": took / NUM_FORKS * 1e6,
    }
    return {**result, "speedup": result["separate_seconds"] / result["choose_seconds"]}


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "gemma"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(getattr(models, arguments.model)(), arguments.threads, arguments.repeats)
    print(f"{NUM_OPTIONS} options of a {NUM_PROMPT_TOKENS}-token prompt:")
    print(f"  choose        {figures['choose_seconds']:8.3f} s")
    print(f"  separately    {figures['separate_seconds']:8.3f} s")
    print(f"  speedup       {figures['speedup']:8.1f} (target: 8)")
    print(f"prefill         {figures['prefill_seconds']:8.3f} s")
    print(f"next token      {figures['next_token_of_held_seconds']:8.3f} s")
    print(f"fork            {figures['fork_microseconds']:8.1f} µs (from Python)")
    if arguments.json:
        result = {"machine": machine.describe(), "model": arguments.model, **figures}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
