"""The float32 family of ``precision="exact"``: linear and attention, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.attention_cases import attention_case
from tests.cuda.launching import Out, assert_close, numbers, run
from tests.cuda_emulator.numbers import to_values

i32, f32 = np.int32, np.float32


def linear(x, weight, bias, kind):
    rows, k = x.shape
    n = len(weight)
    arguments = [Out((rows, n)), x, weight, bias, i32(rows), i32(n), i32(k)]
    (out,) = run(f"linear_f32_{kind}", (-(-n // 4), -(-rows // 8)), 128, arguments)
    return out


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 4), (3, 7, 132), (9, 5, 516), (17, 33, 64)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(kind, rows, n, k, has_bias):
    generator = np.random.default_rng(rows)
    x, weight = numbers(generator, (rows, k), "f32"), numbers(generator, (n, k), kind)
    bias = generator.standard_normal(n).astype(f32) if has_bias else None
    expected = x.astype(np.float64) @ to_values(weight).T + (0 if bias is None else bias)
    assert_close(linear(x, weight, bias, kind), expected, "f32")


def test_a_row_of_linear_has_the_same_bits_among_any_number_of_rows():
    generator = np.random.default_rng(0)
    x, weight = numbers(generator, (19, 260), "f32"), numbers(generator, (6, 260), "f32")
    together = linear(x, weight, None, "f32")
    for rows in (1, 3, 8, 9):
        assert (linear(x[:rows], weight, None, "f32") == together[:rows]).all()
        assert (linear(x[-rows:].copy(), weight, None, "f32") == together[-rows:]).all()


def attend(
    case,
    *,
    num_heads,
    num_kv_heads,
    head_dim,
    window=None,
    softcap=None,
    has_sinks=False,
    rows=slice(None),
):
    assert has_sinks == (case.sinks is not None)
    q = np.ascontiguousarray(case.q[rows])
    tokens = len(q)
    (out,) = run(
        "attention_f32",
        (-(-num_heads // 4), tokens),
        128,
        [
            *(Out((tokens, num_heads * head_dim)), q, case.k_cache, case.v_cache),
            *(case.positions[rows].copy(), case.sequences[rows].copy()),
            *(case.block_tables, case.block_table_start_loc),
            *(case.sinks, i32(q.shape[1]), i32(num_heads), i32(num_kv_heads), i32(head_dim)),
            *(i32(window or 0), f32(head_dim**-0.5), f32(softcap or 0)),
        ],
    )
    return out


@pytest.mark.parametrize(
    "shape",
    [
        {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16},
        {"num_heads": 3, "num_kv_heads": 1, "head_dim": 64},
        {"num_heads": 2, "num_kv_heads": 2, "head_dim": 20, "window": 19},
        {"num_heads": 2, "num_kv_heads": 1, "head_dim": 128, "softcap": 5.0},
        {"num_heads": 1, "num_kv_heads": 1, "head_dim": 256, "window": 1},
        {"num_heads": 6, "num_kv_heads": 2, "head_dim": 36, "window": 40, "has_sinks": True},
    ],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_attention(shape):
    case = attention_case("f32", lengths=[(1, 1), (1, 77), (5, 33), (2, 64), (17, 17)], **shape)
    assert_close(attend(case, **shape), case.expected, "f32")


def test_a_query_of_attention_has_the_same_bits_alone_and_in_a_chunk():
    shape = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
    case = attention_case("f32", lengths=[(40, 70)], **shape)
    together = attend(case, **shape)
    for row in (0, 1, 39):
        assert (attend(case, **shape, rows=slice(row, row + 1)) == together[row]).all()
