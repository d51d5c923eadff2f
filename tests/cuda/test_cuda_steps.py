"""How the CUDA executor runs steps: graphs of buckets, steps launched ahead, tokens drawn there."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from tests.cuda.launching import CountedDevice
from tests.cuda.test_reduced_precision import make_model, prompts, wide_spec
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import ExecutorError
from inferlib.executors.cuda_attention import plan_attention
from inferlib.testing import tiny_model
from inferlib.transformer import record

EXACT = {"precision": "exact", "kv_cache": "2k tokens", "speculation": "off"}
GREEDY = {"temperature": 0, "ignore_eos": True}
TEXTS = ["a", "bc", "def", "gh", "i"]


def residency(model):
    return model.stats()["details"]


def without_graphs():
    return EmulatedDevice(has_graphs=False)


def tokens_of(completions):
    return [[each.token_ids for each in completion.outputs] for completion in completions]


class Watched(CountedDevice):
    """Writes down the order of launches, replays and waits."""

    def __init__(self, device):
        super().__init__(device)
        self.events = []
        self.downloaded_bytes = 0

    def launch(self, kernel, *arguments, **options):
        super().launch(kernel, *arguments, **options)
        if kernel.startswith("argmax"):
            self.events.append("step")

    def graph(self, record):
        before = len(self.events)
        graph, watched = self._device.graph(record), self
        del self.events[before:]

        class Graph:
            def launch(self):
                watched.events.append("step")
                graph.launch()

        return Graph()

    def start_download(self, source):
        download, watched = self._device.start_download(source), self
        self.downloaded_bytes += source.nbytes

        class Download:
            def wait(self):
                watched.events.append("wait")
                return download.wait()

        return Download()

    def download(self, source):
        return self.start_download(source).wait()


class TestGraphs:
    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_a_replayed_bucket_with_spare_rows_gives_the_bits_of_eager_steps(self, count):
        options = {"max_tokens": 9, "logprobs": 2, **GREEDY}
        answers = []
        for device in (EmulatedDevice(seed=2), without_graphs()):
            with tiny_model(device=device, **EXACT) as model:
                completions = model.generate(TEXTS[:count], **options)
                answers.append([(each.token_ids, each.logprobs) for each in completions])
                graphs = residency(model)["graphs"]
            assert (graphs > 0) == (device.num_replays > 0) == (len(answers) == 1)
        assert answers[0] == answers[1]
        with tiny_model(device=EmulatedDevice(), **EXACT) as model:  # buckets of one: none to spare
            completions = [model.generate(text, **options) for text in TEXTS[:count]]
        assert answers[0] == [(each.token_ids, each.logprobs) for each in completions]

    def test_in_reduced_precision_too(self):
        program = record(wide_spec())
        answers = []
        for device in (EmulatedDevice(seed=1), without_graphs()):
            with make_model(program, device=device, speculation="off") as model:
                completions = model.generate(prompts()[:3], max_tokens=6, logprobs=1, **GREEDY)
                answers.append([(each.token_ids, each.logprobs) for each in completions])
        assert answers[0] == answers[1]

    def test_a_refused_capture_is_said_once_and_changes_no_token(self, caplog):
        with (
            caplog.at_level(logging.WARNING, "inferlib.cuda"),
            tiny_model(device=without_graphs(), **EXACT) as model,
        ):
            found = model.generate(TEXTS, max_tokens=6, **GREEDY)
        assert len([each for each in caplog.records if "graphs" in each.message]) == 1
        with tiny_model(device=EmulatedDevice(), **EXACT) as model:
            assert tokens_of(model.generate(TEXTS, max_tokens=6, **GREEDY)) == tokens_of(found)

    def test_a_capture_that_allocates_or_copies_is_a_failure_of_the_emulated_device(self):
        device = EmulatedDevice()
        array = device.alloc((4,), np.int32, "x")
        for forbidden in (
            lambda: device.alloc((4,), np.int32, "y"),
            lambda: device.upload(array, np.zeros(4, np.int32)),
            lambda: device.download(array),
            lambda: device.launch("argmax_f32", (1,), 1024, ()),
        ):
            with pytest.raises(AssertionError, match="capture"):
                device.graph(forbidden)


class TestStepsAhead:
    def test_the_next_step_is_launched_before_the_host_waits_for_this_one(self):
        device = Watched(EmulatedDevice())
        with tiny_model(device=device, **EXACT) as model:
            model.generate("abc", max_tokens=12, **GREEDY)
            assert residency(model)["steps_foreseen"] >= 8
        under_way, steps_while_waiting = 0, []
        for event in device.events:
            if event == "wait":
                steps_while_waiting.append(under_way)
            under_way += 1 if event == "step" else -1
        assert under_way == 0, " ".join(device.events)
        assert steps_while_waiting.count(2) >= 8  # this one and the next
        assert set(steps_while_waiting) == {1, 2}

    def test_a_sequence_that_ends_takes_nothing_from_the_others(self):
        lengths = [3, 9, 5, 12, 7]
        with tiny_model(device=EmulatedDevice(seed=3), **EXACT) as model:
            handles = [
                model.submit(text, max_tokens=length, **GREEDY)
                for text, length in zip(TEXTS, lengths, strict=True)
            ]
            found = tokens_of([handle.result() for handle in handles])
            stats = residency(model)
            model._engine._scheduler.check_integrity()
        with tiny_model(**EXACT) as model:
            expected = [
                [model.generate(text, max_tokens=length, **GREEDY).token_ids]
                for text, length in zip(TEXTS, lengths, strict=True)
            ]
        assert found == expected
        assert stats["steps_foreseen"] > 0

    def test_blocks_that_are_full_are_left_to_the_scheduler(self):
        """The slot behind a full block is another sequence's."""
        with tiny_model(device=EmulatedDevice(), **EXACT) as model:
            found = model.generate(TEXTS[:3], max_tokens=22, **GREEDY)
            assert residency(model)["steps_foreseen"] > 8
        with tiny_model(**EXACT) as model:
            expected = model.generate(TEXTS[:3], max_tokens=22, **GREEDY)
        assert tokens_of(found) == tokens_of(expected)

    def test_stop_tokens_end_sequences_whose_next_step_is_under_way(self):
        with tiny_model(**EXACT) as model:
            plain = model.generate(TEXTS, max_tokens=16, **GREEDY)
            stops = [each.token_ids[4 + i] for i, each in enumerate(plain)]
            expected = model.generate(TEXTS, max_tokens=16, stop_token_ids=stops, **GREEDY)
        with tiny_model(device=EmulatedDevice(), **EXACT) as model:
            found = model.generate(TEXTS, max_tokens=16, stop_token_ids=stops, **GREEDY)
            stats = residency(model)
            # What comes afterwards finds the blocks as if nothing had been launched ahead.
            again = model.generate(TEXTS, max_tokens=16, stop_token_ids=stops, **GREEDY)
        assert tokens_of(found) == tokens_of(expected) == tokens_of(again)
        assert stats["steps_foreseen"] > 0

    def test_new_requests_come_in_between(self):
        with tiny_model(device=EmulatedDevice(seed=5), **EXACT) as model:
            streams = [model.stream(TEXTS[0], max_tokens=14, **GREEDY)]
            first = [next(streams[0]) for _ in range(4)]
            others = tokens_of(model.generate(TEXTS[1:], max_tokens=6, **GREEDY))
            text = "".join(each.text for each in [*first, *streams[0]])
            assert residency(model)["steps_discarded"] > 0
        with tiny_model(**EXACT) as model:
            assert text == model.generate(TEXTS[0], max_tokens=14, **GREEDY).text
            assert others == tokens_of(model.generate(TEXTS[1:], max_tokens=6, **GREEDY))


class TestDraws:
    OPTIONS = (
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 12},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 0},
    )

    def test_the_device_draws_what_the_cpu_draws(self):
        """Not promised to the last bit of a weight, but no such case is among these draws."""
        answers = []
        for device in ("cpu", Watched(EmulatedDevice())):
            with tiny_model(device=device, **EXACT) as model:
                handles = [
                    model.submit(text, max_tokens=30, seed=7 + i, ignore_eos=True, **options)
                    for i, (text, options) in enumerate(zip(TEXTS, self.OPTIONS, strict=True))
                ]
                answers.append(tokens_of([handle.result() for handle in handles]))
                details = residency(model)
        assert answers[0] == answers[1]
        assert details["steps_foreseen"] > 10
        assert device.launched["sample_f32"] > 0
        assert device.downloaded_bytes < 64 * 60  # ids; one row of logits would be 1,032 bytes

    def test_who_draws_a_row_is_its_own_requests_business(self):
        """A plain row has the same tokens alone and beside one that the host draws."""
        plain = {"max_tokens": 10, "seed": 3, "temperature": 0.9, "top_p": 0.95, "ignore_eos": True}
        penalised = plain | {"repetition_penalty": 1.3, "logprobs": 1}
        with tiny_model(device=EmulatedDevice(), **EXACT) as model:
            alone = [model.generate(TEXTS[i], **each) for i, each in enumerate((plain, penalised))]
            handles = [model.submit(TEXTS[i], **each) for i, each in enumerate((plain, penalised))]
            together = [handle.result() for handle in handles]
        assert tokens_of(together) == tokens_of(alone)
        assert together[1].logprobs == alone[1].logprobs
        with tiny_model(**EXACT) as model:
            assert model.generate(TEXTS[1], **penalised).token_ids == together[1].token_ids

    def test_the_first_tokens_may_be_the_hosts_and_the_later_ones_the_devices(self):
        options = {"max_tokens": 8, "min_tokens": 4, "temperature": 1.5, "seed": 2}
        device = Watched(EmulatedDevice())
        with tiny_model(device=device, **EXACT) as model:
            found = model.generate(TEXTS, **options)
        with tiny_model(**EXACT) as model:
            assert tokens_of(found) == tokens_of(model.generate(TEXTS, **options))
        assert device.launched["sample_f32"] > 0


class TestRounds:
    def test_attention_in_turns_gives_the_same_bits(self, monkeypatch):
        """Where not all partial results fit, whole tiles go one after another."""
        program = record(wide_spec())
        answers = []
        for num_bytes in (64 << 20, 1):
            monkeypatch.setattr("inferlib.executors.cuda_memory._PARTIAL_BYTES", num_bytes)
            settings = {"device": EmulatedDevice(), "max_model_len": 256, "speculation": "off"}
            with make_model(program, **settings) as model:
                completions = model.generate(prompts()[1:], max_tokens=4, logprobs=1, **GREEDY)
                answers.append([(each.token_ids, each.logprobs) for each in completions])
                largest = max(model._engine._executor._launches.max_items)
        assert largest == 2
        assert answers[0] == answers[1]

    def test_rounds_hold_whole_tiles_and_count_from_their_first_item(self):
        starts = np.arange(6, dtype=np.int32)
        positions = np.array([100, 700, 300, 2000, 10], np.int32)
        whole = plan_attention(starts, positions, group=4, window=None)
        parts = plan_attention(starts, positions, group=4, window=None, max_items=8)
        assert len(whole.rounds) == 1
        assert len(parts.rounds) > 1
        np.testing.assert_array_equal(parts.decode_items, whole.decode_items)
        for first, end, first_tile, end_tile in parts.rounds:
            assert end - first <= 8
            tiles = parts.decode_tiles[first_tile:end_tile]
            assert tiles[0, 2] == 0
            assert tiles[-1, 2] + tiles[-1, 3] == end - first
            np.testing.assert_array_equal(
                tiles[:, 2] + first, whole.decode_tiles[first_tile:end_tile, 2]
            )


def test_a_failing_graph_is_a_typed_error():
    with pytest.raises(ExecutorError):
        without_graphs().graph(lambda: None)
