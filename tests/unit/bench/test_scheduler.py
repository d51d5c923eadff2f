"""The scheduler's benchmark: targets beside figures, and the gate on instructions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import scheduler_instructions
from bench.scheduling import instructions
from bench.scheduling.boundary import Decoding
from bench.scheduling.core import least_disturbed
from bench.scheduling.targets import TARGETS, number, table

RESULTS = Path(scheduler_instructions.__file__).parent / "results"


def test_a_figure_is_held_against_its_target():
    rows = {row[0]: row[1:] for row in table({"fork_2000_tokens_us": 4.0}).rows}
    assert rows["fork a sequence of 2,000 tokens, µs"] == ["≤ 5", "4", "met"]
    assert rows["a step, 256 running, µs"] == ["≤ 15", "–", "–"]  # noqa: RUF001
    by_key = {target.key: target for target in TARGETS}
    assert not by_key["fork_2000_tokens_us"].is_met(5.1)
    assert by_key["replay_hit_tokens"].is_met(816_128)
    assert not by_key["replay_hit_tokens"].is_met(816_127)


def test_numbers_are_short():
    assert [number(value) for value in (0.0213, 12.34, 816_128, 5, 108.0027)] == [
        "0.0213",
        "12.3",
        "816,128",
        "5",
        "108",
    ]


def test_the_stored_results_are_whole():
    stored = json.loads((RESULTS / "scheduler.json").read_text())
    assert {target.key for target in TARGETS} <= stored.keys()
    counts = json.loads((RESULTS / "scheduler-instructions.json").read_text())
    assert counts["counts"].keys() == {piece.name for piece in instructions.PIECES}


def test_of_equal_measurements_the_least_disturbed_counts():
    lines = [{"step_ns": 9.0, "x": 1.0}, {"step_ns": 7.0, "x": 2.0}]
    assert least_disturbed(lines, "step_ns")["x"] == 2.0


def test_instructions_may_change_by_two_per_cent_either_way():
    before = {"a": 100.0, "b": 50.0}
    assert instructions.compare({"a": 101.9, "b": 49.1}, before) == []
    assert instructions.compare({"a": 102.1, "b": 50.0}, before) == ["a: 100.0 → 102.1 (+2.1%)"]
    assert instructions.compare({"a": 100.0, "b": 48.0}, before) == ["b: 50.0 → 48.0 (-4.0%)"]
    assert instructions.compare({"a": 100.0, "c": 1.0}, before) == [
        "b: counted before only",
        "c: counted now only",
    ]


def test_callgrinds_report_is_understood():
    report = "==9== Events    : Ir\n==9== Collected : 34956995\n==9==\n"
    assert instructions.collected(report) == 34_956_995
    with pytest.raises(ValueError, match="did not say"):
        instructions.collected("==9== killed")


def test_counts_of_another_compiler_are_not_compared(tmp_path, capsys):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"toolchain": "rustc 1.0, x", "counts": {"a": 1.0}}))
    assert scheduler_instructions.stored_counts(path, "rustc 1.0, x") == {"a": 1.0}
    assert scheduler_instructions.stored_counts(path, "rustc 2.0, x") is None
    assert "--against" in capsys.readouterr().out


def test_a_step_makes_as_many_python_objects_for_few_requests_as_for_many():
    few, many = Decoding(4, 40), Decoding(400, 40)
    assert few.step() > 0
    assert min(few.objects() for _ in range(5)) == min(many.objects() for _ in range(5))
