"""Every kernel tier that this machine runs gives the same bits through the whole model."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY

from inferlib import Model
from inferlib._core import CpuExecutor
from inferlib.errors import RequestError

ALL = ("amx", "avx512vnni", "avx512", "avxvnni", "avx2", "neon", "scalar")


def run(tier, case, monkeypatch, **numerics):
    monkeypatch.setenv("INFERLIB_CPU", tier)
    ids = np.load(TINY / case / "reference.npz")["input_ids"]
    with Model.from_pretrained(TINY / case, **numerics, threads=2) as model:
        assert model.stats()["details"]["tier"] == tier
        options = {"max_tokens": 8, "temperature": 0, "logprobs": 3, "prompt_logprobs": 3}
        completions = model.generate(ids.tolist(), **options)
    return [(c.token_ids, c.logprobs, c.prompt_logprobs) for c in completions]


@pytest.mark.parametrize("precision", ["fast", "balanced", "exact"])
@pytest.mark.parametrize("case", ["gemma3", "qwen2"])
@pytest.mark.parametrize("tier", ALL)
def test_a_forced_tier_is_used_and_equals_the_scalar_one(tier, case, precision, monkeypatch):
    if tier not in CpuExecutor.tiers():
        pytest.skip(f"this machine cannot run {tier}")
    expected = run("scalar", case, monkeypatch, precision=precision)
    assert run(tier, case, monkeypatch, precision=precision) == expected


# Layer norms, learned positions and plain MLPs; experts with biases, sinks and clamps.
@pytest.mark.parametrize("case", ["gpt2", "gpt-neox", "gpt-oss"])
@pytest.mark.parametrize("tier", ALL)
def test_a_tier_equals_the_scalar_one_for_every_kind_of_layer(tier, case, monkeypatch):
    if tier not in CpuExecutor.tiers():
        pytest.skip(f"this machine cannot run {tier}")
    assert run(tier, case, monkeypatch) == run("scalar", case, monkeypatch)


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int8", "f32"])
@pytest.mark.parametrize("tier", ALL)
def test_a_tier_equals_the_scalar_one_with_every_type_of_kv_cache(
    tier, kv_cache_dtype, monkeypatch
):
    if tier not in CpuExecutor.tiers():
        pytest.skip(f"this machine cannot run {tier}")
    expected = run("scalar", "gemma3", monkeypatch, kv_cache_dtype=kv_cache_dtype)
    assert run(tier, "gemma3", monkeypatch, kv_cache_dtype=kv_cache_dtype) == expected


def test_an_unknown_tier_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setenv("INFERLIB_CPU", "sse9")
    with pytest.raises(RequestError, match="scalar") as caught:
        Model.from_pretrained(TINY / "llama")
    assert caught.value.field == "tier"


def test_the_tiers_of_this_machine_are_some_of_all_best_first():
    tiers = CpuExecutor.tiers()
    assert tiers == [tier for tier in ALL if tier in tiers]
    assert tiers[-1] == "scalar"


def test_without_a_wish_the_best_tier_is_used(monkeypatch):
    monkeypatch.delenv("INFERLIB_CPU", raising=False)
    with Model.from_pretrained(TINY / "llama") as model:
        assert model.stats()["details"]["tier"] == CpuExecutor.tiers()[0]


@pytest.mark.parametrize("tier", ALL)
def test_a_tier_that_cannot_run_here_is_refused_with_those_that_can(tier, monkeypatch):
    if tier in CpuExecutor.tiers():
        pytest.skip(f"this machine runs {tier}")
    monkeypatch.setenv("INFERLIB_CPU", tier)
    with pytest.raises(RequestError, match=r"lacks; it runs .*scalar") as caught:
        Model.from_pretrained(TINY / "llama")
    assert caught.value.field == "tier"
