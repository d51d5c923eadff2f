"""The end of a model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
from tests.unit.fakes import eventually, fake_model

from inferlib.errors import (
    ClosedError,
    InferlibError,
)


class TestClose:
    def test_every_later_call_says_so(self, model):
        model.close()
        model.close()
        assert model.is_closed
        assert model.executor.is_closed
        assert "closed" in repr(model)
        for call in (model.generate, model.stream, model.submit, model.astream):
            with pytest.raises(ClosedError):
                call("x")
        with pytest.raises(ClosedError):
            model.chat([{"role": "user", "content": "x"}])
        with pytest.raises(ClosedError):
            model.stats()
        with pytest.raises(ClosedError):
            asyncio.run(model.agenerate("x"))

    def test_pending_streams_and_handles_fail(self, model):
        stream, handle = model.stream("x"), model.submit("x")
        next(stream)
        model.close()
        with pytest.raises(ClosedError):
            next(stream)
        with pytest.raises(ClosedError):
            handle.result()
        assert list(stream) == []

    def test_waiting_threads_and_coroutines_fail(self, model, new_threads):
        model.executor.on_run = lambda: time.sleep(0.002)
        outcomes = []

        def sync_call():
            try:
                model.generate("x", max_tokens=500)
            except InferlibError as error:
                outcomes.append(type(error))

        def async_call():
            try:
                asyncio.run(model.agenerate("x", max_tokens=500))
            except InferlibError as error:
                outcomes.append(type(error))

        threads = [threading.Thread(target=call) for call in (sync_call, async_call, sync_call)]
        for thread in threads:
            thread.start()
        eventually(lambda: model.scheduler.max_batch == 3)
        model.close()
        for thread in threads:
            thread.join()
        assert outcomes == [ClosedError] * 3
        assert model.executor.is_aborted
        eventually(lambda: not new_threads())

    def test_with_and_async_with(self):
        with fake_model() as model:
            pass
        assert model.executor.is_closed

        async def main():
            async with fake_model() as model:
                await model.agenerate("x", max_tokens=2)
            return model

        assert asyncio.run(main()).executor.is_closed

    def test_dropping_the_model_closes_it(self):
        model = fake_model()
        executor = model.executor
        del model
        gc.collect()
        assert executor.is_closed

    def test_a_model_made_in_code_cannot_be_pickled(self, model):
        import pickle

        with pytest.raises(TypeError, match="not loaded from a file"):
            pickle.dumps(model)
