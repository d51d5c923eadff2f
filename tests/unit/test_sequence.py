"""Sequences through the whole engine: what a fork, a rewound or an extended one gives is what a
fresh prompt gives, bit for bit; and who may do what when."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from inferlib import (
    ClosedError,
    PromptTooLongError,
    RequestError,
    SequenceBusyError,
)
from inferlib.testing import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 250 for i in range(45)]
GREEDY = {"temperature": 0, "ignore_eos": True, "logprobs": 2}
SAMPLED = {"temperature": 1.1, "seed": 5, "ignore_eos": True, "logprobs": 2, "top_p": 0.9}


@pytest.fixture(scope="module")
def model():
    with tiny_model(max_position_embeddings=512, kv_cache="2k tokens") as model:
        yield model


@pytest.fixture(scope="module")
def fresh():
    """Gives what a prompt gives alone, without any cache."""
    with tiny_model(
        max_position_embeddings=512, enable_prefix_caching=False, speculation="off"
    ) as model:
        yield lambda prompt, **options: answer(model.generate(prompt, **options))


@pytest.fixture(autouse=True)
def nothing_stays_behind(model):
    yield
    gc.collect()
    stats = model.stats()
    assert stats["held_sequences"] == 0
    assert stats["free_blocks"] == stats["total_blocks"]
    model._engine._scheduler.check_integrity()


def answer(completion):
    rows = [sorted((t, e.logprob, e.rank) for t, e in row.items()) for row in completion.logprobs]
    return completion.token_ids, completion.finish_reason, rows


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_forked_rewound_and_extended_sequences_give_what_fresh_ones_give(model, fresh, options):
    with model.prefill(PROMPT) as root:
        assert (root.token_ids, len(root), root.num_computed_tokens) == (PROMPT, 45, 45)
        first, second = root.fork(2)
        completion = first.generate(max_tokens=20, **options)
        assert answer(completion) == fresh(PROMPT, max_tokens=20, **options)
        assert completion.prompt_token_ids == PROMPT
        assert completion.num_cached_tokens == 44
        assert first.token_ids == [*PROMPT, *completion.token_ids]
        first.rewind(13)
        again = first.generate(max_tokens=5, **options)
        whole = [*PROMPT, *completion.token_ids[:7]]
        assert answer(again) == fresh(whole, max_tokens=5, **options)
        second.extend([1, 2, 3])
        expected = fresh([*PROMPT, 1, 2, 3], max_tokens=9, **options)
        assert answer(second.generate(max_tokens=9, **options)) == expected
        assert root.token_ids == PROMPT
        for sequence in (first, second):
            sequence.close()


def test_the_next_tokens_are_told_and_nothing_changes(model):
    with model.prefill(PROMPT) as sequence:
        following = sequence.next_token_logprobs(top=5)
        assert len(following) == 5
        assert [entry.rank for entry in following.values()] == [1, 2, 3, 4, 5]
        assert sequence.token_ids == PROMPT
        generated = model.generate(PROMPT, max_tokens=1, temperature=0, logprobs=5)
        assert following == generated.logprobs[0]
        assert next(iter(following)) == generated.token_ids[0]


def test_forced_tokens_have_the_log_probabilities_that_they_would_have_had(model):
    generated = model.generate(PROMPT, max_tokens=8, **GREEDY)
    with model.prefill(PROMPT) as sequence:
        forced = sequence.force(generated.token_ids, top=2)
        assert forced == generated.logprobs
        assert sequence.token_ids == [*PROMPT, *generated.token_ids]
        (single,) = sequence.force([9])
        assert list(single) == [9]


def test_text_is_encoded_by_itself(model):
    with model.prefill("Once") as sequence:
        sequence.extend(" upon")
        assert sequence.token_ids == list(b"Once upon")
        assert sequence.text == "Once upon"
        assert "9 tokens" in repr(sequence)


def test_a_stream_extends_the_sequence_when_it_ends_and_not_before(model, fresh):
    with model.prefill(PROMPT) as sequence:
        with sequence.stream(max_tokens=30, **GREEDY) as stream:
            next(stream)
        assert sequence.token_ids == PROMPT
        deltas = list(sequence.stream(max_tokens=10, **GREEDY))
        token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
        assert token_ids == fresh(PROMPT, max_tokens=10, **GREEDY)[0]
        assert sequence.token_ids == [*PROMPT, *token_ids]


def test_of_a_stop_string_only_the_tokens_up_to_it_stay(model):
    text = model.generate(PROMPT, max_tokens=30, temperature=0, ignore_eos=True).text
    stop = text[6:8]
    with model.prefill(PROMPT) as sequence:
        completion = sequence.generate(max_tokens=30, temperature=0, ignore_eos=True, stop=stop)
        assert completion.stop_reason == stop
        assert sequence.token_ids == [*PROMPT, *completion.token_ids]


def test_many_sequences_run_as_one_batch_from_threads(model, fresh):
    with model.prefill(PROMPT) as root:
        forks = root.fork(8)
        before = model.stats()["steps"]
        found = {}

        def run(index, sequence):
            options = {**SAMPLED, "seed": index}
            found[index] = answer(sequence.generate(max_tokens=20, **options))

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(forks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index in range(8):
            assert found[index] == fresh(PROMPT, max_tokens=20, **{**SAMPLED, "seed": index})
        assert model.stats()["steps"] - before < 8 * 20
        for sequence in forks:
            sequence.close()


def test_one_call_at_a_time_changes_a_sequence(model):
    with model.prefill(PROMPT) as sequence:
        stream = sequence.stream(max_tokens=30, **GREEDY)
        with pytest.raises(SequenceBusyError) as caught:
            sequence.extend([1])
        assert caught.value.retryable
        with pytest.raises(SequenceBusyError):
            sequence.rewind(1)
        (fork,) = sequence.fork()
        assert fork.token_ids == PROMPT
        assert sequence.next_token_logprobs(top=1)
        stream.close()
        sequence.extend([1])
        fork.close()


def test_asynchronous_twins_give_the_same(model):
    async def run():
        async with asyncio.timeout(30):
            sequence = await model.aprefill(PROMPT)
            await sequence.aextend([1, 2])
            following = await sequence.anext_token_logprobs(top=3)
            (fork,) = sequence.fork()
            both = await asyncio.gather(
                sequence.agenerate(max_tokens=5, **GREEDY), fork.aforce([4, 5])
            )
            deltas = [delta async for delta in sequence.astream(max_tokens=3, **GREEDY)]
            sequence.close()
            fork.close()
            return following, both, deltas

    following, (completion, forced), deltas = asyncio.run(run())
    with model.prefill([*PROMPT, 1, 2]) as sequence:
        assert sequence.next_token_logprobs(top=3) == following
        assert sequence.fork()[0].force([4, 5]) == forced
        assert sequence.generate(max_tokens=5, **GREEDY).logprobs == completion.logprobs
        token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
        assert sequence.generate(max_tokens=3, **GREEDY).token_ids == token_ids


def test_evicted_sequences_are_computed_again_and_give_the_same(fresh):
    with tiny_model(max_position_embeddings=512, kv_cache="256 tokens") as model:
        sequences = [model.prefill([i, *PROMPT]) for i in range(6)]
        assert model.stats()["evictions"] > 0
        assert sequences[0].num_computed_tokens == 0
        for i, sequence in enumerate(sequences):
            expected = fresh([i, *PROMPT], max_tokens=20, **GREEDY)
            assert answer(sequence.generate(max_tokens=20, **GREEDY)) == expected
            assert len(sequence) == 66
        model._engine._scheduler.check_integrity()


def test_what_is_impossible_is_refused_and_leaves_the_sequence_as_it_was(model):
    with model.prefill(PROMPT) as sequence:
        for field, call in [
            ("n", lambda: sequence.rewind(46)),
            ("n", lambda: sequence.rewind(-1)),
            ("n", lambda: sequence.fork(0)),
            ("n", lambda: sequence.generate(n=2)),
            ("prompt", lambda: sequence.extend([])),
            ("prompt", lambda: sequence.extend([10_000])),
            ("tokens", lambda: sequence.force([])),
            ("top", lambda: sequence.force([1], top=2000)),
            ("top", lambda: sequence.next_token_logprobs(top=0)),
            ("cache_salt", lambda: sequence.generate(cache_salt="a")),
            ("temprature", lambda: sequence.generate(temprature=1)),
        ]:
            with pytest.raises(RequestError) as caught:
                call()
            assert caught.value.field == field
        with pytest.raises(PromptTooLongError):
            sequence.extend([1] * 500)
        assert sequence.token_ids == PROMPT
        sequence.rewind(45)
        assert (len(sequence), sequence.text) == (0, "")
        with pytest.raises(RequestError):
            sequence.force([1])
        sequence.extend(PROMPT)
        assert sequence.token_ids == PROMPT
    with pytest.raises(RequestError, match="one prompt"):
        model.prefill(["a", "b"])
    with pytest.raises(RequestError) as caught:
        model.prefill("a", cache_salt=3)
    assert caught.value.field == "cache_salt"


def test_a_closed_sequence_or_model_says_so():
    model = tiny_model()
    sequence, other = model.prefill(PROMPT).fork(2)
    sequence.close()
    sequence.close()
    assert sequence.is_closed
    assert repr(sequence) == "<Sequence, closed>"
    for call in (lambda: len(sequence), sequence.generate, lambda: sequence.fork(1)):
        with pytest.raises(ClosedError, match="sequence"):
            call()
    model.close()
    for call in (lambda: len(other), other.generate, lambda: model.prefill("a")):
        with pytest.raises(ClosedError, match="model"):
            call()
    other.close()


def test_a_sequence_keeps_its_model_alive():
    sequence = tiny_model().prefill(PROMPT)
    gc.collect()
    assert len(sequence.generate(max_tokens=3, **GREEDY).token_ids) == 3


def test_salts_separate_sequences(model):
    with model.prefill(PROMPT, cache_salt="a") as first:
        before = model.stats()["scheduled_tokens"]
        with model.prefill(PROMPT, cache_salt="b"):
            assert model.stats()["scheduled_tokens"] - before == 45
        before = model.stats()["scheduled_tokens"]
        with model.prefill(PROMPT, cache_salt="a"):
            assert model.stats()["scheduled_tokens"] - before == 45 - 32
        first.extend([1])
