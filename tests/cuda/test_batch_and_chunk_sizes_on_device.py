"""Tokens drawn on the device do not depend on batches, chunks, drafts, queues, or steps ahead.

``test_same_answer_on_device.py`` compares log-probabilities, which the host computes; here nothing
but ids comes from the device, so decode steps are graphs that are launched ahead. Preemption is in
``test_cuda_executor.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.launching import open_device
from tests.cuda.test_reduced_precision import make_model, wide_spec

from inferlib import PromptLookup
from inferlib.testing import tiny_model
from inferlib.transformer import record

LENGTHS = (1, 20, 7, 12, 3, 16)
DRAFTS = PromptLookup(num_speculative_tokens=3, rows_per_pass=24)


def open_model(name, *, seed=0, **settings):
    settings = {"kv_cache": "1k tokens", "speculation": "off"} | settings
    if name == "wide, fast":
        return make_model(record(wide_spec()), seed=seed, **settings)
    return tiny_model(device=open_device(seed), precision="exact", **settings)


def prompt_of(number):
    generator = np.random.default_rng(number)
    ids = generator.integers(0, 256, LENGTHS[number]).tolist()
    return ids if number % 2 else (ids[:2] * 20)[: LENGTHS[number]]


def options_of(number):
    kinds = (
        {"temperature": 0},
        {"temperature": 0.8, "top_p": 0.9, "seed": number},
        {"temperature": 1.2, "top_k": 9, "min_p": 0.01, "seed": number},
    )
    return {"max_tokens": 7 + number % 4, "ignore_eos": True, **kinds[number % 3]}


def run_together(model, numbers):
    handles = [model.submit(prompt_of(i), **options_of(i)) for i in numbers]
    return [handle.result().token_ids for handle in handles]


@pytest.fixture(scope="module", params=["tiny, exact", "wide, fast"])
def alone(request):
    """Whole prompts, one after another, nothing cached."""
    with open_model(request.param, enable_prefix_caching=False) as model:
        return request.param, [run_together(model, [i])[0] for i in range(len(LENGTHS))]


@pytest.mark.timeout(120)
def test_batches_of_any_size(alone):
    name, expected = alone
    with open_model(name, seed=1) as model:
        for count in range(1, len(LENGTHS) + 1):
            assert run_together(model, range(count)) == expected[:count], count
        assert run_together(model, range(5, -1, -1)) == expected[::-1]
        details = model.stats()["details"]
    assert details["graphs"] > 0
    assert details["steps_foreseen"] > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("chunk", [1, 5, 17])
def test_chunks_of_any_size(alone, chunk):
    name, expected = alone
    with open_model(name, seed=2, max_num_batched_tokens=chunk) as model:
        assert run_together(model, range(len(LENGTHS))) == expected


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "changes", [{"speculation": DRAFTS}, {"kv_cache": "80 tokens", "max_model_len": 64}]
)
def test_drafts_and_queues(alone, changes):
    name, expected = alone
    with open_model(name, seed=3, **changes) as model:
        for _ in ("cold", "hot"):
            assert run_together(model, range(len(LENGTHS))) == expected
        stats = model.stats()
        model._engine._scheduler.check_integrity()
    assert (stats["drafted_tokens"] > 0) == ("speculation" in changes)
