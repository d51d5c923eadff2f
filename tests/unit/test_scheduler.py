"""The scheduler as Python sees it, driven by a pretended executor; behaviour: rust/core/tests."""

import threading

import numpy as np
import pytest

from inferlib import _core, errors


def make_scheduler(**options):
    defaults = {
        "groups": [(64, None)],
        "max_num_seqs": 8,
        "max_num_batched_tokens": 32,
        "max_model_len": 100,
        "vocab_size": 50,
    }
    return _core.Scheduler(**(defaults | options))


def tokens(*values):
    return np.asarray(values, np.int32)


def run(batch):
    """Count upwards from the last token; a scored row gives its target."""
    rows = batch.sampled
    drawn = (batch.token_ids[batch.logits_indices] + 1) % 50
    drawn[rows.is_scored] = rows.targets
    count = batch.num_sampled
    return _core.StepOutput(
        drawn,
        logprobs=np.full(count, -0.5, np.float32),
        ranks=np.ones(count, np.int32),
        top_ids=np.stack([drawn, drawn + 1], axis=1),
        top_logprobs=np.tile(np.float32([-0.5, -1.5]), (count, 1)),
    )


def drain(scheduler):
    finished = []
    while (batch := scheduler.schedule()) is not None:
        events = scheduler.update(run(batch))
        scheduler.check_integrity()
        finished += events.finished_requests.tolist()
    return finished


def test_a_request_runs_to_its_end():
    scheduler = make_scheduler()
    params = _core.SamplingParams(max_tokens=4, logprobs=2)
    request_id = scheduler.submit(tokens(1, 2, 3), params, now=1.0)
    assert scheduler.status(request_id) == "waiting"
    assert scheduler.has_work()

    batch = scheduler.schedule(2.0)
    assert batch.token_ids.dtype == np.int32
    assert batch.token_ids.tolist() == [1, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.query_start_loc.tolist() == [0, 3]
    assert batch.seq_lens.tolist() == [3]
    assert batch.logits_indices.tolist() == [2]
    assert (batch.step, batch.num_tokens, batch.num_seqs, batch.num_sampled) == (1, 3, 1, 1)
    (group,) = batch.groups
    assert group.slot_mapping.tolist() == [0, 1, 2]
    assert group.block_table_start_loc.tolist() == [0, 1]
    assert group.block_tables.tolist() == [0]
    assert group.block_copies.tolist() == []
    rows = batch.sampled
    assert rows.is_scored.tolist() == [False]
    assert rows.positions.tolist() == [3]
    assert rows.params == [params]

    events = scheduler.update(run(batch), 3.0)
    assert events.request_ids.dtype == np.int64
    assert events.request_ids.tolist() == [request_id]
    assert events.sequence_indices.tolist() == [0]
    assert events.token_ids.tolist() == [4]
    assert events.finished.tolist() == [False]
    assert events.finished_requests.tolist() == []
    assert scheduler.status(request_id) == "running"
    assert scheduler.output(request_id).sequences[0].finish_reason is None
    assert not scheduler.is_finished(request_id)
    assert scheduler.num_output_tokens(request_id) == 1

    assert drain(scheduler) == [request_id]
    assert scheduler.sequence_since(request_id, 0, 3).token_ids.tolist() == [7]
    output = scheduler.take(request_id)
    assert output.request_id == request_id
    assert output.prompt_token_ids.tolist() == [1, 2, 3]
    (sequence,) = output.sequences
    assert sequence.token_ids.tolist() == [4, 5, 6, 7]
    assert (sequence.finish_reason, sequence.stop_token_id) == ("length", None)
    row = sequence.logprobs[1]
    assert (row.logprob, row.rank, row.top_ids.tolist()) == (-0.5, 1, [5, 6])
    assert row.top_logprobs.tolist() == [-0.5, -1.5]
    assert output.prompt_logprobs is None
    times = output.timestamps
    assert (times.arrival, times.first_scheduled, times.first_token) == (1.0, 2.0, 3.0)
    assert output.is_finished
    with pytest.raises(KeyError):
        scheduler.take(request_id)
    with pytest.raises(KeyError):
        scheduler.output(request_id)


def test_stop_tokens_scores_and_siblings_cross_the_boundary():
    scheduler = make_scheduler()
    params = _core.SamplingParams(
        max_tokens=20, stop_token_ids=[9, 9, 7], prompt_logprobs=1, prompt_logprobs_start=2
    )
    request_id = scheduler.submit(tokens(1, 2, 3, 4), params, n=3, seed=2**64 - 1)
    batch = scheduler.schedule()
    assert batch.sampled.is_scored.tolist() == [True, True, False]
    assert batch.sampled.targets.tolist() == [3, 4]
    assert batch.sampled.seeds.tolist() == [2**64 - 1] * 3
    scheduler.update(run(batch))
    batch = scheduler.schedule()
    assert batch.groups[0].block_copies.size == 4
    assert batch.sampled.sequence_indices.tolist() == [0, 1, 2]
    scheduler.update(run(batch))
    assert drain(scheduler) == [request_id]
    output = scheduler.take(request_id)
    assert (output.prompt_logprobs_start, len(output.prompt_logprobs)) == (2, 2)
    for sequence in output.sequences:
        assert sequence.token_ids.tolist() == [5, 6, 7]
        assert (sequence.finish_reason, sequence.stop_token_id) == ("stop", 7)


def test_sequences_and_requests_can_be_ended():
    scheduler = make_scheduler()
    params = _core.SamplingParams(max_tokens=20)
    request_id = scheduler.submit(tokens(1), params, n=2)
    scheduler.update(run(scheduler.schedule()))
    batch = scheduler.schedule()
    assert scheduler.finish(request_id, 1, "stop")
    assert not scheduler.finish(request_id, 1, "stop")
    assert scheduler.update(run(batch)).sequence_indices.tolist() == [0]
    assert scheduler.cancel(request_id)
    assert not scheduler.cancel(request_id)
    reasons = [sequence.finish_reason for sequence in scheduler.take(request_id).sequences]
    assert reasons == ["abort", "stop"]
    assert not scheduler.has_work()
    with pytest.raises(errors.RequestError) as caught:
        scheduler.finish(request_id, 0, "tired")
    assert caught.value.field == "reason"


def test_drafts_cross_the_boundary():
    scheduler = make_scheduler(num_speculative_tokens=3, rows_per_pass=9)
    prompt = tokens(3, 4, 5, 6, 7, 8, 9, 3, 4, 5)
    request_id = scheduler.submit(prompt, _core.SamplingParams(max_tokens=20, logprobs=2))
    silent = scheduler.submit(prompt, _core.SamplingParams(max_tokens=2), speculation=False)
    scheduler.update(run(scheduler.schedule()))
    batch = scheduler.schedule()
    assert batch.query_start_loc.tolist() == [0, 4, 5]
    assert batch.token_ids.tolist() == [6, 7, 8, 9, 6]
    assert batch.positions.tolist() == [10, 11, 12, 13, 10]
    assert batch.seq_lens.tolist() == [14, 11]
    assert batch.logits_indices.tolist() == [0, 1, 2, 3, 4]
    assert batch.sampled.positions.tolist() == [11, 12, 13, 14, 11]
    assert batch.sampled.num_output_tokens.tolist() == [1, 2, 3, 4, 1]
    events = scheduler.update(run(batch))
    assert events.token_ids.tolist() == [7, 8, 9, 10, 7]
    assert events.token_indices.tolist() == [1, 2, 3, 4, 1]
    assert events.token_indices.dtype == np.int32
    assert events.finished.tolist() == [False] * 4 + [True]
    assert scheduler.take(silent).num_drafted_tokens == 0

    # A stop string was complete with the third token.
    assert scheduler.finish(request_id, 0, "stop", num_output_tokens=3)
    output = scheduler.take(request_id)
    assert output.sequences[0].token_ids.tolist() == [6, 7, 8]
    assert len(output.sequences[0].logprobs) == 3
    assert output.sequences[0].finish_reason == "stop"
    assert (output.num_drafted_tokens, output.num_accepted_tokens) == (3, 3)
    stats = scheduler.stats()
    assert (stats.num_drafted_tokens, stats.num_accepted_tokens) == (3, 3)
    with pytest.raises(errors.RequestError) as caught:
        make_scheduler(num_speculative_tokens=3, prompt_lookup_max=9)
    assert caught.value.field == "prompt_lookup_max"


def test_suggestions_cross_the_boundary():
    scheduler = make_scheduler(num_model_tokens=3, rows_per_pass=9)
    request_id = scheduler.submit(tokens(3, 4, 5), _core.SamplingParams(max_tokens=20))
    silent = scheduler.submit(tokens(3), _core.SamplingParams(max_tokens=9), draft_model=False)
    scheduler.update(run(scheduler.schedule()))
    assert scheduler.wanted_drafts() == [(request_id, 0, 4, 2)]
    assert scheduler.tokens_since(request_id, 0, 0).tolist() == [3, 4, 5, 6]
    assert scheduler.tokens_since(request_id, 0, 2).tolist() == [5, 6]
    assert scheduler.tokens_since(request_id, 0, 9).tolist() == []
    with pytest.raises(KeyError):
        scheduler.tokens_since(request_id, 1, 0)
    assert scheduler.suggest(request_id, 0, tokens(7, 9))
    assert not scheduler.suggest(silent, 0, tokens(7, 9))
    batch = scheduler.schedule()
    assert batch.token_ids.tolist() == [6, 7, 9, 4]
    events = scheduler.update(run(batch))
    assert events.token_ids.tolist() == [7, 8, 5]
    scheduler.cancel(request_id)
    assert not scheduler.suggest(request_id, 0, tokens(7))
    output = scheduler.take(request_id)
    assert (output.num_model_drafted_tokens, output.num_model_accepted_tokens) == (2, 1)
    stats = scheduler.stats()
    assert (stats.num_model_drafted_tokens, stats.num_model_accepted_tokens) == (2, 1)


def test_a_discarded_step_is_planned_again():
    scheduler = make_scheduler()
    scheduler.submit(tokens(1, 2), _core.SamplingParams(max_tokens=1))
    first = scheduler.schedule()
    scheduler.discard_step()
    second = scheduler.schedule()
    assert second.token_ids.tolist() == first.token_ids.tolist() == [1, 2]
    assert (first.step, second.step) == (1, 2)  # a handle that is kept is not refilled


def test_a_failed_row_ends_the_request():
    scheduler = make_scheduler()
    request_id = scheduler.submit(tokens(1, 2), _core.SamplingParams(max_tokens=5))
    scheduler.schedule()
    failed = _core.StepOutput(tokens(3), failed=np.asarray([True]))
    assert scheduler.update(failed).finished_requests.tolist() == [request_id]
    assert scheduler.take(request_id).sequences[0].finish_reason == "error"


@pytest.mark.parametrize(
    ("prompt", "options", "error", "field"),
    [
        ([], {}, errors.RequestError, "prompt"),
        ([1] * 100, {}, errors.PromptTooLongError, "prompt"),
        ([1, 50], {}, errors.RequestError, "prompt"),
        ([-1], {}, errors.RequestError, "prompt"),
        ([1], {"n": 0}, errors.RequestError, "n"),
    ],
)
def test_what_can_never_run_is_refused_by_name(prompt, options, error, field):
    scheduler = make_scheduler()
    with pytest.raises(error) as caught:
        scheduler.submit(tokens(*prompt), _core.SamplingParams(), **options)
    assert caught.value.field == field
    assert not scheduler.has_work()


def test_a_full_queue_is_an_overload():
    scheduler = make_scheduler(max_waiting=1)
    scheduler.submit(tokens(1), _core.SamplingParams())
    with pytest.raises(errors.OverloadedError):
        scheduler.submit(tokens(1), _core.SamplingParams())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids"),
        ({"eos_token_ids": [-1]}, "eos_token_ids"),
        ({"logit_bias": [(1, 1.0), (1, 2.0)]}, "logit_bias"),
        ({"bad_words": [[]]}, "bad_words"),
        ({"logprobs_mode": "cooked"}, "logprobs_mode"),
    ],
)
def test_an_invalid_sampling_parameter_is_named(options, field):
    with pytest.raises(errors.RequestError) as caught:
        _core.SamplingParams(**options)
    assert caught.value.field == field


def test_sampling_parameters_are_readable_and_comparable():
    params = _core.SamplingParams(top_k=4, stop_token_ids=[3, 1], logit_bias=[(7, 1.5), (2, -1.0)])
    assert (params.top_k, params.stop_token_ids) == (4, [1, 3])
    assert params.logit_bias == [(2, -1.0), (7, 1.5)]
    assert params == _core.SamplingParams(
        top_k=4, stop_token_ids=[1, 3], logit_bias=[(2, -1.0), (7, 1.5)]
    )
    assert params != _core.SamplingParams()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"groups": []}, "groups"),
        ({"groups": [(0, None)]}, "groups"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
    ],
)
def test_an_impossible_configuration_is_named(options, field):
    with pytest.raises(errors.RequestError) as caught:
        make_scheduler(**options)
    assert caught.value.field == field


def test_an_output_of_another_length_is_an_internal_error_and_the_step_stays():
    scheduler = make_scheduler()
    scheduler.submit(tokens(1), _core.SamplingParams(max_tokens=1))
    batch = scheduler.schedule()
    with pytest.raises(errors.InternalError):
        scheduler.update(_core.StepOutput(tokens(1, 2)))
    assert scheduler.update(run(batch)).token_ids.size == 1
    with pytest.raises(errors.InternalError):
        scheduler.update(_core.StepOutput(tokens()))


def test_arrays_of_a_batch_are_read_only():
    scheduler = make_scheduler()
    scheduler.submit(tokens(1), _core.SamplingParams())
    with pytest.raises(ValueError, match="read-only"):
        scheduler.schedule().token_ids[0] = 3


def test_equal_prefixes_are_computed_once_and_counted():
    scheduler = make_scheduler()
    prompt = np.arange(40, dtype=np.int32)
    params = _core.SamplingParams(max_tokens=1)
    cached = []
    for salt in (None, None, "a", "a"):
        request_id = scheduler.submit(prompt, params, cache_salt=salt)
        drain(scheduler)
        cached.append(scheduler.take(request_id).num_cached_tokens)
    assert cached == [0, 32, 0, 32]
    stats = scheduler.stats()
    assert (stats.num_cached_tokens, stats.num_prompt_tokens) == (64, 160)
    ((num_blocks, num_used, num_free, num_cached),) = stats.groups
    assert (num_blocks, num_used, num_free, num_cached) == (64, 0, 64, 4)


def test_threads_may_submit_while_steps_run():
    scheduler = make_scheduler()
    params = _core.SamplingParams(max_tokens=5)
    ids, finished = [], []

    def submit():
        for _ in range(50):
            ids.append(scheduler.submit(tokens(1, 2, 3), params))  # noqa: PERF401

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or scheduler.has_work():
        finished += drain(scheduler)
    assert sorted(finished) == sorted(ids)
    assert len(set(ids)) == 150
