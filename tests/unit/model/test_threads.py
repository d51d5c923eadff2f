"""Threads, loops and signal handlers on one model at once."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from tests.unit.fakes import assert_idle, eventually, fake_model, text_of

from inferlib.errors import (
    ClosedError,
    ReentrantCallError,
)


def generated(model, prompt, count):
    return model.generate(prompt, max_tokens=count).text


def streamed(model, prompt, count):
    return "".join(map(str, model.stream(prompt, max_tokens=count)))


def generated_in_a_loop(model, prompt, count):
    return asyncio.run(model.agenerate(prompt, max_tokens=count)).text


def streamed_in_a_loop(model, prompt, count):
    async def consume():
        return "".join([str(d) async for d in model.astream(prompt, max_tokens=count)])

    return asyncio.run(consume())


def submitted_after_one_that_was_given_up(model, prompt, count):
    with model.stream(prompt, max_tokens=100) as given_up:
        next(given_up)
    return model.submit(prompt, max_tokens=count).result().text


def test_threads_and_loops_at_once(model, new_threads):
    """64 calls of five kinds from 16 threads; each gets exactly its own text."""
    calls = (
        generated,
        streamed,
        generated_in_a_loop,
        streamed_in_a_loop,
        submitted_after_one_that_was_given_up,
    )
    failures = []

    def work(seed):
        for turn in range(4):
            prompt, count = f"{seed}/{turn}", 5 + (seed * 7 + turn * 3) % 40
            text = calls[(seed + turn) % len(calls)](model, prompt, count)
            if text != text_of(prompt, count):
                failures.append((prompt, text))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    eventually(lambda: not new_threads())
    assert_idle(model)


def test_threads_may_share_a_stream(model):
    stream = model.stream("x", max_tokens=200)
    deltas = []

    def read():
        deltas.extend(stream)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    token_ids = sorted(i for delta in deltas for i in delta.token_ids)
    assert token_ids == sorted(stream.completion.token_ids)
    assert_idle(model)


def test_two_tasks_cannot_read_one_stream_at_once(model):
    async def main():
        stream = model.astream("x", max_tokens=300)
        results = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
        assert isinstance(results[1], RuntimeError)
        return [delta async for delta in stream]

    assert asyncio.run(main())


def test_a_model_that_is_collected_by_its_own_driver_thread_ends_there(new_threads):
    model = fake_model(dedicated=True)
    model.executor.on_run = lambda: time.sleep(0.001)
    handle = model.submit("x", max_tokens=500)
    executor, request, engine = model.executor, handle._request, model._engine
    handle._owner = handle._token_text = None  # as if nobody had kept the model

    def collect():
        executor.on_run = lambda: None
        models.clear()

    models = [model]
    del model
    executor.on_run = collect
    eventually(lambda: request.is_done)
    assert isinstance(request.error, ClosedError)
    assert engine.is_closed
    eventually(lambda: not new_threads())


class TestSignalHandlers:
    """A handler runs between any two bytecodes of the main thread, so also inside of a call."""

    def in_the_middle_of_a_step(self, model, handler):
        outcome = []

        def interrupt():
            model.executor.on_run = lambda: None
            try:
                outcome.append(handler())
            except RuntimeError as error:
                outcome.append(type(error))

        model.executor.on_run = interrupt
        return outcome

    def holding_the_lock(self, model, handler):
        outcome = []
        submit = model.scheduler.submit

        def interrupt(*arguments, **options):
            model.scheduler.submit = submit
            try:
                outcome.append(handler())
            except RuntimeError as error:
                outcome.append(type(error))
            return submit(*arguments, **options)

        model.scheduler.submit = interrupt
        return outcome

    @pytest.mark.parametrize("place", ["in_the_middle_of_a_step", "holding_the_lock"])
    def test_waiting_there_is_an_error_and_no_deadlock(self, model, place):
        for handler in (lambda: model.generate("inner", max_tokens=2), model.close):
            outcome = getattr(self, place)(model, handler)
            assert model.generate("outer", max_tokens=4).text == text_of("outer", 4)
            assert outcome == [ReentrantCallError]
        assert_idle(model)

    @pytest.mark.parametrize("place", ["in_the_middle_of_a_step", "holding_the_lock"])
    def test_cancelling_there_works(self, model, place):
        handle = model.submit("other", max_tokens=300)
        outcome = getattr(self, place)(model, handle.cancel)
        assert model.generate("outer", max_tokens=4).text == text_of("outer", 4)
        assert outcome == [True]
        assert handle.result().finish_reason == "abort"
        assert_idle(model)
