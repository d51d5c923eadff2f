"""``loglikelihood`` and ``choose``: the numbers of separate requests, the context computed once."""

from __future__ import annotations

import asyncio
import math

import pytest

from inferlib import PromptTooLongError, RequestError
from inferlib.testing import BOS_ID, tiny_model

CONTEXT = [(5 * i * i + i) % 250 for i in range(100)]


@pytest.fixture(scope="module")
def model():
    with tiny_model(max_position_embeddings=512, kv_cache="2k tokens") as model:
        yield model
        assert model.stats()["held_sequences"] == 0


def separately(model, context, continuation):
    """The log-probabilities that a scored prompt has."""
    scored = model.generate(
        [*context, *continuation],
        prompt_logprobs=0,
        prompt_logprobs_start=len(context),
        max_tokens=0,
    )
    rows = scored.prompt_logprobs[len(context) :]
    return [row[token].logprob for row, token in zip(rows, continuation, strict=True)]


def test_scores_are_those_of_separate_requests_bit_for_bit(model):
    options = [[i, *range(i)] for i in range(12)]
    with tiny_model(max_position_embeddings=512, enable_prefix_caching=False) as alone:
        expected = [separately(alone, CONTEXT, option) for option in options]
    found = model.loglikelihood(CONTEXT, options)
    assert [each.tokens for each in found] == expected
    assert [each.token_ids for each in found] == options
    assert [each.total for each in found] == [math.fsum(tokens) for tokens in expected]
    assert model.loglikelihood([CONTEXT] * 12, options) == found
    assert asyncio.run(model.aloglikelihood(CONTEXT, options)) == found
    assert model.loglikelihood(CONTEXT, options[3]) == found[3]


def test_a_shared_context_is_computed_once():
    with tiny_model(max_position_embeddings=512, enable_prefix_caching=False) as model:
        options = [[i, i + 1] for i in range(32)]
        model.choose(CONTEXT, options)
        # Each option: the context's last token, whose logits are wanted, and its own two.
        assert model.stats()["scheduled_tokens"] == 100 + 32 * 3
        assert model.stats()["used_blocks"] == 0


def test_greedy_continuations_are_recognised(model):
    greedy = model.generate(CONTEXT, max_tokens=6, temperature=0, ignore_eos=True).token_ids
    other = [*greedy[:5], (greedy[5] + 1) % 256]
    first, second = model.loglikelihood(CONTEXT, [greedy, other])
    assert (first.is_greedy, second.is_greedy) == (True, False)
    assert first.total > second.total


def test_a_choice_divides_the_probability_between_the_options(model):
    options = ["yes", "no", "perhaps"]
    choice = model.choose("Is it? ", options)
    scores = model.loglikelihood("Is it? ", options)
    assert choice.logprobs == scores
    odds = [math.exp(score.total) for score in scores]
    assert choice.probabilities == pytest.approx([each / sum(odds) for each in odds])
    assert choice.index == choice.probabilities.index(max(choice.probabilities))
    assert asyncio.run(model.achoose("Is it? ", options)) == choice
    assert choice.to_dict()["logprobs"][0]["token_ids"] == list(b"yes")


def test_an_empty_context_is_the_beginning_of_a_text(model):
    assert model.loglikelihood("", "abc") == model.loglikelihood([BOS_ID], "abc")


def test_pairs_keep_their_order(model):
    contexts = ["a", "b", "a", "c", "b"]
    continuations = ["1", "22", "3", "4", "5"]
    found = model.loglikelihood(contexts, continuations)
    expected = [model.loglikelihood(*pair) for pair in zip(contexts, continuations, strict=True)]
    assert found == expected
    assert model.loglikelihood([], []) == []


def test_what_is_no_pair_is_refused(model):
    for field, call in [
        ("contexts", lambda: model.loglikelihood(["a", "b"], ["c"])),
        ("contexts", lambda: model.loglikelihood(["a", "b"], "c")),
        ("continuations", lambda: model.loglikelihood("a", "")),
        ("continuations", lambda: model.loglikelihood([1], [[]])),
        ("options", lambda: model.choose("a", [])),
        ("options", lambda: model.choose("a", "b")),
        ("options", lambda: model.choose("a", [1, 2])),
        ("prompt", lambda: model.choose(["a"], ["b"])),
    ]:
        with pytest.raises(RequestError) as caught:
            call()
        assert caught.value.field == field
    with pytest.raises(PromptTooLongError):
        model.loglikelihood("a", "b" * 600)
    assert model.stats()["held_sequences"] == 0
