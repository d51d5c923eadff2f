"""How results read: in a terminal, in the README, as one line for programs."""

from __future__ import annotations

import json

import pytest
from bench.comparison import readme, table, targets
from tests.unit.bench import stored


@pytest.fixture
def results():
    found = stored.results(smollm2=stored.smollm2())
    found.stored["targets"] = targets.outcomes(found, {"prefill_512": "it rounds"})
    return found


def cells(grid, row):
    """One row by column, found by a part of its name."""
    return next(dict(zip(grid.header, line, strict=True)) for line in grid.rows if row in line[0])


def test_cells_are_medians_with_ours_in_brackets(results):
    grid = table.engine_grid(results, "smollm2")
    decode = cells(grid, "1 sequence after 16")
    assert decode["inferlib Q4_1"] == "400"
    assert decode["llama.cpp Q4_1"] == f"100 (4.00{targets.TIMES})"


def test_what_was_not_measured_is_a_dash(results):
    grid = table.engine_grid(results, "smollm2")
    assert cells(grid, "32 sequences")["inferlib Q4_1"] == table.NONE
    assert cells(grid, "load to first token")["llama.cpp Q4_0 †"] == table.NONE


def test_quality_stands_beside_speed(results):
    grid = table.engine_grid(results, "smollm2")
    assert cells(grid, "float32, mean")["inferlib Q4_1"] == "4.0e-03"
    assert cells(grid, "float32, 99.9 %")["llama.cpp Q4_1"] == "1.0e-01"


def test_engines_that_compute_another_model_are_marked(results):
    header = table.engine_grid(results, "smollm2").header
    assert header[1:] == ["inferlib Q4_1", "llama.cpp Q4_1", "llama.cpp Q4_0 †", "Rounder Q4_1 †"]


def test_shares_of_the_machine_are_shown(results):
    grid = table.engine_grid(results, "smollm2")
    assert cells(grid, "GOP/s")["inferlib Q4_1"] == "800"
    assert cells(grid, "share of read bandwidth")["inferlib Q4_1"] == "80 %"
    results.stored["models"]["smollm2"]["int8_peak_gop_s"] = stored.figure([1000.0])
    grid = table.engine_grid(results, "smollm2")
    assert cells(grid, "GOP/s")["inferlib Q4_1"] == "800 (80 %)"


def test_columns_line_up():
    text = table.Grid(["a", "long"], [["first", "1"], ["b", "22"]]).text()
    assert text.split("\n") == ["a      long", "first     1", "b        22"]


def test_markdown_is_a_table():
    lines = table.Grid(["a", "b"], [["c", "1"]]).markdown().split("\n")
    assert lines == ["| a | b |", "| --- | ---: |", "| c | 1 |"]


def test_sentences_begin_at_the_left():
    grid = table.Grid(
        ["a", "n", "why"], [["b", "1", "so"], ["c", "22", "because"]], ends_in_text=True
    )
    assert grid.text().split("\n") == ["a   n  why", "b   1  so", "c  22  because"]
    assert "| --- | ---: | --- |" in grid.markdown()


def test_the_terminal_page_names_everything_that_is_missing(results):
    model = results.stored["models"]["smollm2"]
    model["missing"]["Absent int4"] = "it needs a checkpoint"
    model["engines"]["Rounder Q4_1"]["reasons"]["batch_8"] = "no batches"
    model["engines"]["llama.cpp Q4_1"]["busy_share"] = 0.9
    model["foreign_share"] = {"median": 0.5}
    page = table.render(results)
    for words in (
        "Absent int4: missing: it needs a checkpoint",
        "Rounder Q4_1: batch_8: no batches",
        "llama.cpp Q4_1: used 90% of a core while others ran",
        "NOT A QUIET MACHINE: others used 50%",
        "it rounds",
    ):
        assert words in page


def test_a_target_that_is_not_met_shows_figure_and_reason(results):
    grid = table.target_grid(results.stored["targets"])
    row = cells(grid, "prefill of 512")
    assert (row["measured"], row["met"]) == (f"0.80{targets.TIMES}", "no")
    assert row["against, or why not"].startswith("Rounder Q4_1: 5,000 tokens/s")
    assert row["against, or why not"].endswith("; it rounds")
    assert cells(grid, "one copy")["against, or why not"] == "not measured in this run"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.5, targets.TIMES, f"2.50{targets.TIMES}"),
        (0.25, targets.SECONDS, "0.25 s"),
        (199.6, targets.MEGABYTES, "200 MB"),
        (90, targets.PERCENT, "90 %"),
        (2e-4, "", "2.0e-04"),
    ],
)
def test_numbers_have_the_digits_they_deserve(value, unit, text):
    assert table.shown(value, unit) == text


def test_the_last_line_has_every_target(results):
    line = json.dumps(table.summary(results))
    assert "\n" not in line
    found = {each["id"]: each for each in json.loads(line)["targets"]}
    assert set(found) == {target.id for target in targets.TARGETS}
    assert found["prefill_512"]["reason"] == "it rounds"
    assert found["prefill_512"]["met"] is False


def test_the_readme_gets_its_section_between_the_markers(results, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nThe end.\n")
    readme.update(path, results)
    text = path.read_text()
    assert text.startswith(f"# Title\n\n{readme.BEGIN}\n`make bench-compare`")
    assert text.endswith(f"{readme.END}\n\nThe end.\n")
    assert "old" not in text
    assert "compare.svg" in text
    assert "| inferlib Q4_1 |" in text
    assert "of 20 targets are met" in text
    readme.update(path, results)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text", ["", readme.BEGIN, f"{readme.END}{readme.BEGIN}", f"{readme.BEGIN}{readme.END}" * 2]
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="once each and in this order"):
        readme.replaced(text, "new")
