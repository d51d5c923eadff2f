"""``Model`` over pretended parts: every way in and out, without arithmetic."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from tests.unit.fakes import BOS, EOS, assert_idle, continuation, fake_model, text_of

from inferlib.call_options import CallOptions, LoadOptions
from inferlib.errors import (
    ClosedError,
    ExecutorError,
    InferlibError,
    InternalError,
    PromptTooLongError,
    ReentrantCallError,
    RequestError,
    TemplateError,
    UnknownKeywordError,
)
from inferlib.model import Model
from inferlib.sampling_params import SamplingOptions, SamplingParams


@pytest.fixture
def model():
    with fake_model() as model:
        yield model


def eventually(condition):
    while not condition():
        time.sleep(0.001)


class TestGenerate:
    def test_one_in_one_out(self, model):
        completion = model.generate("hello", max_tokens=20)
        assert completion.text == text_of("hello", 20)
        assert completion.prompt == "hello"
        assert completion.prompt_token_ids == [BOS, *b"hello"]
        assert completion.token_ids == list(continuation([BOS, *b"hello"])[:20])
        assert completion.finish_reason == "length"
        assert completion.stop_reason is None
        assert completion.usage.prompt_tokens == 6
        assert completion.usage.output_tokens == 20
        assert completion.num_cached_tokens == 3
        assert_idle(model)

    def test_list_in_list_out_as_one_batch(self, model):
        prompts = ["a", [1, 2, 3], "ccc", np.array([9, 9])]
        completions = model.generate(prompts, max_tokens=10)
        assert [len(each.token_ids) for each in completions] == [10] * 4
        assert completions[0].text == text_of("a", 10)
        assert completions[1].token_ids == list(continuation([1, 2, 3])[:10])
        assert completions[1].prompt is None
        assert model.executor.num_runs == 10
        assert model.scheduler.max_batch == 4

    def test_an_empty_list_gives_an_empty_list(self, model):
        assert model.generate([]) == []
        assert asyncio.run(model.agenerate([])) == []

    def test_token_ids_are_one_prompt(self, model):
        assert model.generate([1, 2, 3], max_tokens=1).prompt_token_ids == [1, 2, 3]
        assert model.generate((1, 2), max_tokens=1).prompt_token_ids == [1, 2]
        assert model.generate(np.arange(3), max_tokens=1).prompt_token_ids == [0, 1, 2]
        (completion,) = model.generate([[1, 2, 3]], max_tokens=1)
        assert completion.prompt_token_ids == [1, 2, 3]

    def test_a_text_that_begins_with_bos_gets_no_second_one(self, model):
        assert model.generate("<s>hi", max_tokens=1).prompt_token_ids == [BOS, *b"hi"]

    def test_stop_strings_may_straddle_tokens_and_are_cut(self, model):
        completion = model.generate("x", stop=["never", "café"], max_tokens=200)
        assert completion.text == text_of("x", 200).split("café")[0]
        assert completion.finish_reason == "stop"
        assert completion.stop_reason == "café"
        kept = model.generate("x", stop="café", include_stop_str_in_output=True, max_tokens=200)
        assert kept.text == completion.text + "café"
        assert_idle(model)

    def test_end_of_sequence_tokens_stop_and_are_not_text(self, model):
        model.executor.eos_after = 5
        completion = model.generate("x", skip_special_tokens=False)
        assert completion.token_ids[-1] == EOS
        assert len(completion.token_ids) == 6
        assert completion.text == text_of("x", 5)
        assert (completion.finish_reason, completion.stop_reason) == ("stop", None)
        assert len(model.generate("x", ignore_eos=True, max_tokens=9).token_ids) == 9

    def test_stop_tokens_are_reported(self, model):
        completion = model.generate("x", stop_token_ids=[ord(",")], max_tokens=200)
        assert completion.stop_reason == ord(",")
        assert completion.text == text_of("x", 200).split(",")[0]

    def test_n_sequences(self, model):
        completion = model.generate("x", n=3, max_tokens=15)
        assert [each.text for each in completion.outputs] == [text_of("x", 15, i) for i in range(3)]
        assert completion.usage.output_tokens == 45

    def test_a_sequence_that_fails_ends_with_error_and_the_others_go_on(self, model):
        model.executor.failing = {(1, 1)}
        first, second = model.generate(["a", "b"], n=2, max_tokens=5)
        assert [each.finish_reason for each in first.outputs] == ["length", "error"]
        assert [each.finish_reason for each in second.outputs] == ["length", "length"]
        assert_idle(model)

    def test_logprobs_map_token_ids(self, model):
        completion = model.generate("x", logprobs=2, max_tokens=3)
        assert len(completion.logprobs) == 3
        for token_id, logprobs in zip(completion.token_ids, completion.logprobs, strict=True):
            assert logprobs[token_id].logprob == -0.25
            assert logprobs[token_id].rank == 1
            assert logprobs[token_id].decoded_token == bytes([token_id]).decode(errors="replace")
            assert len(logprobs) == 2
        assert completion.outputs[0].cumulative_logprob == pytest.approx(-0.75)
        assert model.generate("x", max_tokens=1).logprobs is None

    def test_params_are_resolved_and_reported(self):
        with fake_model(generation_config={"temperature": 0.3, "top_k": 7}) as model:
            params = model.generate("x", SamplingParams(top_p=0.5), max_tokens=2).params
        assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.3, 7, 0.5, 0)
        assert isinstance(params.seed, int)

    def test_max_tokens_reaches_to_the_end_of_the_context(self, model):
        assert model.generate("x" * 500).params.max_tokens == 11
        assert model.generate("x" * 100, max_tokens=None).params.max_tokens == 411
        assert model.generate("x").params.max_tokens == 256

    def test_timings_add_up(self, model):
        timings = model.generate("x", max_tokens=5).timings
        assert 0 <= timings.queued <= timings.first_token <= timings.total
        assert timings.queued + timings.prefill == pytest.approx(timings.first_token)
        assert timings.first_visible_token is not None
        assert timings.tokens_per_second > 0
        single = model.generate("x", max_tokens=1).timings
        assert single.inter_token_latency is None

    def test_text_first_shows_after_the_first_token_when_that_is_half_a_character(self, model):
        model.executor.draw = lambda request_id, index, _: "🌊".encode()[
            len(model.scheduler.requests[request_id].sequences[index].token_ids)
        ]
        timings = model.generate("x", max_tokens=4).timings
        assert timings.first_visible_token > timings.first_token
        half = model.generate("x", max_tokens=2, detokenize=False)
        assert (half.text, half.timings.first_visible_token) == ("", None)

    def test_without_a_tokenizer_token_ids_work(self):
        with fake_model(tokenizer=False) as model:
            completion = model.generate([1, 2, 3], max_tokens=4)
            assert completion.token_ids == list(continuation([1, 2, 3])[:4])
            assert completion.text == ""
            assert [delta.token_ids for delta in model.stream([1], max_tokens=2)] == [
                [continuation([1])[0]],
                [continuation([1])[1]],
            ]
            with pytest.raises(RequestError, match="no tokenizer"):
                model.generate("text")


class TestBadInput:
    @pytest.mark.parametrize(
        ("prompt", "field"),
        [
            ("", None),
            (b"bytes", "prompt"),
            (None, "prompt"),
            (7, "prompt"),
            ({"a": 1}, "prompt"),
            ((each for each in "ab"), "prompt"),
            ([1, "a"], "prompt"),
            ([[1], None], "prompt"),
            ([1.5], "prompt"),
            ([True, False], "prompt"),
            ([-1], "prompt"),
            ([2**40], "prompt"),
            ([2**80], "prompt"),
            ([[]], "prompt"),
            (["ok", []], "prompt"),
            (np.zeros(3), "prompt"),
            ("\ud800", "prompt"),
            ("x" * 600, "prompt"),
        ],
    )
    def test_prompts(self, model, prompt, field):
        if field is None:
            return
        with pytest.raises(RequestError) as raised:
            model.generate(prompt)
        assert raised.value.field == field
        assert model.generate("still usable", max_tokens=1).text
        assert_idle(model)

    def test_a_prompt_that_is_too_long_says_what_fits(self, model):
        with pytest.raises(PromptTooLongError, match="601 tokens but the context holds 512"):
            model.generate("x" * 600)

    def test_max_tokens_that_can_never_fit(self, model):
        with pytest.raises(RequestError, match="at most 411 fit") as raised:
            model.generate("x" * 100, max_tokens=1000)
        assert raised.value.field == "max_tokens"

    def test_one_bad_prompt_refuses_the_list(self, model):
        with pytest.raises(RequestError):
            model.generate(["fine", "x" * 600])
        assert_idle(model)

    def test_unknown_keywords_name_the_nearest(self, model):
        with pytest.raises(UnknownKeywordError, match="did you mean temperature"):
            model.generate("x", temprature=1)
        with pytest.raises(TypeError, match="did you mean max_tokens"):
            model.generate("x", max_new_tokens=1)
        with pytest.raises(ValueError, match="priority"):
            model.stream("x", prority=1)
        with pytest.raises(UnknownKeywordError, match="did you mean threads"):
            Model.from_pretrained("x", n_threads=3)
        with pytest.raises(UnknownKeywordError):
            model.generate("x", tools=[])

    def test_request_keywords(self, model):
        with pytest.raises(RequestError, match="cache_salt"):
            model.generate("x", cache_salt=3)
        with pytest.raises(RequestError, match="priority"):
            model.generate("x", priority="high")
        with pytest.raises(RequestError, match="tenant must be a string") as raised:
            model.generate("x", tenant=3)
        assert raised.value.field == "tenant"
        for deadline in (-1, float("nan"), "soon"):
            with pytest.raises(RequestError, match="deadline") as raised:
                model.generate("x", deadline=deadline)
            assert raised.value.field == "deadline"
        with pytest.raises(RequestError, match="params"):
            model.generate("x", {"temperature": 1})
        with pytest.raises(RequestError, match="progress"):
            model.generate(["x"], progress="yes")
        assert model.generate("x", cache_salt="tenant", priority=-1, max_tokens=1).text

    def test_streams_take_one_prompt(self, model):
        for call in (model.stream, model.astream, model.submit):
            with pytest.raises(RequestError, match="one prompt"):
                call(["a", "b"])

    def test_options_agree_with_the_classes(self):
        names = set(SamplingParams.__dataclass_fields__)
        assert set(SamplingOptions.__annotations__) == names
        assert set(CallOptions.__annotations__) == names | {
            "cache_salt",
            "priority",
            "tenant",
            "deadline",
            "speculation",
        }
        parameters = inspect.signature(Model.from_pretrained).parameters
        assert set(LoadOptions.__annotations__) == set(parameters) - {"name_or_path", "unknown"}


class TestStream:
    def test_deltas_make_the_text(self, model):
        stream = model.stream("hello", max_tokens=60)
        deltas = list(stream)
        assert "".join(delta.text for delta in deltas) == text_of("hello", 60)
        assert [i for delta in deltas for i in delta.token_ids] == list(
            continuation([BOS, *b"hello"])[:60]
        )
        assert all(delta.text for delta in deltas[:-1])
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert deltas[-1].finish_reason == "length"
        assert stream.completion.text == text_of("hello", 60)
        assert_idle(model)

    def test_each_next_runs_no_more_steps_than_it_needs(self, model):
        stream = model.stream("x", max_tokens=50)
        assert model.executor.num_runs == 0
        next(stream)
        assert model.executor.num_runs == 1
        assert stream.completion is None

    def test_stop_strings_are_held_back(self, model):
        deltas = list(model.stream("x", stop="time", max_tokens=100))
        assert "".join(delta.text for delta in deltas) == text_of("x", 100).split("time")[0]
        assert deltas[-1].stop_reason == "time"

    def test_several_sequences_interleave(self, model):
        texts = ["", "", ""]
        ends = []
        for delta in model.stream("x", n=3, max_tokens=20):
            texts[delta.index] += delta.text
            ends += [delta.index] if delta.finish_reason else []
        assert texts == [text_of("x", 20, i) for i in range(3)]
        assert sorted(ends) == [0, 1, 2]

    def test_the_text_of_a_sequence_that_ends_first_is_not_held_until_all_end(self, model):
        stream = model.stream("x", n=2, stop="a tim", max_tokens=300)
        seen = [(delta.index, delta.finish_reason) for delta in stream]
        first = seen.index((0, "stop"))
        assert any(index == 1 for index, _ in seen[first:]) or seen[-1][0] == 0

    def test_closing_cancels(self, model):
        stream = model.stream("x", max_tokens=100)
        next(stream)
        stream.close()
        assert list(stream) == []
        assert stream.completion.finish_reason == "abort"
        assert_idle(model)

    def test_leaving_a_with_block_cancels(self, model):
        with model.stream("x", max_tokens=100) as stream:
            for _ in stream:
                break
        assert_idle(model)

    def test_dropping_cancels(self, model):
        stream = model.stream("x", max_tokens=100)
        next(stream)
        del stream
        gc.collect()
        assert_idle(model)

    def test_streams_advance_together(self, model):
        streams = [model.stream(str(i), max_tokens=30) for i in range(4)]
        texts = [""] * 4
        while streams:
            for index, stream in enumerate(streams):
                delta = next(stream, None)
                texts[index] += delta.text if delta else ""
            if all(stream.completion for stream in streams) and all(
                next(stream, None) is None for stream in streams
            ):
                break
        assert model.executor.num_runs == 30
        assert model.scheduler.max_batch == 4

    def test_a_generate_call_within_a_loop_over_a_stream(self, model):
        text = ""
        for delta in model.stream("outer", max_tokens=12):
            text += delta.text
            assert model.generate("inner", max_tokens=3).text == text_of("inner", 3)
        assert text == text_of("outer", 12)

    def test_logprobs_come_with_their_tokens(self, model):
        for delta in model.stream("x", logprobs=1, max_tokens=80):
            assert len(delta.logprobs) == len(delta.token_ids)

    def test_a_stream_keeps_its_model_alive(self):
        stream = fake_model().stream("x", max_tokens=3)
        gc.collect()
        assert "".join(delta.text for delta in stream) == text_of("x", 3)


class TestAsync:
    def test_agenerate(self, model):
        completions = asyncio.run(model.agenerate(["a", "b"], max_tokens=10))
        assert [each.text for each in completions] == [text_of("a", 10), text_of("b", 10)]
        assert_idle(model)
        eventually(lambda: threading.active_count() == 1)

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

    def test_a_stream_runs_ahead_of_its_reader_by_a_bounded_number_of_tokens(self, model):
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
        eventually(lambda: threading.active_count() == 1)
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

    def test_cancelling_the_task_cancels_the_request(self, model):
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
        eventually(lambda: threading.active_count() == 1)
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


class TestChat:
    messages: ClassVar = [{"role": "user", "content": "hi"}]

    def test_the_template_writes_the_prompt_and_its_own_bos(self, model):
        completion = model.chat(self.messages, max_tokens=3)
        assert completion.prompt == "<s>[user]hi[assistant]"
        assert completion.prompt_token_ids == [BOS, *b"[user]hi[assistant]"]

    def test_many_conversations(self, model):
        completions = model.chat([self.messages, self.messages], max_tokens=2)
        assert len(completions) == 2

    def test_tools_and_template_keywords_reach_the_template(self, model):
        completion = model.chat(
            self.messages,
            tools=[{"name": "search"}],
            chat_template_kwargs={"thinking": False},
            max_tokens=1,
        )
        assert completion.prompt == "<s>[user]hi[tool]search[thinking=False][assistant]"

    def test_continue_final_message(self, model):
        messages = [*self.messages, {"role": "assistant", "content": "Well"}]
        completion = model.chat(messages, continue_final_message=True, max_tokens=1)
        assert completion.prompt.endswith("[assistant]Well")
        with pytest.raises(RequestError, match="continue_final_message"):
            model.chat(self.messages, continue_final_message=True)

    @pytest.mark.parametrize(
        "messages",
        ["hi", b"hi", {"role": "user"}, [], None, ["hi"], [{"content": "x"}], [{"role": "user"}]],
    )
    def test_malformed_messages(self, model, messages):
        with pytest.raises(RequestError, match=r"message") as raised:
            model.chat(messages)
        assert raised.value.field == "messages"

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
            ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
            ({"tools": "search"}, "tools"),
            ({"tools": [1]}, "tools"),
            ({"continue_final_message": 1}, "continue_final_message"),
        ],
    )
    def test_what_the_template_cannot_be_given(self, model, options, field):
        with pytest.raises(RequestError) as raised:
            model.chat(self.messages, **options)
        assert raised.value.field == field

    def test_a_model_without_template_or_tokenizer(self, model):
        model._parts.checkpoint.chat_template = None
        with pytest.raises(TemplateError, match="no chat template"):
            model.chat(self.messages)
        with fake_model(tokenizer=False) as other, pytest.raises(RequestError, match="tokenizer"):
            other.chat(self.messages)


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

    def test_a_dedicated_thread_advances_it_alone(self):
        with fake_model(dedicated=True) as model:
            handle = model.submit("x", max_tokens=20)
            eventually(handle.done)
            assert handle.result().text == text_of("x", 20)
            assert model.generate("y", max_tokens=5).text == text_of("y", 5)
            assert "".join(map(str, model.stream("z", max_tokens=9))) == text_of("z", 9)
            eventually(lambda: threading.active_count() == 1)


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

    def test_waiting_threads_and_coroutines_fail(self, model):
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
        eventually(lambda: threading.active_count() == 1)

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


def test_stats_add_up_the_groups_and_name_the_device(model):
    model.submit("x")
    handle = model.submit("y")
    stats = model.stats()
    assert (stats["requests"], stats["total_blocks"], stats["free_blocks"]) == (1, 8, 7)
    assert (stats["device"], stats["details"]) == ("none", {"threads": 1})
    assert stats["used_blocks"] == 1
    handle.cancel()


def test_results_are_plain_data(model):
    import json

    completion = model.generate("x", n=2, logprobs=1, stop="caf", max_tokens=40)
    as_dict = json.loads(json.dumps(completion.to_dict()))
    assert as_dict["outputs"][0]["text"] == completion.text
    assert as_dict["params"]["stop"] == ["caf"]
    assert as_dict["usage"]["output_tokens"] == completion.usage.output_tokens
    assert len(repr(completion)) < 200
    assert str(completion) == completion.text
    assert "fake" in repr(model)


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


def test_threads_and_loops_at_once(model):
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
    eventually(lambda: threading.active_count() == 1)
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


def test_a_model_that_is_collected_by_its_own_driver_thread_ends_there():
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
    eventually(lambda: threading.active_count() == 1)


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
