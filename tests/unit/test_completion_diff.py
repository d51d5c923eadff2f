"""Two completions side by side."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.fakes import fake_model
from tests.unit.test_heat_map import HOSTILE, Reader

from inferlib import diff
from inferlib.errors import RequestError


@pytest.fixture(scope="module")
def completion():
    with fake_model() as model:
        return model.generate("x", max_tokens=30, seed=1)


def changed(completion, text, *, token_ids=None, finish_reason="length", **params):
    first = dataclasses.replace(
        completion.outputs[0],
        text=text,
        token_ids=list(text.encode("utf-8", "replace")) if token_ids is None else token_ids,
        finish_reason=finish_reason,
    )
    params = dataclasses.replace(completion.params, **params)
    return dataclasses.replace(completion, outputs=[first], params=params)


def test_the_same(completion):
    found = diff(completion, completion)
    assert found.is_same
    assert found.first_different_token is None
    assert found.params == {}
    assert [piece.is_same for piece in found.pieces] == [True]
    assert "|" not in str(found)
    assert "the same 30 tokens" in repr(found)


def test_words_options_and_ends_that_differ(completion):
    left = changed(completion, "the red house is old", temperature=0.5)
    right = changed(completion, "the blue house is old!", finish_reason="stop", temperature=0.7)
    found = diff(left, right)
    assert not found.is_same
    assert found.first_different_token == 4
    assert found.params == {"temperature": (0.5, 0.7)}
    assert [tuple(piece) for piece in found.pieces if not piece.is_same] == [
        ("red", "blue"),
        ("", "!"),
    ]
    assert "temperature: 0.5 and 0.7" in str(found)
    assert "finish_reason: length and stop" in str(found)
    lines = found.to_text(width=43).splitlines()
    assert "red                  | blue" in lines


def test_one_is_the_beginning_of_the_other(completion):
    found = diff(changed(completion, "a b"), changed(completion, "a b c"))
    assert found.first_different_token == 3


def test_html_is_escaped(completion):
    shown = Reader(diff(changed(completion, HOSTILE), changed(completion, "x"))._repr_html_())
    assert shown.tags == {"div", "table", "tr", "td", "span"}
    assert "<script>alert(1)</script>" in shown.text.replace("\n", "")


@settings(max_examples=40, deadline=None)
@given(left=st.text(max_size=40), right=st.text(max_size=40), width=st.integers(9, 60))
def test_the_pieces_make_both_texts(completion, left, right, width):
    found = diff(changed(completion, left), changed(completion, right))
    assert "".join(piece.left for piece in found.pieces) == left
    assert "".join(piece.right for piece in found.pieces) == right
    assert found.to_text(width=width)


def test_what_cannot_be_compared(completion):
    with pytest.raises(RequestError, match="Completion") as raised:
        diff(completion, "text")
    assert raised.value.field == "right"
    with pytest.raises(RequestError, match="width"):
        diff(completion, completion).to_text(width=3)
