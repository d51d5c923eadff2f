"""``Model.generate`` over pretended parts: prompts in, completions out."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.unit.fakes import BOS, EOS, assert_idle, continuation, fake_model, text_of

from inferlib.errors import (
    RequestError,
)
from inferlib.sampling_params import SamplingParams


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
