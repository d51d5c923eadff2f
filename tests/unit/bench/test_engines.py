"""Engines in processes of their own: answers, failures, and what they print."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bench.comparison.engines import Engine, EngineError, EngineProcess
from bench.comparison.fresh import start
from bench.comparison.workloads import WORKLOADS, repetition
from bench.divergence import TopLogprobs


def engine(model="model", **settings):
    return Engine(
        name="fake",
        file_format="F",
        adapter="tests.unit.bench.fake_adapter",
        python=Path(sys.executable),
        model=Path(model),
        **settings,
    )


@pytest.fixture
def process(tmp_path):
    with EngineProcess(engine(), threads=3, log=tmp_path / "log") as process:
        yield process


def test_an_engine_answers_whatever_it_prints(process):
    assert process.version == "fake 1"
    assert process.ask("prefill", prompt=[1, 2, 3]) == 0.75
    assert process.ask("prefill", prompt=[1]) == 0.25


def test_arrays_come_as_files(process, tmp_path):
    path = str(tmp_path / "scores.npz")
    process.ask("score", token_ids=[5, 6, 7], top=2, path=path)
    scores = TopLogprobs.load(path)
    assert scores.token_ids.shape == (2, 2)
    assert scores.best().tolist() == [3, 3]


def test_what_an_engine_cannot_do_is_an_error_and_it_goes_on(process):
    with pytest.raises(EngineError, match="no batches of 2"):
        process.ask("decode", prompts=[[1], [2]], num_tokens=4)
    assert process.ask("prefill", prompt=[1]) == 0.25


def test_an_engine_that_ends_says_why(process):
    with pytest.raises(EngineError, match="the last words"):
        process.ask("serve", prompts=[[1]], num_tokens=1)
    with pytest.raises(EngineError, match="the last words"):
        process.ask("prefill", prompt=[1])


def test_an_engine_that_cannot_load_is_an_error_of_one_line(tmp_path):
    with pytest.raises(EngineError, match=r"^this file model.gguf is broken$"):
        EngineProcess(engine("broken"), threads=1, log=tmp_path / "log")


def test_an_environment_that_is_not_there_is_an_error(tmp_path):
    missing = Engine(
        name="x", file_format="F", adapter="y", python=tmp_path / "python", model=tmp_path
    )
    with pytest.raises(EngineError, match="environment is missing"):
        EngineProcess(missing, threads=1, log=tmp_path / "log")


def test_an_idle_engine_settles(process):
    process.ask("prefill", prompt=[1])
    assert process.settle()


def test_a_fresh_process_tells_its_time_and_its_peaks():
    result = start(engine(), threads=1, fill=8)
    assert result["seconds"] > 0
    assert 1e6 < result["load_peak_bytes"] <= result["filled_peak_bytes"]


def test_a_fresh_process_that_fails_is_an_error():
    with pytest.raises(EngineError, match="is broken"):
        start(engine("broken"), threads=1)


def test_repetitive_text_compares_ours_with_ours():
    ordinary, repetitive = WORKLOADS["smollm2"][0], repetition("text", [1, 2])
    runs = {
        role: (engine(role=role).runs(ordinary), engine(role=role).runs(repetitive))
        for role in ("ours", "balanced", "drafting", "peer")
    }
    assert runs == {
        "ours": (True, True),
        "balanced": (True, False),
        "drafting": (False, True),
        "peer": (True, False),
    }
