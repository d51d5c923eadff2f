"""Attention with tensor cores: prefill and decode against float64, and each other's bits."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.attention_cases import attention_case
from tests.cuda.launching import DTYPES, SEEDS, Out, assert_close, run

from inferlib.executors.cuda_attention import (
    decode_shared_bytes,
    plan_attention,
    prefill_shared_bytes,
)

i32, f32 = np.int32, np.float32
ALWAYS_DECODE, ALWAYS_PREFILL = 1 << 30, 0


def attend(case, kind, shape, *, decode_rows, seeds=SEEDS):
    """All rows by one of the two kernels."""
    heads, kv_heads, head_dim = shape["num_heads"], shape["num_kv_heads"], shape["head_dim"]
    window, softcap = shape.get("window"), shape.get("softcap")
    work = plan_attention(
        case.query_start_loc,
        case.positions,
        group=heads // kv_heads,
        window=window,
        decode_rows=decode_rows,
    )
    common = [
        *(case.q, case.k_cache, case.v_cache, case.positions, case.query_start_loc),
        *(case.block_tables, case.block_table_start_loc),
        *(case.sinks, i32(case.q.shape[1]), i32(heads), i32(kv_heads), i32(window or 0)),
        *(f32(head_dim**-0.5), f32(softcap or 0)),
    ]
    out = Out((len(case.q), heads * head_dim), DTYPES[kind])
    name = f"{kind}_{head_dim}"
    if decode_rows == ALWAYS_PREFILL:
        assert len(work.decode_items) == 0
        (result,) = run(
            f"attention_prefill_{name}",
            (len(work.prefill_tiles), kv_heads),
            128,
            [out, work.prefill_tiles, *common],
            shared_bytes=prefill_shared_bytes(head_dim),
            seeds=seeds,
        )
        return result
    assert len(work.prefill_tiles) == 0
    items, tiles = work.decode_items, work.decode_tiles
    outputs, softmax = run(
        f"attention_decode_{name}",
        (len(items), kv_heads),
        32,
        [
            Out((len(items), kv_heads, 16, head_dim)),
            Out((len(items), kv_heads, 16, 2)),
            items,
            *common,
        ],
        shared_bytes=decode_shared_bytes(head_dim),
        seeds=seeds,
    )
    (result,) = run(
        f"attention_decode_combine_{name}",
        (len(tiles), kv_heads, 16),
        128,
        [
            *(out, outputs, softmax, tiles, case.query_start_loc, case.sinks),
            *(i32(heads), i32(kv_heads)),
        ],
        seeds=seeds,
    )
    return result


SHAPES = [
    {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64},
    {"num_heads": 3, "num_kv_heads": 1, "head_dim": 128},
    {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "window": 19},
    {"num_heads": 2, "num_kv_heads": 1, "head_dim": 64, "softcap": 5.0},
    {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "window": 40, "has_sinks": True},
    {"num_heads": 1, "num_kv_heads": 1, "head_dim": 256, "window": 300},
]
LENGTHS = [(1, 1), (1, 77), (5, 33), (3, 290), (19, 19)]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_prefill_and_decode_are_right_and_have_the_same_bits(kind, shape):
    case = attention_case(kind, lengths=LENGTHS, **shape)
    decoded = attend(case, kind, shape, decode_rows=ALWAYS_DECODE)
    # Shares are rounded to 16 bits before the second product.
    assert_close(decoded, case.expected, kind, factor=1.5)
    prefilled = attend(case, kind, shape, decode_rows=ALWAYS_PREFILL)
    assert prefilled.tobytes() == decoded.tobytes()


@pytest.mark.parametrize("head_dim", [16, 32, 80, 96, 112, 192])
def test_heads_of_other_sizes(head_dim):
    shape = {"num_heads": 2, "num_kv_heads": 1, "head_dim": head_dim}
    case = attention_case("bf16", lengths=[(1, 1), (3, 290), (9, 40)], **shape)
    decoded = attend(case, "bf16", shape, decode_rows=ALWAYS_DECODE)
    assert_close(decoded, case.expected, "bf16", factor=1.5)
    prefilled = attend(case, "bf16", shape, decode_rows=ALWAYS_PREFILL)
    assert prefilled.tobytes() == decoded.tobytes()


def test_segments_are_folded_at_absolute_places():
    shape = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "window": 400}
    case = attention_case("bf16", lengths=[(1, 1000), (2, 513)], **shape)
    decoded = attend(case, "bf16", shape, decode_rows=ALWAYS_DECODE, seeds=(0, 2))
    assert_close(decoded, case.expected, "bf16", factor=1.5)
    prefilled = attend(case, "bf16", shape, decode_rows=ALWAYS_PREFILL, seeds=(0, 2))
    assert prefilled.tobytes() == decoded.tobytes()


def test_a_query_has_the_same_bits_in_every_chunk():
    shape = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 64}
    whole = attention_case("bf16", lengths=[(40, 300)], **shape)
    together = attend(whole, "bf16", shape, decode_rows=ALWAYS_PREFILL, seeds=(0,))
    for first, last in ((0, 1), (7, 24), (39, 40)):
        part = type(whole)(
            **{name: getattr(whole, name) for name in whole.__dataclass_fields__}
            | {
                "q": whole.q[first:last],
                "positions": whole.positions[first:last],
                "query_start_loc": np.array([0, last - first], i32),
            }
        )
        for decode_rows in (ALWAYS_PREFILL, ALWAYS_DECODE):
            alone = attend(part, "bf16", shape, decode_rows=decode_rows, seeds=(0, 1))
            assert alone.tobytes() == together[first:last].tobytes()


def test_work_is_shared_out_without_gaps():
    starts = np.array([0, 1, 41, 43], i32)
    positions = np.array([700, *range(600, 640), 3, 4], i32)
    work = plan_attention(starts, positions, group=3, window=None)
    assert work.prefill_tiles.tolist() == [[1, 0], [1, 64]]
    assert work.decode_tiles.tolist() == [[0, 0, 0, 3], [2, 0, 3, 1]]
    assert work.decode_items.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [2, 0, 0]]
    windowed = plan_attention(starts, positions, group=3, window=100)
    assert windowed.decode_items.tolist() == [[0, 0, 2], [2, 0, 0]]
