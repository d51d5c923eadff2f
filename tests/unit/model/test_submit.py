"""``Model.submit`` and its handle; what the model says of itself."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest
from tests.unit.fakes import assert_idle, eventually, fake_model, text_of


class TestHandle:
    def test_result(self, model):
        handle = model.submit("x", max_tokens=5)
        assert not handle.done()
        assert "pending" in repr(handle)
        assert handle.result().text == text_of("x", 5)
        assert handle.done()
        assert handle.result().text == text_of("x", 5)

    def test_handles_are_one_batch(self, model):
        handles = [model.submit(str(i), max_tokens=5) for i in range(5)]
        assert [each.result().text for each in handles] == [text_of(str(i), 5) for i in range(5)]
        assert model.executor.num_runs == 5

    def test_await(self, model):
        async def main():
            handle = model.submit("x", max_tokens=5)
            return (await handle).text, (await handle).text

        assert asyncio.run(main()) == (text_of("x", 5), text_of("x", 5))

    def test_timeout_leaves_it_running(self, model):
        model.executor.on_run = lambda: time.sleep(0.002)
        handle = model.submit("x", max_tokens=100)
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.01)
        assert handle.result().finish_reason == "length"

    def test_cancel_gives_what_there_is(self, model):
        handle = model.submit("x", max_tokens=100)
        next(model.stream("y", max_tokens=5))
        assert handle.cancel()
        assert handle.result().finish_reason == "abort"
        assert handle.result().text == text_of("x", 1)
        assert not handle.cancel()

    def test_cancel_before_it_began(self, model):
        handle = model.submit("x")
        assert handle.cancel()
        completion = handle.result()
        assert (completion.text, completion.finish_reason) == ("", "abort")
        assert completion.timings.first_token is None

    def test_dropping_cancels(self, model):
        model.submit("x")
        gc.collect()
        assert_idle(model)

    def test_a_dedicated_thread_advances_it_alone(self, new_threads):
        with fake_model(dedicated=True) as model:
            handle = model.submit("x", max_tokens=20)
            eventually(handle.done)
            assert handle.result().text == text_of("x", 20)
            assert model.generate("y", max_tokens=5).text == text_of("y", 5)
            assert "".join(map(str, model.stream("z", max_tokens=9))) == text_of("z", 9)
            eventually(lambda: not new_threads())


def test_stats_add_up_the_groups_and_name_the_device(model):
    model.submit("x")
    handle = model.submit("y")
    stats = model.stats()
    assert (stats["requests"], stats["total_blocks"], stats["free_blocks"]) == (1, 8, 7)
    assert (stats["device"], stats["details"]) == ("none", {"threads": 1})
    assert stats["used_blocks"] == 1
    handle.cancel()
