"""Traces: made with the statistics of real ones, and read from the formats of others."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from bench.traces.generator import CHAT, DOCUMENTS, PRESETS, generate
from bench.traces.reading import read
from bench.traces.rows import HASH_BLOCK, TraceError, TraceRow, as_lines, from_lines, token_ids
from bench.traces.statistics import statistics_of

MOONCAKE = {"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [0, 5]}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def close(value, low, high, slack=0.0):
    assert low * (1 - slack) <= value <= high * (1 + slack)


def test_the_generated_conversations_have_the_statistics_of_mooncakes():
    # scheduler.md, section 6: the real trace, and three seeds of the generator at full size.
    for seed in (1, 2, 3):
        found = statistics_of(generate(CHAT, 12_031, seed))
        assert (found.num_rows, found.seconds) == (12_031, 3537)
        close(found.mean_input, 12_035, 12_492)
        for value, expected in zip(found.input_quantiles, (964, 6909, 27_367, 85_399), strict=True):
            close(value, expected, expected, slack=0.07)
        close(found.mean_output, 335.5, 343)
        close(found.median_output, 346, 350)
        close(found.num_blocks, 180_996, 190_247)
        close(found.hit_rate, 0.356, 0.375)
        close(found.deep_rows, 0.354, 0.387)


def test_small_traces_have_about_the_same_statistics():
    for preset, hit_rate, mean_output in [(CHAT, 0.366, 343), (DOCUMENTS, 0.64, 149)]:
        found = [statistics_of(generate(preset, 1500, seed)) for seed in range(5)]
        close(sum(each.hit_rate for each in found) / 5, hit_rate, hit_rate, slack=0.1)
        close(sum(each.mean_output for each in found) / 5, mean_output, mean_output, slack=0.08)


@pytest.mark.parametrize("name", PRESETS)
def test_generated_rows_are_well_formed_and_repeatable(name):
    rows = generate(PRESETS[name], 400, 9)
    assert rows == generate(PRESETS[name], 400, 9)
    assert rows != generate(PRESETS[name], 400, 10)
    assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(rows))
    before: dict[int, tuple[int, ...]] = {}
    for row in rows:
        assert len(row.hash_ids) == -(-row.input_length // HASH_BLOCK)
        assert row.input_length > 0
        assert row.output_length > 0
        for place, hash_id in enumerate(row.hash_ids):  # equal ids, equal prefixes
            prefix = row.hash_ids[:place]
            assert before.setdefault(hash_id, prefix) == prefix


def test_tokens_are_equal_where_hash_ids_are_and_only_there():
    def row(*hash_ids, length=HASH_BLOCK * 2):
        return TraceRow(timestamp_ms=0, input_length=length, output_length=1, hash_ids=hash_ids)

    first, second = token_ids(row(3, 4)), token_ids(row(3, 70_003, length=700))
    assert (len(first), len(second)) == (1024, 700)
    assert first[:512] == second[:512]
    assert first[512:528] != second[512:528]
    assert max(first + second) < 131_072
    assert list(from_lines(as_lines([row(3, 4)]).splitlines())) == [row(3, 4)]


def test_mooncakes_rows_are_read_in_order_of_time(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(MOONCAKE) + "\n\n" + json.dumps(MOONCAKE | {"timestamp": 5}) + "\n")
    assert [row.timestamp_ms for row in read(path)] == [5, 3000]
    expected = TraceRow(timestamp_ms=3000, input_length=600, output_length=7, hash_ids=(0, 5))
    assert read(path)[1] == expected


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", None),
        ("[1]", None),
        ("{}", "input_length"),
        (json.dumps(MOONCAKE | {"input_length": 0}), "input_length"),
        (json.dumps(MOONCAKE | {"input_length": "600"}), "input_length"),
        (json.dumps(MOONCAKE | {"input_length": True}), "input_length"),
        (json.dumps(MOONCAKE | {"output_length": -1}), "output_length"),
        (json.dumps(MOONCAKE | {"timestamp": 1.5}), "timestamp"),
        (json.dumps(MOONCAKE | {"hash_ids": [1]}), "hash_ids"),
        (json.dumps(MOONCAKE | {"hash_ids": [1, -2]}), "hash_ids"),
        (json.dumps(MOONCAKE | {"hash_ids": None}), "hash_ids"),
    ],
)
def test_what_is_no_row_of_mooncakes_is_named(tmp_path, line, field):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(MOONCAKE) + "\n" + line + "\n")
    with pytest.raises(TraceError, match="line 2") as caught:
        read(path)
    assert (caught.value.path, caught.value.line, caught.value.field) == (path, 2, field)


def test_azures_rows_share_nothing(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        AZURE
        + "2023-11-16 18:17:03.9799600,4808,10\n"
        + "2023-11-16 18:17:04.0319600,600,0\n"
        + "2023-11-16 18:17:03.9899600,1,2\n"
    )
    rows = read(path)
    assert [row.timestamp_ms for row in rows] == [0, 10, 52]
    assert [(row.input_length, row.output_length) for row in rows] == [(4808, 10), (1, 2), (600, 0)]
    ids = [hash_id for row in rows for hash_id in row.hash_ids]
    assert len(ids) == len(set(ids)) == 10 + 1 + 2


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("TIMESTAMP,ContextTokens\n", 1, "GeneratedTokens"),
        ("", 1, "TIMESTAMP"),
        (AZURE + "yesterday,1,1\n", 2, "TIMESTAMP"),
        (AZURE + "2023-11-16 18:17:03,0,1\n", 2, "ContextTokens"),
        (AZURE + "2023-11-16 18:17:03,-4,1\n", 2, "ContextTokens"),
        (AZURE + "2023-11-16 18:17:03,4\n", 2, "GeneratedTokens"),
        (AZURE + "2023-11-16 18:17:03,4,2.5\n", 2, "GeneratedTokens"),
    ],
)
def test_what_is_no_row_of_azures_is_named(tmp_path, text, line, field):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert (caught.value.line, caught.value.field) == (line, field)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="jsonl or"):
        read(tmp_path / "trace.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no rows"):
        read(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv")
