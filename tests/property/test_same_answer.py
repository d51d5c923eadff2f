"""A request's tokens and log-probabilities do not depend on how it was run."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.real_models import real_model

from inferlib import Model

NUM_PROMPTS = 64
NUM_TOKENS = 34


def prompts_of(vocab_size: int) -> list[list[int]]:
    """64 prompts of 1 to 150 tokens; every third begins like the one before."""
    random = np.random.default_rng(7)
    prompts: list[list[int]] = []
    for i in range(NUM_PROMPTS):
        ids = random.integers(3, vocab_size, random.integers(1, 150)).tolist()
        prompts.append([*prompts[-1][:40], *ids[:100]] if i % 3 == 2 else ids)
    return prompts


def options(i: int) -> dict[str, object]:
    """Greedy, sampled and penalised requests, in turns."""
    kinds: list[dict[str, object]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9, "seed": 100 + i},
        {"temperature": 1.1, "top_k": 20, "repetition_penalty": 1.2, "seed": 100 + i},
    ]
    return {"max_tokens": NUM_TOKENS, "logprobs": 2, "ignore_eos": True, **kinds[i % 3]}


def answer(completion):
    """Everything that must be equal, bit for bit."""
    rows = completion.logprobs
    values = [[(k, v.logprob, v.rank) for k, v in sorted(row.items())] for row in rows]
    return completion.token_ids, completion.finish_reason, values


def run_all(model: Model, prompts: list[list[int]]):
    """All at once, as one batch of requests."""
    handles = [model.submit(prompt, **options(i)) for i, prompt in enumerate(prompts)]
    return [answer(handle.result()) for handle in handles]


@pytest.fixture(scope="module", params=["tiny, fast", "tiny, exact", "smollm2, fast"])
def alone(request):
    """The definition: one by one, nothing cached, one thread."""
    name, precision = request.param.split(", ")
    path = TINY / "gemma3" if name == "tiny" else real_model(name)
    prompts = prompts_of(160)
    with Model.from_pretrained(
        path, precision=precision, threads=1, enable_prefix_caching=False
    ) as model:
        answers = [answer(model.generate(p, **options(i))) for i, p in enumerate(prompts)]
    return path, precision, prompts, answers


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
    ],
    ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items()),
)
def test_together_chunked_preempted_or_cached_gives_the_same_bits(alone, changes):
    path, precision, prompts, expected = alone
    with Model.from_pretrained(path, precision=precision, **changes) as model:
        cold = run_all(model, prompts)
        assert cold == expected
        hot = run_all(model, prompts)
        assert hot == expected
        if "kv_cache" in changes:
            assert model.stats().preemptions > 0


def test_the_small_kv_cache_is_a_tenth_of_what_the_prompts_need():
    assert sum(len(prompt) + NUM_TOKENS for prompt in prompts_of(160)) >= 10 * 512
