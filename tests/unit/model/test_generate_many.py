"""``Model.generate_many``: any number of prompts, errors as results, and a file to go on from."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import threading

import pytest
from tests.unit.fakes import assert_idle, fake_model, text_of

from inferlib import ItemResult
from inferlib.errors import (
    CheckpointMismatchError,
    ClosedError,
    PromptTooLongError,
    RequestError,
)
from inferlib.testing import tiny_model

PROMPTS = [f"prompt {i}" for i in range(12)]


class Counted:
    """An iterable that knows how far it was read."""

    def __init__(self, items):
        self.items = iter(items)
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        self.count += 1
        return item


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def texts(results):
    return {result.index: result.completion.text for result in results}


def expected(num_tokens=9):
    return {i: text_of(prompt, num_tokens) for i, prompt in enumerate(PROMPTS)}


def test_results_come_in_order(model):
    results = list(model.generate_many(iter(PROMPTS), max_tokens=9))
    assert [result.index for result in results] == list(range(12))
    assert texts(results) == expected()
    assert not any(result.is_restored for result in results)
    assert model.scheduler.max_batch == 12
    assert_idle(model)


def test_an_endless_iterable_is_read_as_far_as_there_is_room(model):
    prompts = Counted(f"prompt {i}" for i in itertools.count())
    with model.generate_many(prompts, max_tokens=3, max_pending=4) as results:
        assert prompts.count == 0
        for count, result in enumerate(results, 1):
            assert prompts.count <= count + 3
            assert result.unwrap().text == text_of(f"prompt {result.index}", 3)
            if count == 40:
                break
    assert model.scheduler.max_batch <= 4
    assert_idle(model)


def test_as_they_are_ready(model):
    results = model.generate_many(["a", "b", "c"], ordered=False, stop="e", max_tokens=40)
    found = list(results)
    assert sorted(result.index for result in found) == [0, 1, 2]
    lengths = [len(result.completion.token_ids) for result in found]
    assert lengths == sorted(lengths)


def test_invalid_items_have_errors_for_results(model):
    items = ["fine", "too", "x" * 1000, None, ["a", "b"], [1, 2.5], [1, 2, 3], {"a": 1}]
    results = list(model.generate_many(items, max_tokens=None, ignore_eos=False))
    kinds = [type(result.error) for result in results]
    assert kinds[0] is type(None)
    assert kinds[6] is type(None)
    assert kinds[2] is PromptTooLongError
    assert all(isinstance(results[i].error, RequestError) for i in (3, 4, 5, 7))
    with pytest.raises(RequestError):
        results[3].unwrap()
    assert_idle(model)


def test_an_error_may_end_the_run(model):
    results = model.generate_many(["a", None, "b"], max_tokens=2, on_error="raise")
    assert next(results).completion.text == text_of("a", 2)
    with pytest.raises(RequestError):
        next(results)
    assert list(results) == []
    assert_idle(model)


def test_an_iterable_that_fails_ends_the_run(model):
    def prompts():
        yield "a"
        raise OSError("gone")

    results = model.generate_many(prompts(), max_tokens=2, max_pending=1)
    assert next(results).index == 0
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert_idle(model)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ordered": 1}, "ordered"),
        ({"on_error": "ignore"}, "on_error"),
        ({"max_pending": 0}, "max_pending"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_options_are_checked_at_once(model, options, field):
    with pytest.raises(RequestError) as raised:
        model.generate_many(PROMPTS, **options)
    assert raised.value.field == field


@pytest.mark.parametrize("items", ["text", b"text", {"a": 1}, 7, None])
def test_what_is_no_iterable_of_items(model, items):
    with pytest.raises(RequestError, match="iterable"):
        model.generate_many(items)


def test_conversations(model):
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:3]]
    results = list(model.chat_many([*conversations, [], "hi", conversations], max_tokens=2))
    assert results[1].completion.prompt == "<s>[user]prompt 1[assistant]"
    assert [result.error is None for result in results] == [True] * 3 + [False] * 3


def test_dropping_cancels(model):
    results = model.generate_many(PROMPTS, max_tokens=50)
    next(results)
    del results
    gc.collect()
    assert_idle(model)


def test_threads_share_one(model):
    results, found = model.generate_many(PROMPTS, max_tokens=9, max_pending=3), []
    threads = [threading.Thread(target=lambda: found.extend(results)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts(found) == expected()


def test_a_closed_model(model):
    results = model.generate_many(PROMPTS, max_tokens=9, max_pending=2)
    next(results)
    model.close()
    with pytest.raises(ClosedError):
        list(results)
    with pytest.raises(ClosedError):
        model.generate_many(PROMPTS)


class TestAsync:
    def test_all(self, model):
        async def run():
            return [item async for item in model.agenerate_many(PROMPTS, max_tokens=9)]

        assert texts(asyncio.run(run())) == expected()
        assert_idle(model)

    def test_leaving_early_cancels(self, model):
        async def run():
            async with model.achat_many([[{"role": "user", "content": "x"}]] * 9) as results:
                async for result in results:
                    return result

        assert asyncio.run(run()).index == 0
        assert_idle(model)


class TestCheckpoint:
    def test_a_second_run_computes_nothing_again(self, model, path):
        first = list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path, logprobs=1))
        runs = model.executor.num_runs
        second = list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path, logprobs=1))
        assert model.executor.num_runs == runs
        assert all(result.is_restored for result in second)
        assert [each.completion for each in second] == [each.completion for each in first]

    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("taken", [0, 1, 5])
    def test_a_run_that_ended_early_is_gone_on_with(self, model, path, taken, ordered):
        options = {"max_tokens": 9, "checkpoint": path, "max_pending": 3, "ordered": ordered}
        results = model.generate_many(PROMPTS, **options)
        list(itertools.islice(results, taken))
        results.close()
        with fake_model() as other:
            again = list(other.generate_many(Counted(PROMPTS), **options))
            assert texts(again) == expected()
            assert sum(result.is_restored for result in again) >= taken
            assert len(path.read_text().splitlines()) == 1 + len(PROMPTS)

    def test_more_items_than_before(self, model, path):
        list(model.generate_many(PROMPTS[:5], max_tokens=9, checkpoint=path))
        results = list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path))
        assert [result.is_restored for result in results] == [True] * 5 + [False] * 7
        assert texts(results) == expected()

    def test_ctrl_c_keeps_what_is_done(self, model, path):
        def interrupt():
            if model.executor.num_runs == 12:
                raise KeyboardInterrupt

        model.executor.on_run = interrupt
        results = model.generate_many(PROMPTS, max_tokens=3, checkpoint=path, max_pending=2)
        with pytest.raises(KeyboardInterrupt):
            list(results)
        model.executor.on_run = lambda: None
        assert_idle(model)
        kept = len(path.read_text().splitlines()) - 1
        assert 4 <= kept < len(PROMPTS)
        results = list(model.generate_many(PROMPTS, max_tokens=3, checkpoint=path))
        assert texts(results) == expected(3)
        assert sum(result.is_restored for result in results) == kept

    def test_a_torn_line_is_computed_again(self, model, path):
        list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path))
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        results = list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path))
        assert sum(result.is_restored for result in results) == 11
        assert texts(results) == expected()

    def test_errors_of_items_are_kept_with_their_class(self, model, path):
        items = ["a", None, "x" * 600]
        first = list(model.generate_many(items, max_tokens=None, checkpoint=path))
        second = list(model.generate_many(items, max_tokens=None, checkpoint=path))
        assert [type(each.error) for each in first] == [type(each.error) for each in second]
        assert str(second[1].error) == str(first[1].error)
        assert second[2].is_restored
        assert second[2].error.field == first[2].error.field

    def test_failed_steps_are_tried_again(self, model, path):
        def fail():
            raise ValueError("broken")

        model.executor.on_run = fail
        results = list(model.generate_many(PROMPTS[:2], max_tokens=9, checkpoint=path))
        assert all(result.error is not None for result in results)
        model.executor.on_run = lambda: None
        results = list(model.generate_many(PROMPTS[:2], max_tokens=9, checkpoint=path))
        assert not any(result.is_restored for result in results)
        assert results[0].completion.text == text_of("prompt 0", 9)

    def test_other_options_prompts_or_calls_are_refused(self, model, path):
        list(model.generate_many(PROMPTS, max_tokens=9, checkpoint=path))
        before = path.read_bytes()
        with pytest.raises(CheckpointMismatchError, match="max_tokens"):
            model.generate_many(PROMPTS, max_tokens=8, checkpoint=path)
        with pytest.raises(CheckpointMismatchError, match="call"):
            model.chat_many([], max_tokens=9, checkpoint=path)
        with pytest.raises(CheckpointMismatchError, match="item 0"):
            list(model.generate_many(["other"], max_tokens=9, checkpoint=path))
        assert path.read_bytes() == before

    def test_another_model_is_refused(self, path):
        with tiny_model(seed=0) as model:
            list(model.generate_many(["a"], max_tokens=2, checkpoint=path))
        with tiny_model(seed=1) as model, pytest.raises(CheckpointMismatchError) as raised:
            model.generate_many(["a"], max_tokens=2, checkpoint=path)
        assert raised.value.field == "model.weights"

    def test_restored_results_have_receipts(self, path):
        with tiny_model() as model:
            for _ in range(2):
                (result,) = model.generate_many([[1, 2]], max_tokens=2, seed=1, checkpoint=path)
                model.replay(result.unwrap().receipt)
        assert result.is_restored

    def test_the_file_is_json_lines(self, model, path):
        list(model.generate_many(PROMPTS[:2], max_tokens=2, checkpoint=path))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[0]["inferlib_checkpoint"] == 1
        assert lines[0]["params"]["max_tokens"] == 2
        assert lines[1]["completion"]["outputs"][0]["text"] == text_of("prompt 0", 2)


def test_a_result_without_completion():
    with pytest.raises(RequestError):
        ItemResult(index=0, completion=None, error=RequestError("no")).unwrap()
