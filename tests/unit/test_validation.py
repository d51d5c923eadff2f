"""Checks of single arguments: what is taken, and that every refusal names its field."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from inferlib import validation
from inferlib.errors import RequestError, UnknownKeywordError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_whole_numbers(value):
    number = validation.integer("field", value, 0, 9)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.array([3]), np.float32(3), 10, -1])
def test_what_is_no_whole_number_in_range(value):
    with pytest.raises(RequestError) as raised:
        validation.integer("field", value, 0, 9)
    assert raised.value.field == "field"


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), Fraction(1, 2), np.array(0.5)])
def test_numbers(value):
    number = validation.number("field", value, 0, 1)
    assert (number, type(number)) == (0.5, float)


@pytest.mark.parametrize(
    "value", [True, "0.5", None, math.nan, math.inf, -math.inf, 1.5, np.array([0.5, 0.5]), 1j]
)
def test_what_is_no_number_in_range(value):
    with pytest.raises(RequestError) as raised:
        validation.number("field", value, 0, 1)
    assert raised.value.field == "field"


def test_lists_are_read_to_their_limit_only():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield 1

    with pytest.raises(RequestError, match="more than 5"):
        validation.items("field", endless(), 5)
    assert len(taken) == 6
    assert validation.items("field", {1: 2}, 5) == (1,)


def test_token_ids_are_sorted_and_distinct():
    assert validation.token_ids("field", np.array([5, 1, 5])) == (1, 5)


def test_booleans_and_choices():
    validation.boolean("field", value=True)
    validation.choice("field", "a", ("a", "b"))
    for check in (
        lambda: validation.boolean("field", 0),
        lambda: validation.choice("field", "c", ("a", "b")),
        lambda: validation.choice("field", None, ("a", "b")),
    ):
        with pytest.raises(RequestError, match="field must be"):
            check()


def test_names_of_other_libraries_are_translated_where_they_exist():
    with pytest.raises(UnknownKeywordError, match="did you mean max_tokens"):
        validation.check_keywords(["max_new_tokens"], {"max_tokens"})
    with pytest.raises(UnknownKeywordError, match="known are a, b"):
        validation.check_keywords(["max_new_tokens"], {"b", "a"})
