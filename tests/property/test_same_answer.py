"""A request's tokens and log-probabilities do not depend on how it was run."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.real_models import real_model

from inferlib import Model, PromptLookup

NUM_PROMPTS = 64
NUM_TOKENS = 34
MUCH = PromptLookup(num_speculative_tokens=7, rows_per_pass=48)
"""Drafts for many sequences at once, in long steps."""


def prompts_of(vocab_size: int, count: int = NUM_PROMPTS) -> list[list[int]]:
    """Prompts of 1 to 150 tokens; a third begin like the one before, a third are repetitive."""
    random = np.random.default_rng(7)
    prompts: list[list[int]] = []
    for i in range(count):
        ids = random.integers(3, vocab_size, random.integers(1, 150)).tolist()
        if i % 3 == 2:
            ids = [*prompts[-1][:40], *ids[:100]]
        elif i % 3 == 1:
            ids = (ids[: 2 + i % 11] * 75)[:150]
        prompts.append(ids)
    return prompts


def options(i: int) -> dict[str, object]:
    """Greedy, sampled and penalised requests, in turns."""
    kinds: list[dict[str, object]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9, "seed": 100 + i},
        {"temperature": 1.1, "top_k": 20, "repetition_penalty": 1.2, "seed": 100 + i},
        {"temperature": 0, "frequency_penalty": 0.1, "stop_token_ids": [9, 30]},
        {"temperature": 0.2, "n": 2, "seed": 100 + i, "logprobs_mode": "processed"},
        {"temperature": 0, "max_tokens": 1 + i % 9, "bad_words": [[5, 6]], "min_tokens": 2},
    ]
    common = {"max_tokens": NUM_TOKENS, "logprobs": 2, "ignore_eos": i % 2 == 0}
    chosen = common | kinds[i // 3 % len(kinds)]
    if chosen["max_tokens"] == 1:
        chosen["min_tokens"] = 1
    return chosen


def answer(completion):
    """Everything that must be equal, bit for bit."""
    return [
        (
            output.text,
            output.token_ids,
            output.finish_reason,
            output.stop_reason,
            [
                [(token, entry.logprob, entry.rank) for token, entry in sorted(row.items())]
                for row in output.logprobs
            ],
        )
        for output in completion.outputs
    ]


def run_all(model: Model, prompts: list[list[int]]):
    """All at once, as one batch of requests."""
    handles = [model.submit(prompt, **options(i)) for i, prompt in enumerate(prompts)]
    return [answer(handle.result()) for handle in handles]


@pytest.fixture(
    scope="module", params=["tiny, fast", "tiny, exact", "tiny, fast, int8", "smollm2, fast"]
)
def alone(request):
    """The definition: one by one, nothing cached, nothing drafted, one thread."""
    name, *loading = request.param.split(", ")
    numerics = dict(zip(("precision", "kv_cache_dtype"), loading, strict=False))
    is_tiny = name == "tiny"
    path = TINY / "gemma3" if is_tiny else real_model(name)
    prompts = prompts_of(160, NUM_PROMPTS if is_tiny else NUM_PROMPTS // 2)
    with Model.from_pretrained(
        path, **numerics, threads=1, enable_prefix_caching=False, speculation="off"
    ) as model:
        answers = [answer(model.generate(p, **options(i))) for i, p in enumerate(prompts)]
    return path, numerics, prompts, answers


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1},
        {"threads": 2},
        {"threads": 3},
        {"max_num_batched_tokens": 16},
        {"max_num_batched_tokens": 64, "max_num_seqs": 5},
        {"kv_cache": "512 tokens", "max_model_len": 256},
        {"kv_cache": "512 tokens", "max_model_len": 256, "enable_prefix_caching": False},
        {"speculation": MUCH, "max_num_seqs": 3, "threads": 1, "max_num_batched_tokens": 64},
        {"speculation": MUCH, "max_num_seqs": 6, "threads": 2},
        {"speculation": MUCH, "kv_cache": "512 tokens", "max_model_len": 256, "max_num_seqs": 20},
    ],
    ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items() if v is not MUCH),
)
def test_together_chunked_preempted_cached_or_drafted_gives_the_same_bits(alone, changes):
    path, numerics, prompts, expected = alone
    with Model.from_pretrained(path, **numerics, **changes) as model:
        cold = run_all(model, prompts)
        assert cold == expected
        hot = run_all(model, prompts)
        assert hot == expected
        stats = model.stats()
        if "kv_cache" in changes:
            assert stats["preemptions"] > 0
        if changes.get("speculation") is MUCH:
            assert 3 * len(prompts) < stats["accepted_tokens"] < stats["drafted_tokens"]


def test_one_by_one_the_defaults_draft_and_give_the_same_bits(alone):
    path, numerics, prompts, expected = alone
    with Model.from_pretrained(path, **numerics) as model:
        completions = [model.generate(p, **options(i)) for i, p in enumerate(prompts)]
        assert [answer(completion) for completion in completions] == expected
        assert 3 * len(prompts) < model.stats()["accepted_tokens"] < model.stats()["drafted_tokens"]
        off = model.generate(prompts[1], **options(1), speculation="off")
        assert answer(off) == expected[1]
        assert off.usage.drafted_tokens == 0


def test_a_draft_model_gives_the_same_bits(alone):
    path, numerics, prompts, expected = alone
    count = 30 if path.is_relative_to(TINY) else 5
    with Model.from_pretrained(
        path, **numerics, draft_model=path, speculation="draft_model", max_num_seqs=3
    ) as model:
        assert run_all(model, prompts[:count]) == expected[:count]
        stats = model.stats()
        assert count < stats["draft_model_accepted_tokens"] <= stats["draft_model_drafted_tokens"]


def test_the_small_kv_cache_is_a_tenth_of_what_the_prompts_need():
    assert sum(len(prompt) + NUM_TOKENS for prompt in prompts_of(160)) >= 10 * 512
    assert sum(len(prompt) + NUM_TOKENS for prompt in prompts_of(160, NUM_PROMPTS // 2)) >= 5 * 512
