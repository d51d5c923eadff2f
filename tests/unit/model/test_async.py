"""``Model`` in event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
from tests.unit.fakes import assert_idle, eventually, text_of

from inferlib.errors import (
    PromptTooLongError,
)


class TestAsync:
    def test_agenerate(self, model, new_threads):
        completions = asyncio.run(model.agenerate(["a", "b"], max_tokens=10))
        assert [each.text for each in completions] == [text_of("a", 10), text_of("b", 10)]
        assert_idle(model)
        eventually(lambda: not new_threads())

    def test_concurrent_calls_are_one_batch(self, model):
        model.executor.on_run = lambda: time.sleep(0.001)

        async def main():
            calls = [model.agenerate(str(i), max_tokens=40) for i in range(8)]
            return await asyncio.gather(*calls)

        completions = asyncio.run(main())
        assert [each.text for each in completions] == [text_of(str(i), 40) for i in range(8)]
        assert model.scheduler.max_batch == 8
        assert model.executor.num_runs < 80

    def test_astream(self, model):
        async def main():
            stream = model.astream("hello", max_tokens=60)
            return [delta async for delta in stream], stream.completion

        deltas, completion = asyncio.run(main())
        assert "".join(delta.text for delta in deltas) == text_of("hello", 60)
        assert completion.text == text_of("hello", 60)
        assert_idle(model)

    def test_a_stream_runs_ahead_of_its_reader_by_a_bounded_number_of_tokens(
        self, model, new_threads
    ):
        async def main():
            stream = model.astream("x", max_tokens=200)
            await anext(stream)
            await asyncio.sleep(0.1)
            runs = model.executor.num_runs
            assert 2 < runs < 40
            await asyncio.sleep(0.05)
            assert model.executor.num_runs == runs
            await stream.aclose()

        asyncio.run(main())
        eventually(lambda: not new_threads())
        assert_idle(model)

    def test_breaking_out_of_async_for_cancels(self, model):
        async def main():
            async with model.astream("x", max_tokens=100) as stream:
                async for _ in stream:
                    break

        asyncio.run(main())
        assert_idle(model)

    def test_dropping_an_async_stream_cancels(self, model):
        async def main():
            stream = model.astream("x", max_tokens=400)
            await anext(stream)
            del stream
            gc.collect()
            while model.scheduler.requests:
                await asyncio.sleep(0.001)

        asyncio.run(main())
        assert_idle(model)

    def test_cancelling_the_task_cancels_the_request(self, model, new_threads):
        model.executor.on_run = lambda: time.sleep(0.001)

        async def main():
            task = asyncio.create_task(model.agenerate("x", max_tokens=400))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while model.scheduler.requests:
                await asyncio.sleep(0.001)

        asyncio.run(main())
        eventually(lambda: not new_threads())
        assert_idle(model)

    def test_a_loop_that_is_closed_cancels_only_its_own_requests(self, model):
        model.executor.on_run = lambda: time.sleep(0.0005)
        loop = asyncio.new_event_loop()
        task = loop.create_task(model.agenerate("lost", max_tokens=500))
        loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        loop.close()
        assert model.generate("mine", max_tokens=30).text == text_of("mine", 30)
        eventually(lambda: not model.scheduler.requests)
        del task
        gc.collect()
        assert_idle(model)

    def test_sync_calls_work_inside_a_running_loop(self, model):
        async def main():
            background = asyncio.create_task(model.agenerate("background", max_tokens=20))
            await asyncio.sleep(0)
            inner = model.generate("inner", max_tokens=30)
            return inner, await background

        inner, background = asyncio.run(main())
        assert inner.text == text_of("inner", 30)
        assert background.text == text_of("background", 20)

    def test_one_after_another_loop(self, model):
        for turn in range(5):
            assert asyncio.run(model.agenerate("x", max_tokens=3)).text == text_of("x", 3), turn

    def test_long_texts_are_encoded_off_the_loop(self, model):
        encoded_in = []
        encode = model.tokenizer.encode
        model.tokenizer.encode = lambda text, **options: (
            encoded_in.append(threading.get_ident()),
            encode(text, **options),
        )[1]
        with pytest.raises(PromptTooLongError):
            asyncio.run(model.agenerate("x" * 200_000))
        assert encoded_in != [threading.get_ident()]

    def test_chat_twins(self, model):
        messages = [{"role": "user", "content": "hi"}]

        async def main():
            completion = await model.achat(messages, max_tokens=10)
            deltas = [delta async for delta in model.astream_chat(messages, max_tokens=10)]
            return completion.text, "".join(delta.text for delta in deltas)

        sync = model.chat(messages, max_tokens=10).text
        assert asyncio.run(main()) == (sync, sync)
        assert "".join(map(str, model.stream_chat(messages, max_tokens=10))) == sync
