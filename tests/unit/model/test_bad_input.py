"""What ``Model`` refuses, at once and by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from tests.unit.fakes import assert_idle

from inferlib.call_options import CallOptions, LoadOptions
from inferlib.errors import (
    PromptTooLongError,
    RequestError,
    UnknownKeywordError,
)
from inferlib.model import Model
from inferlib.sampling_params import SamplingOptions, SamplingParams


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
        with pytest.raises(RequestError, match='or "background"'):
            model.generate("x", priority="later")
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
            "logits_processors",
            "adapter",
        }
        parameters = inspect.signature(Model.from_pretrained).parameters
        assert set(LoadOptions.__annotations__) == set(parameters) - {"name_or_path", "unknown"}
