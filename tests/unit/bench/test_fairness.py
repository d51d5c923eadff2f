"""The figures of fair share: its bound holds in what is stored, and a broken one is told."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from bench.fairness import FLOODS, PLOT, POLICIES, RESULTS, broken, grid, plot

LINES = json.loads(RESULTS.read_text())["lines"]


def test_the_stored_figures_keep_the_bound_and_first_come_first_served_does_not():
    assert broken(LINES) == []
    assert {(line["policy"], line["flood"]) for line in LINES} == {
        (policy, flood) for policy in POLICIES for flood in FLOODS
    }
    worst = {line["policy"]: line for line in LINES if line["flood"] == FLOODS[-1]}
    assert worst["fair"]["wait_steps_max"] < worst["fair"]["wait_bound_steps"]
    assert worst["fcfs"]["wait_steps"] > worst["fair"]["wait_bound_steps"]


def test_a_longer_wait_is_told():
    longer = [line | {"wait_steps": 400.0} if line["flood"] == 64 else line for line in LINES]
    assert broken(longer) == ["flood 64: 400 steps"]


def test_the_table_and_the_picture_show_every_flood():
    assert [row[0] for row in grid(LINES).rows] == [str(flood) for flood in FLOODS]
    picture = plot(LINES)
    assert PLOT.read_text() == picture
    ET.fromstring(picture)  # noqa: S314  # our own
    assert picture.count("<circle") == len(FLOODS) * len(POLICIES)
