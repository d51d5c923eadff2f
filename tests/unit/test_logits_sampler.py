"""The CPU's sampler for logits of another device, and what a batch says of how rows are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from inferlib import RequestError, _core

VOCAB_SIZE = 50


def batch_of(*params, prompt=(1, 2, 3)):
    """One request for each; all prompts in one step."""
    scheduler = _core.Scheduler(
        groups=[(64, None)],
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_model_len=100,
        vocab_size=VOCAB_SIZE,
        enable_prefix_caching=False,
    )
    for each in params:
        scheduler.submit(np.asarray(prompt, np.int32), each, now=1.0)
    return scheduler.schedule(2.0)


GREEDY = {"temperature": 0.0, "max_tokens": 4}


def complete(batch, rows, logits, ids, failed):
    return _core.LogitsSampler(VOCAB_SIZE).complete(
        batch, np.asarray(rows, np.int32), logits, np.asarray(ids, np.int32), np.asarray(failed)
    )


def test_rows_of_the_host_are_drawn_and_the_others_stay_as_they_are():
    batch = batch_of(*[_core.SamplingParams(**GREEDY)] * 4)
    logits = np.zeros((2, VOCAB_SIZE), np.float32)
    logits[0, 7], logits[1, 3] = 5, np.nan
    output = complete(batch, [1, 2], logits, [11, 12, 13, 14], [False, False, False, True])
    assert output.token_ids[[0, 1, 3]].tolist() == [11, 7, 14]
    assert output.failed.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rows": [0, 4]}, "rows"),
        ({"rows": [-1, 0]}, "rows"),
        ({"logits": np.zeros((1, VOCAB_SIZE), np.float32)}, "logits"),
        ({"logits": np.zeros((2, VOCAB_SIZE + 1), np.float32)}, "logits"),
        ({"ids": [1, 2, 3]}, "token_ids"),
        ({"failed": [True]}, "failed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, field):
    batch = batch_of(*[_core.SamplingParams(**GREEDY)] * 4)
    arrays = {
        "rows": [0, 1],
        "logits": np.zeros((2, VOCAB_SIZE), np.float32),
        "ids": [0] * 4,
        "failed": [False] * 4,
    }
    with pytest.raises(RequestError) as failure:
        complete(batch, **arrays | changes)
    assert failure.value.field == field


def test_what_needs_only_logits_and_numbers_is_plain():
    plain = [GREEDY, {"top_k": 3, "top_p": 0.5, "min_p": 0.25, "temperature": 2.0}]
    others = [
        {"logprobs": 1},
        {"repetition_penalty": 1.5},
        {"logit_bias": [(1, 2.0)]},
        {"min_tokens": 2},
    ]
    batch = batch_of(*[_core.SamplingParams(**each) for each in (*plain, *others)])
    rows = batch.sampled
    assert rows.is_plain.tolist() == [True, True, False, False, False, False]
    assert rows.is_argmax.tolist() == [True, *[False] * 5]
    assert rows.num_tokens_left.tolist()[:2] == [3, 255]
    assert rows.temperature.tolist()[:2] == [0.0, 2.0]
    assert rows.top_k.tolist()[:2] == [0, 3]
    assert rows.top_p.tolist()[:2] == [1.0, 0.5]
    assert rows.min_p.tolist()[:2] == [0.0, 0.25]


def test_rows_that_want_their_logits_hand_them_out():
    options = [GREEDY, {**GREEDY, "logprobs": 1}, GREEDY]
    batch = batch_of(*[_core.SamplingParams(**each) for each in options])
    ids = sorted({number for _, number, *_ in batch.drawn_rows(list(range(1 << 12)))})
    assert len(ids) == 3
    wanted = batch.want_logits(ids[:2])
    assert [(row, index) for row, _, index in wanted] == [(0, 0), (1, 0)]
    assert batch.sampled.is_plain.tolist() == [False, False, True]
    logits = np.linspace(0, 1, 3 * VOCAB_SIZE, dtype=np.float32).reshape(3, -1)
    output = complete(batch, [0, 1, 2], logits, [0] * 3, [False] * 3)
    assert output.failed.tolist() == [True, True, False]
    assert output.logits_rows.tolist() == [0, 1]
    np.testing.assert_array_equal(output.logits, logits[:2])
    other = logits[:2, ::-1].copy()
    sampler = _core.LogitsSampler(VOCAB_SIZE)
    redrawn = sampler.redraw(batch, output, np.arange(2, dtype=np.int32), other)
    assert redrawn.failed.tolist() == [False, False, False]
    assert redrawn.token_ids.tolist() == [0, 0, VOCAB_SIZE - 1]
    assert redrawn.logits == []
    with pytest.raises(RequestError) as failure:
        sampler.redraw(batch, output, np.array([3, 0], np.int32), other)
    assert failure.value.field == "rows"


def test_a_restricted_row_draws_its_token():
    batch = batch_of(*[_core.SamplingParams(**GREEDY)] * 2)
    batch.restrict(1, 4, VOCAB_SIZE)
    logits = np.zeros((2, VOCAB_SIZE), np.float32)
    logits[:, 9] = 1.0
    output = complete(batch, [0, 1], logits, [0, 0], [False, False])
    assert output.token_ids.tolist() == [9, 4]
    for row, token in ((2, 0), (0, 64)):
        with pytest.raises(RequestError):
            batch.restrict(row, token, VOCAB_SIZE)
