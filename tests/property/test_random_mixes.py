"""Bit for bit the same tokens and log-probabilities in random mixes of requests.

A mix is who comes together, in which order, who comes later, and who is cancelled. Each runs under
one of all combinations of chunk size, prefix cache, forced preemption and threads. The default
suite runs some of the 1,000 mixes, ``make test-random-mixes`` all.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import product

import pytest
from tests.checkpoints import TINY

from inferlib import Model

CHUNKS = (1, 7, 16, 64, None)
"""Tokens of a step; ``None``: every prompt in one piece."""
SETTINGS = tuple(product(CHUNKS, (True, False), (True, False), (1, 2)))
NUM_MIXES = 1000
NUM_REQUESTS = 48
LONGEST_PROMPT = 60
WHOLE = {"max_model_len": 128, "kv_cache": "4k tokens", "max_num_batched_tokens": 2048}


@dataclass(frozen=True)
class Asked:
    """A request and what it gives alone."""

    prompt: list[int]
    options: dict[str, object]
    answer: object


def prompt_of(generator: random.Random, before: list[list[int]]) -> list[int]:
    """Short and long ones; many begin like another one."""
    ids = [generator.randrange(3, 160) for _ in range(generator.randrange(1, LONGEST_PROMPT))]
    if before and generator.random() < 0.5:
        shared = generator.choice(before)[: generator.randrange(1, LONGEST_PROMPT)]
        ids = (shared + ids)[:LONGEST_PROMPT]
    return ids


def options_of(generator: random.Random) -> dict[str, object]:
    """Greedy, sampled, penalised, several at once, prompts scored."""
    kinds: list[dict[str, object]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9},
        {"temperature": 1.1, "top_k": 20, "repetition_penalty": 1.2},
        {"temperature": 0.3, "n": 2},
        {"temperature": 0, "prompt_logprobs": 1},
        {"temperature": 0.7, "min_p": 0.05, "stop_token_ids": [9, 30]},
    ]
    common = {"logprobs": 1, "ignore_eos": True, "seed": generator.randrange(1000)}
    return common | {"max_tokens": generator.randrange(1, 40)} | generator.choice(kinds)


def answer(completion):
    """Everything that must be equal, bit for bit."""

    def entries(row):
        return row and [(token, each.logprob, each.rank) for token, each in sorted(row.items())]

    outputs = [
        (each.token_ids, each.finish_reason, [entries(row) for row in each.logprobs])
        for each in completion.outputs
    ]
    return outputs, [entries(row) for row in completion.prompt_logprobs or []]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def asked(request):
    """The definition: one by one, whole prompts, nothing cached or drafted, one thread."""
    generator = random.Random(request.param)
    prompts: list[list[int]] = []
    found = []
    alone = {"threads": 1, "enable_prefix_caching": False, "speculation": "off"}
    with Model.from_pretrained(TINY / request.param, **alone, **WHOLE) as model:
        for _ in range(NUM_REQUESTS):
            prompts.append(prompt_of(generator, prompts))
            options = options_of(generator)
            found.append(
                Asked(prompts[-1], options, answer(model.generate(prompts[-1], **options)))
            )
    return request.param, found


def load(name: str, chunk, cached, preempted, threads) -> Model:
    limits = {**WHOLE, "enable_prefix_caching": cached, "threads": threads}
    if chunk is not None:
        limits["max_num_batched_tokens"] = chunk
    if preempted:
        limits["kv_cache"] = "128 tokens"  # of 8 blocks, any request fits alone
    return Model.from_pretrained(TINY / name, **limits)


def run_mix(model: Model, asked: list[Asked], generator: random.Random) -> None:
    """Some at once; then others while these run; some of them are given up."""
    chosen = generator.choices(asked, k=generator.randrange(2, 12))
    num_late = generator.randrange(len(chosen))
    running = []
    for place, each in enumerate(chosen):
        if place == len(chosen) - num_late and running:  # run for a while
            done = running.pop(generator.randrange(len(running)))
            assert answer(done[0].result()) == done[1].answer
        running.append((model.submit(each.prompt, **each.options), each))
        if generator.random() < 0.1:
            running.pop()[0].cancel()
    generator.shuffle(running)
    for handle, each in running:
        assert answer(handle.result()) == each.answer, each.options


def check(asked, mixes: range) -> Counter[tuple[object, ...]]:
    """Run these mixes, each under its setting; how often somebody was preempted, by setting."""
    name, requests = asked
    preemptions: Counter[tuple[object, ...]] = Counter()
    for place, setting in enumerate(SETTINGS):
        chosen = [mix for mix in mixes if mix % len(SETTINGS) == place]
        if not chosen:
            continue
        with load(name, *setting) as model:
            for mix in chosen:
                run_mix(model, requests, random.Random(f"{name} {mix}"))
                model._engine._scheduler.check_integrity()
            stats = model.stats()
            preemptions[setting] += stats["preemptions"]
            assert stats["free_blocks"] == stats["total_blocks"]
    return preemptions


def test_some_random_mixes_give_the_same_bits(asked):
    preemptions = check(asked, range(2 * len(SETTINGS)))
    forced = [count for (_, _, is_forced, _), count in preemptions.items() if is_forced]
    assert sum(forced) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_random_mixes_give_the_same_bits(asked):
    preemptions = check(asked, range(NUM_MIXES))
    for (chunk, _, is_forced, _), count in preemptions.items():
        assert (count > 0) == (
            is_forced and chunk != 1
        )  # with one token a step, one runs at a time
