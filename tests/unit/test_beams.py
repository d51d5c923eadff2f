"""Beam search against a plain one that computes every hypothesis from its first token."""

from __future__ import annotations

import asyncio
import math

import pytest

from inferlib import PromptTooLongError, RequestError
from inferlib.testing import EOS_ID, tiny_model

PROMPT = [(7 * i * i + 3 * i) % 250 for i in range(21)]


@pytest.fixture(scope="module")
def model():
    with tiny_model(max_position_embeddings=256, kv_cache="1k tokens") as model:
        yield model


def plain_beam_search(model, prompt, num_beams, max_tokens, penalty, ends):
    """The same search without sequences: ``[(score, tokens)]``, best first."""
    beams, results = [((), 0.0)], []
    for length in range(1, max_tokens + 1):
        candidates = []
        for place, (tokens, logprob) in enumerate(beams):
            completion = model.generate(
                [*prompt, *tokens], max_tokens=1, temperature=0, logprobs=258, ignore_eos=True
            )
            for token, entry in completion.logprobs[0].items():
                candidates.append((-(logprob + entry.logprob), place, token, tokens))
        candidates.sort(key=lambda each: each[:3])
        beams = []
        for rank, (loss, _, token, tokens) in enumerate(candidates[: 2 * num_beams]):
            whole = (*tokens, token)
            if token in ends:
                if rank < num_beams:
                    results.append((-loss / len(whole) ** penalty, list(whole)))
            elif len(beams) < num_beams:
                beams.append((whole, -loss))
        if length == max_tokens:
            results += [(logprob / len(t) ** penalty, list(t)) for t, logprob in beams]
        results.sort(key=lambda each: -each[0])
        if len(results) >= num_beams and (
            max(logprob / length**penalty for _, logprob in beams) <= results[num_beams - 1][0]
        ):
            break
    return results[:num_beams]


@pytest.mark.parametrize(
    ("num_beams", "penalty", "end"), [(1, 1.0, None), (3, 1.0, None), (4, 0.0, 1), (2, 2.0, 0)]
)
def test_the_results_are_those_of_a_plain_search(model, num_beams, penalty, end):
    builder, ends = model._parts.builder, ()
    if end is not None:  # an end token that comes up: the best one after some steps
        greedy = model.beam_search(PROMPT, num_beams=1, max_tokens=5, ignore_eos=True)
        ends = (greedy[0].token_ids[end + 1],)
    object.__setattr__(builder, "eos_token_ids", ends)
    try:
        found = model.beam_search(PROMPT, num_beams=num_beams, max_tokens=9, length_penalty=penalty)
    finally:
        object.__setattr__(builder, "eos_token_ids", (EOS_ID,))
    expected = plain_beam_search(model, PROMPT, num_beams, 9, penalty, ends)
    assert [output.token_ids for output in found] == [tokens for _, tokens in expected]
    assert [output.score for output in found] == pytest.approx([score for score, _ in expected])
    for output in found:
        assert (output.finish_reason == "stop") == (output.token_ids[-1] in ends)
        scored = model.loglikelihood(PROMPT, output.token_ids)
        assert output.cumulative_logprob == pytest.approx(scored.total, abs=1e-5)
    assert model.stats()["held_sequences"] == 0


def test_the_asynchronous_twin_gives_the_same_and_can_be_cancelled(model):
    async def run():
        found = await model.abeam_search(PROMPT, num_beams=3, max_tokens=6)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await model.abeam_search(PROMPT, num_beams=8, max_tokens=200, ignore_eos=True)
        return found

    assert asyncio.run(run()) == model.beam_search(PROMPT, num_beams=3, max_tokens=6)
    assert model.stats()["held_sequences"] == 0


def test_beams_share_their_blocks_and_compute_one_row_each_per_step():
    with tiny_model(max_position_embeddings=256, enable_prefix_caching=False) as model:
        model.beam_search(PROMPT, num_beams=4, max_tokens=10, ignore_eos=True)
        stats = model.stats()
        assert stats["scheduled_tokens"] == 21 + 9 * 4
        assert stats["steps"] == 10
        assert stats["used_blocks"] == 0


def test_what_is_impossible_is_refused(model):
    for field, options in [
        ("num_beams", {"num_beams": 0}),
        ("num_beams", {"num_beams": 65}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 300}),
        ("length_penalty", {"length_penalty": math.nan}),
    ]:
        with pytest.raises(RequestError) as caught:
            model.beam_search(PROMPT, **options)
        assert caught.value.field == field
    with pytest.raises(PromptTooLongError):
        model.beam_search([1] * 256)
    with pytest.raises(RequestError):
        model.beam_search(["a", "b"])


def test_the_best_of_several_samples(model):
    completion = model.generate(PROMPT, n=6, seed=3, max_tokens=10, logprobs=0)
    scores = [output.cumulative_logprob / len(output.token_ids) for output in completion.outputs]
    assert completion.best() is completion.outputs[scores.index(max(scores))]
    with pytest.raises(ValueError, match="logprobs"):
        model.generate(PROMPT, max_tokens=1).best()
