"""Medians, bests, and ratios within rounds."""

from __future__ import annotations

import pytest
from bench.comparison.statistics import figure, ratio


def test_a_figure_keeps_median_best_and_rounds():
    assert figure([3.0, 1.0, None, 2.0]) == {
        "median": 2.0,
        "best": 3.0,
        "rounds": [3.0, 1.0, None, 2.0],
    }
    assert figure([3.0, 1.0], best=min)["best"] == 1.0


def test_no_value_is_no_figure():
    assert figure([None, None]) is None
    assert figure([]) is None


def test_a_ratio_is_taken_within_rounds():
    # The machine was twice as slow in the second round and thrice in the third: medians of all
    # values would give 10 / 4 = 2.5 for engines that differ by 2.
    ours, theirs = figure([20.0, 10.0, 8.0]), figure([10.0, 5.0, 4.0])
    assert ratio(ours, theirs) == 2.0
    assert ratio(figure([9.0, 8.0, 1.0]), figure([3.0, 4.0, 1.0])) == 2.0


def test_rounds_without_both_values_count_for_nothing():
    assert ratio(figure([None, 9.0, 4.0]), figure([1.0, None, 2.0])) == 2.0
    assert ratio(figure([1.0, None]), figure([None, 1.0])) is None
    assert ratio(figure([6.0, 6.0]), figure([3.0])) == 2.0


def test_a_ratio_can_be_scaled():
    assert ratio(figure([400.0]), figure([40.0]), scale=0.09) == pytest.approx(0.9)
