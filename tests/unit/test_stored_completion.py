"""Completions as JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from tests.unit.test_completion import completion  # noqa: F401 (a fixture)

from inferlib import Logprob, MalformedToolCall, ToolCall
from inferlib.stored_completion import restore, store
from inferlib.testing import tiny_model


def through_json(value):
    return json.loads(json.dumps(value))


def test_everything_comes_back(completion):  # noqa: F811
    first = dataclasses.replace(
        completion.outputs[0],
        text="lone \ud800",
        reasoning="hm",
        raw_text="…",
        tool_calls=[ToolCall(name="add", arguments={"a": [1, None]}, id="1", raw_text="{…}")],
        malformed_tool_calls=[MalformedToolCall(raw_text="x", problem="no_json", message="m")],
        logprobs=[{5: Logprob(-math.inf, 1, None)}, {6: Logprob(-1.0, 2, "x")}],
    )
    whole = dataclasses.replace(completion, outputs=[first, completion.outputs[1]])
    assert restore(through_json(store(whole)), None) == whole


def test_a_models_completion_can_be_replayed():
    with tiny_model() as model:
        made = model.generate("hi", max_tokens=5, n=2, logprobs=2, prompt_logprobs=0, stop="zz")
        again = restore(through_json(store(made)), model._parts.builder.origin)
        assert again == made
        assert model.replay(again.receipt).token_ids == made.token_ids


def test_what_is_missing_is_an_error(completion):  # noqa: F811
    for name in ("outputs", "params", "usage", "timings"):
        stored = store(completion)
        del stored[name]
        with pytest.raises(KeyError):
            restore(stored, None)
