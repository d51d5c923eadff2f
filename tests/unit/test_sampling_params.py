"""Options: what is taken, what is refused, and how defaults are filled in."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from inferlib.errors import RequestError, UnknownKeywordError
from inferlib.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "many"),
        ("max_tokens", 2**31),
        ("min_tokens", -1),
        ("min_tokens", None),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.0),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 2),
        ("top_n_sigma", -1),
        ("top_n_sigma", None),
        ("typical_p", 0),
        ("typical_p", 1.5),
        ("xtc_probability", math.nan),
        ("xtc_threshold", 1.1),
        ("mirostat", 1),
        ("mirostat", 3),
        ("mirostat", "2"),
        ("mirostat_tau", -1),
        ("mirostat_eta", math.inf),
        ("no_repeat_ngram_size", -1),
        ("no_repeat_ngram_size", 2.0),
        ("dry_multiplier", -0.5),
        ("dry_base", 0.5),
        ("dry_allowed_length", -2),
        ("dry_penalty_last_n", 0),
        ("dry_sequence_breakers", [""]),
        ("dry_sequence_breakers", [3]),
        ("dry_sequence_breakers", None),
        ("presence_penalty", 2.5),
        ("presence_penalty", None),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.0),
        ("n", 0),
        ("n", 10**9),
        ("n", None),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 1),
        ("stop", b"x"),
        ("stop", ["x"] * 65),
        ("stop", "x" * 1025),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", [2**31]),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", 1025),
        ("logprobs", True),
        ("prompt_logprobs", "all"),
        ("prompt_logprobs_start", -5),
        ("logprobs_mode", "log"),
        ("logit_bias", [(1, 2)]),
        ("logit_bias", {None: 1}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {-1: 1.0}),
        ("allowed_token_ids", []),
        ("allowed_token_ids", 3),
        ("bad_words", [""]),
        ("bad_words", [[]]),
        ("bad_words", [3]),
        ("bad_words", ["x"] * 1025),
        ("skip_special_tokens", None),
        ("detokenize", 0),
    ],
)
def test_what_cannot_work_is_refused_by_name(field, value):
    with pytest.raises(RequestError) as raised:
        SamplingParams(**{field: value})
    assert raised.value.field == field
    assert isinstance(raised.value, ValueError)


def test_an_endless_list_is_not_read_to_its_end():
    def endless():
        while True:
            yield "x"

    with pytest.raises(RequestError, match="more than 64"):
        SamplingParams(stop=endless())


def test_minus_one_is_refused_with_a_hint():
    with pytest.raises(RequestError, match="0 or None switches an option off"):
        SamplingParams(top_k=-1)


def test_fields_that_contradict_each_other():
    with pytest.raises(RequestError, match="min_tokens=5 is more than max_tokens=4"):
        SamplingParams(min_tokens=5, max_tokens=4)
    with pytest.raises(RequestError, match="stop needs text"):
        SamplingParams(stop="x", detokenize=False)
    with pytest.raises(RequestError, match="prompt_logprobs"):
        SamplingParams(max_tokens=0)
    assert SamplingParams(max_tokens=0, prompt_logprobs=1).max_tokens == 0


def test_values_are_normalised():
    params = SamplingParams(
        stop="a",
        stop_token_ids=[5, np.int64(3), 5],
        logit_bias={np.int32(7): 1, 2: -1},
        allowed_token_ids=range(3),
        bad_words=["no", [1, 2]],
        temperature=np.float32(0.5),
        max_tokens=np.int16(9),
    )
    assert params.stop == ("a",)
    assert params.stop_token_ids == (3, 5)
    assert dict(params.logit_bias) == {2: -1.0, 7: 1.0}
    assert params.allowed_token_ids == (0, 1, 2)
    assert params.bad_words == ("no", (1, 2))
    assert (type(params.temperature), type(params.max_tokens)) == (float, int)
    assert SamplingParams(stop=None, stop_token_ids=None).stop == ()
    assert SamplingParams(stop_token_ids=4).stop_token_ids == (4,)


def test_the_object_is_frozen_and_keyword_only():
    params = SamplingParams(logit_bias={1: 2.0})
    with pytest.raises(AttributeError):
        params.temperature = 1.0
    with pytest.raises(TypeError):
        params.logit_bias[1] = 3.0
    with pytest.raises(TypeError):
        SamplingParams(5)


def test_copies_and_pickles_are_equal():
    params = SamplingParams(logit_bias={1: 2.0}, stop=["x"], bad_words=[[1], "y"], seed=3)
    assert pickle.loads(pickle.dumps(params)) == params
    assert copy.deepcopy(params) == params
    assert hash(params) == hash(copy.copy(params))
    assert SamplingParams(**params.to_dict()) == params


class TestFromOptions:
    def test_options_go_over_params(self):
        params = SamplingParams(temperature=0.1, top_k=3)
        changed = SamplingParams.from_options(params, {"temperature": 0.9})
        assert (changed.temperature, changed.top_k) == (0.9, 3)
        assert params.temperature == 0.1
        assert SamplingParams.from_options(params, {}) is params
        assert SamplingParams.from_options(None, {"n": 2}) == SamplingParams(n=2)

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("temprature", "temperature"),
            ("max_new_tokens", "max_tokens"),
            ("repeat_penalty", "repetition_penalty"),
            ("stop_strings", "stop"),
            ("num_return_sequences", "n"),
            ("logprob", "logprobs"),
        ],
    )
    def test_an_unknown_one_names_the_nearest(self, wrong, right):
        with pytest.raises(UnknownKeywordError, match=f"did you mean {right}") as raised:
            SamplingParams.from_options(None, {wrong: 1})
        assert raised.value.field == wrong
        assert isinstance(raised.value, TypeError)

    def test_one_without_a_neighbour_lists_what_there_is(self):
        with pytest.raises(UnknownKeywordError, match="temperature, top_k"):
            SamplingParams.from_options(None, {"qqq": 1})

    def test_params_of_another_type(self):
        with pytest.raises(RequestError, match="must be SamplingParams"):
            SamplingParams.from_options({"temperature": 1}, {})


class TestResolve:
    def test_neutral_values(self):
        params = SamplingParams().resolve({})
        assert params.temperature == 1.0
        assert (params.top_k, params.top_p, params.min_p) == (0, 1.0, 0.0)
        assert params.repetition_penalty == 1.0

    def test_the_checkpoint_goes_over_neutral_and_the_caller_over_both(self):
        stored = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}
        params = SamplingParams(top_k=5).resolve(stored)
        assert (params.temperature, params.top_k, params.top_p) == (0.6, 5, 0.9)
        assert params.repetition_penalty == 1.1

    def test_null_in_the_checkpoint_is_no_value(self):
        assert SamplingParams().resolve({"top_p": None}).top_p == 1.0

    def test_do_sample_false_is_greedy_unless_a_temperature_was_asked_for(self):
        assert SamplingParams().resolve({"do_sample": False}).temperature == 0
        assert SamplingParams().resolve({"do_sample": True}).temperature == 1
        assert SamplingParams(temperature=0.5).resolve({"do_sample": False}).temperature == 0.5

    def test_a_random_seed_is_drawn_without_touching_global_state(self):
        import random

        state = random.getstate()
        seeds = {SamplingParams().resolve({}).seed for _ in range(50)}
        assert len(seeds) == 50
        assert random.getstate() == state
        assert SamplingParams(seed=7).resolve({}).seed == 7

    def test_a_value_of_the_checkpoint_that_cannot_work_is_refused(self):
        with pytest.raises(RequestError, match="temperature"):
            SamplingParams().resolve({"temperature": -1})
