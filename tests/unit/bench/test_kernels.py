"""What the kernels' example prints, as shares of limits, as a table and as a file."""

from __future__ import annotations

import json

import pytest
from bench.kernels import (
    LM_HEAD_SHARE,
    attention_grid,
    attention_of,
    grid,
    kernels_of,
    options_of,
    sampling_of,
    stored,
    summary,
    write,
)

LIMITS = {
    "tier": "avx2",
    "threads": 2,
    "int8_peak_gops": 400.0,
    "float_peak_gops": 200.0,
    "read_gb_s": 30.0,
}


def line(rows=1, kind="Q4_0", shape=(3072, 576), gb_s=27.0, gops=96.0):
    times = {"best_ms": 1.0, "median_ms": 1.1}
    return {"type": kind, "shape": list(shape), "rows": rows, "gb_s": gb_s, "gops": gops} | times


def test_a_share_is_of_the_limit_that_binds():
    limits, kernels = kernels_of([LIMITS, line(), line(rows=64, gb_s=3.0, gops=300.0)])
    assert [limit.read_gb_s for limit in limits] == [30.0]
    assert [(kernel.share, kernel.bound) for kernel in kernels] == [(0.9, "m"), (0.75, "c")]
    assert (kernels[0].tier, kernels[0].threads, kernels[0].shape) == ("avx2", 2, "3072x576")


def test_floats_are_compared_with_the_peak_of_floats():
    lines = [LIMITS, line(kind="F16", gb_s=3.0, gops=100.0), line(gb_s=3.0, gops=100.0)]
    assert [kernel.share for kernel in kernels_of(lines)[1]] == [0.5, 0.25]
    assert [kernel.share for kernel in kernels_of(lines, "exact")[1]] == [0.5, 0.5]


def test_a_kernel_is_compared_with_the_limits_before_it():
    slower = LIMITS | {"read_gb_s": 20.0}
    _, kernels = kernels_of([LIMITS, line(gb_s=15.0), slower, line(gb_s=15.0)])
    assert [kernel.share for kernel in kernels] == [0.5, 0.75]


def test_kernels_without_limits_are_refused():
    with pytest.raises(ValueError, match="no limits before"):
        kernels_of([line()])


def test_the_table_has_a_line_per_shape_and_type_and_a_column_per_row_count():
    lines = [LIMITS, line(), line(rows=8), line(kind="Q8_0"), line(shape=(10, 32))]
    text = grid(kernels_of(lines)[1]).text().splitlines()
    assert text[0].split() == ["share", "in", "%", "type", "1", "row", "8", "rows"]
    assert text[1].split() == ["SmolLM2-135M", "gate+up", "Q4_0", "90", "m", "90", "m"]
    assert [row.split()[-2:] for row in text[2:]] == [["m", "–"], ["m", "–"]]  # noqa: RUF001
    assert text[3].startswith("10x32")


def test_the_summary_is_medians_over_types_and_shapes():
    lines = [LIMITS, line(gb_s=15.0), line(), line(gb_s=30.0), line(rows=8)]
    assert summary(kernels_of(lines)[1]) == {"avx2, threads: 2": {"1": 0.9, "8": 0.9}}


def test_attention_stands_beside_the_medians_of_both_limits():
    limits, _ = kernels_of([LIMITS, LIMITS | {"read_gb_s": 20.0}])
    work = {"model": "smollm2", "work": "decode 1x1@1024", "threads": 2, "best_us_layer": 12.34}
    attention = attention_of([work | {"gb_s": 5.0, "gflops": 40.0}], "avx2", limits)
    assert attention[0]["tier"] == "avx2"
    assert (attention[0]["of_bandwidth"], attention[0]["of_float_peak"]) == (0.2, 0.2)
    text = attention_grid(attention).text().splitlines()
    assert text[1].split()[-3:] == ["12.3", "20", "20"]


def test_sampling_is_a_share_of_the_whole_step():
    drawn = [{"sampling": "top_p", "best_us": 100.0}]
    [result] = sampling_of(drawn, lm_head_ms=10.0)
    assert result["of_decode_step"] == pytest.approx(0.01 * LM_HEAD_SHARE, abs=1e-4)


def test_the_file_groups_row_counts_and_keeps_the_medians_of_limits(tmp_path):
    slower = LIMITS | {"read_gb_s": 20.0}
    lines = [LIMITS, line(), line(rows=8), slower, line(kind="Q8_0")]
    path = tmp_path / "results" / "kernels.json"
    write({"quick": True, **stored(*kernels_of(lines), [], [])}, path)
    result = json.loads(path.read_text())
    assert result["limits"] == [LIMITS | {"read_gb_s": 25.0}]
    assert [(entry["type"], entry["rows"]) for entry in result["kernels"]] == [
        ("Q4_0", [1, 8]),
        ("Q8_0", [1]),
    ]
    assert result["kernels"][0]["share"] == [0.9, 0.9]


def test_options_become_words():
    assert options_of({"rows": 1, "tier": "avx2"}) == ["--rows", "1", "--tier", "avx2"]
