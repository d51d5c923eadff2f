"""Parts of a model that fail."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.fakes import assert_idle, text_of

from inferlib.errors import (
    ExecutorError,
    InternalError,
)


class TestFailures:
    def test_an_executor_error_ends_the_requests_and_the_model_stays_usable(self, model):
        def fail():
            model.executor.on_run = lambda: None
            raise ExecutorError("the device is gone")

        model.executor.on_run = fail
        handle = model.submit("other")
        with pytest.raises(ExecutorError, match="the device is gone"):
            model.generate("x")
        with pytest.raises(ExecutorError):
            handle.result()
        assert_idle(model)
        assert model.generate("x", max_tokens=4).text == text_of("x", 4)

    def test_each_caller_gets_an_exception_of_its_own(self, model):
        def fail():
            raise ExecutorError("gone", hint="load again")

        model.executor.on_run = fail
        handles = [model.submit("x") for _ in range(2)]
        errors = []
        for handle in handles:
            with pytest.raises(ExecutorError) as raised:
                handle.result()
            errors.append(raised.value)
        assert errors[0] is not errors[1]
        assert errors[0].hint == "load again"

    def test_what_is_no_error_of_ours_becomes_internal(self, model):
        def fail():
            raise KeyError("slot")

        model.executor.on_run = fail
        with pytest.raises(InternalError, match="KeyError") as raised:
            model.generate("x")
        causes = []
        error = raised.value
        while error is not None:
            causes.append(type(error))
            error = error.__cause__
        assert KeyError in causes

    def test_failure_in_the_thread_reaches_the_coroutine(self, model):
        def fail():
            raise ExecutorError("gone")

        model.executor.on_run = fail
        with pytest.raises(ExecutorError):
            asyncio.run(model.agenerate("x"))

        async def stream():
            async for _ in model.astream("x"):
                pass

        with pytest.raises(ExecutorError):
            asyncio.run(stream())

    def test_an_interrupt_cancels_that_call_only(self, model):
        def interrupt():
            if model.executor.num_runs == 5:
                raise KeyboardInterrupt

        model.executor.on_run = interrupt
        handle = model.submit("other", max_tokens=30)
        with pytest.raises(KeyboardInterrupt):
            model.generate(["a", "b"], max_tokens=30)
        assert len(model.scheduler.requests) == 1
        assert handle.result().text == text_of("other", 30)
        assert_idle(model)

    @pytest.mark.parametrize("place", ["schedule", "update"])
    def test_a_scheduler_that_panicked_leaves_nobody_waiting(self, model, place):
        """Its lock is poisoned: it answers every call with an error from then on."""

        def refuse(*_, **__):
            raise InternalError("the scheduler failed in an earlier call")

        def panic(*_, **__):
            for name in ("schedule", "update", "discard_step", "cancel", "take", "submit"):
                setattr(model.scheduler, name, refuse)
            raise InternalError("a panic")

        handle = model.submit("other")
        setattr(model.scheduler, place, panic)

        async def ask():
            return await asyncio.gather(
                model.agenerate("x"), model.agenerate("y"), return_exceptions=True
            )

        assert [type(error) for error in asyncio.run(ask())] == [InternalError] * 2
        for call in (handle.result, lambda: model.generate("x"), lambda: next(model.stream("x"))):
            with pytest.raises(InternalError):
                call()
        model.close()
