"""Drafted tokens through a whole tiny model: seen in the counters, nowhere else."""

from __future__ import annotations

import pytest
from tests.unit.answers import shape
from tests.unit.drafting import (
    GREEDY,
    WAYS_TO_DRAW,
    assert_undrafted,
    assert_undrafted_where_preempted,
)

from inferlib import PromptLookup, RequestError
from inferlib.testing import tiny_model

REPETITIVE = "abcabcabcabcabc"


@pytest.fixture(scope="module")
def model():
    with tiny_model() as model:
        yield model


def test_drafts_are_counted_and_save_steps(model):
    before = model.stats()
    completion = model.generate(REPETITIVE, max_tokens=200, **GREEDY)
    after = model.stats()
    usage = completion.usage
    assert 0 < usage.accepted_tokens <= usage.drafted_tokens
    assert after["drafted_tokens"] - before["drafted_tokens"] == usage.drafted_tokens
    assert after["accepted_tokens"] - before["accepted_tokens"] == usage.accepted_tokens
    assert after["steps"] - before["steps"] == 200 - usage.accepted_tokens
    assert after["output_tokens"] - before["output_tokens"] == 200
    assert usage.to_dict()["accepted_tokens"] == usage.accepted_tokens
    assert usage.total_tokens == usage.prompt_tokens + 200


def test_off_means_off(model, undrafted):
    for completion in (
        undrafted.generate(REPETITIVE, max_tokens=60, **GREEDY),
        model.generate(REPETITIVE, max_tokens=60, speculation="off", **GREEDY),
    ):
        assert (completion.usage.drafted_tokens, completion.usage.accepted_tokens) == (0, 0)
    assert undrafted.stats()["drafted_tokens"] == 0


def test_a_lookup_says_how_much():
    for lookup, most in [
        (PromptLookup(num_speculative_tokens=1), 1),
        (PromptLookup(rows_per_pass=3), 2),
        (PromptLookup(num_speculative_tokens=12, rows_per_pass=30), 12),
    ]:
        with tiny_model(speculation=lookup) as model:
            completion = model.generate(REPETITIVE, max_tokens=300, **GREEDY)
            num_steps = model.stats()["steps"]
            assert num_steps == 300 - completion.usage.accepted_tokens
            assert 300 / (most + 1) <= num_steps < 300


@pytest.mark.parametrize("value", ["ngram", None, True, {"method": "ngram"}])
def test_other_values_are_refused_by_name(model, value):
    with pytest.raises(RequestError) as raised:
        tiny_model(speculation=value)
    assert raised.value.field == "speculation"
    with pytest.raises(RequestError) as raised:
        model.generate("x", speculation=value)
    assert raised.value.field == "speculation"


def test_the_words_of_others_are_understood():
    with pytest.raises(RequestError, match="speculative_config") as raised:
        tiny_model(speculative_config={"method": "ngram"})
    assert raised.value.hint == "did you mean speculation?"


def test_a_stop_string_in_the_middle_of_a_draft_takes_back_the_rest(model, undrafted):
    text = undrafted.generate(REPETITIVE, max_tokens=120, **GREEDY).text
    num_inside = 0
    for start in range(1, len(text) - 3, 5):
        options = {"max_tokens": 120, "stop": text[start : start + 3], "logprobs": 1, **GREEDY}
        completion = model.generate(REPETITIVE, **options)
        assert shape(completion) == shape(undrafted.generate(REPETITIVE, **options))
        num_inside += completion.usage.accepted_tokens > 0
    assert num_inside > 5


@pytest.mark.parametrize("options", WAYS_TO_DRAW, ids=str)
def test_streams_and_results_are_those_of_generating_without(model, undrafted, options):
    called, streamed = assert_undrafted(model, undrafted, REPETITIVE, max_tokens=150, **options)
    assert called == streamed


def test_many_requests_in_a_small_cache_agree(undrafted):
    with tiny_model(
        speculation=PromptLookup(rows_per_pass=40), kv_cache="256 tokens", max_model_len=160
    ) as model:
        assert_undrafted_where_preempted(model, undrafted, num_prompts=24)
        assert model.stats()["accepted_tokens"] > 100
