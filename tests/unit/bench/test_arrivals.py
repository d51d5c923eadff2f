"""The open load and its statistics."""

import math
import random

import numpy as np
import pytest
from bench import arrivals
from bench.background import BESIDE
from bench.lines import Line, draw, step_of
from bench.tenants import kolmogorov_smirnov

from inferlib import Limits
from inferlib.testing import tiny_model


def test_arrivals_have_the_rate_and_no_memory():
    moments = arrivals.poisson(50.0, 200.0, seed=1)
    assert moments == sorted(moments) == arrivals.poisson(50.0, 200.0, seed=1)
    assert len(moments) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(moments)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as only exponential gaps have it


def test_percentiles_are_values_that_were_seen():
    assert arrivals.percentile([3, 1, 2], 0.5) == 2
    assert arrivals.percentile(range(100), 0.95) == 95
    assert arrivals.percentile([7], 0.99) == 7
    assert math.isnan(arrivals.percentile([], 0.5))


def test_what_is_refused_is_told_apart_from_what_ended():
    options = {"driver": "thread", "max_num_seqs": 1, "limits": Limits(waiting_requests=1)}
    with tiny_model(max_position_embeddings=256, **options) as model:
        params = {"max_tokens": 30, "ignore_eos": True}
        found = arrivals.offer(model, [0.0] * 12, num_tokens=8, params=params, seed=1)
    let_in = [each for each in found if each.completion is not None]
    assert 1 <= len(let_in) < len(found) == 12
    for each in found:
        assert each.end >= each.at >= 0
    assert {len(each.completion.token_ids) for each in let_in} == {30}


def test_the_ks_test_sees_a_shift_and_not_chance():
    generator = random.Random(5)
    first = [generator.gauss(0, 1) for _ in range(1000)]
    same = [generator.gauss(0, 1) for _ in range(1000)]
    shifted = [generator.gauss(0.3, 1) for _ in range(1000)]
    assert kolmogorov_smirnov(first, same)[1] > 0.05
    assert kolmogorov_smirnov(first, shifted)[1] < 1e-6
    assert kolmogorov_smirnov(first, first) == (0.0, 1.0)
    distance, p = kolmogorov_smirnov([1, 2, 3, 4], [3.5, 4.5, 5.5, 6.5])
    assert distance == 0.75
    assert p == pytest.approx(0.107, abs=0.01)  # Stephens' correction at n = m = 4


def test_pictures_are_drawn_to_scale():
    svg = draw(
        [Line("a|b", "#000000", [(0, 0), (10, 5)]), Line("c", "#111111", [(0, 1)], is_bound=True)],
        across="x",
        up="y",
    )
    assert svg.count("<polyline") == 2
    assert svg.count("<circle") == 2
    assert [step_of(highest) for highest in (1, 8, 9, 400, 0.02)] == [0.2, 1, 2, 50, 0.0025]


def test_background_work_is_compared_with_being_alone():
    assert BESIDE["alone"] is None
    assert BESIDE["beside background work"] == {"priority": "background"}
