"""``Model.stream``: what a caller pulls, drops or leaves."""

from __future__ import annotations

import gc

from tests.unit.fakes import BOS, assert_idle, continuation, fake_model, text_of


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
