"""``logit_bias`` by token id and by text."""

from __future__ import annotations

import json
import pickle

import pytest
from tests.unit.fakes import fake_model

from inferlib import SamplingParams
from inferlib.errors import RequestError
from inferlib.testing import tiny_model


@pytest.fixture(scope="module")
def model():
    with tiny_model() as model:
        yield model


def test_texts_are_kept_until_a_model_knows_their_tokens():
    params = SamplingParams(logit_bias={"b": 1, 10: 2, "a": 3, 9: 4})
    assert list(params.logit_bias) == [9, 10, "a", "b"]
    assert pickle.loads(pickle.dumps(params)) == params
    assert json.loads(json.dumps(params.to_dict()))["logit_bias"]["a"] == 3


def test_a_text_is_its_token_and_the_bias_decides(model):
    completion = model.generate("x", max_tokens=3, temperature=0, logit_bias={"A": 9999.0})
    assert completion.text == "AAA"
    assert completion.params.logit_bias == {ord("A"): 9999.0}  # what was used
    assert model.replay(completion.receipt).text == "AAA"


def test_biases_of_one_token_are_added_up(model):
    bias = {"A": 5000.0, ord("A"): -5000.0, "B": 1000.0}
    completion = model.generate("x", max_tokens=2, temperature=0, logit_bias=bias)
    assert completion.text == "BB"
    assert completion.params.logit_bias == {ord("A"): 0.0, ord("B"): 1000.0}


@pytest.mark.parametrize("text", ["AB", "é", " A", "AB" * 100])
def test_a_text_of_several_tokens_is_refused(model, text):
    with pytest.raises(RequestError, match="no token is") as raised:
        model.generate("x", logit_bias={text: 1})
    assert raised.value.field == "logit_bias"
    assert "token id" in raised.value.hint


@pytest.mark.parametrize(
    "bias", [{"": 1}, {"a": "b"}, {"a": float("nan")}, {1.5: 1}, {None: 1}, ["a"], {"a": 1e5}]
)
def test_what_is_no_bias(bias):
    with pytest.raises(RequestError) as raised:
        SamplingParams(logit_bias=bias)
    assert raised.value.field == "logit_bias"


def test_without_a_tokenizer_there_are_no_texts():
    with fake_model(tokenizer=False) as model, pytest.raises(RequestError, match="tokenizer"):
        model.generate([1, 2], logit_bias={"a": 1})
