"""Kernels of sm_90a: against float64, against mma.sync's bits, and with mistakes planted."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda import launching
from tests.cuda.attention_cases import attention_case
from tests.cuda.launching import DTYPES, SEEDS, Out, assert_close, numbers, run
from tests.cuda.test_attention import ALWAYS_DECODE, ALWAYS_PREFILL, LENGTHS, attend
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator import Emulator, KernelError
from tests.cuda_emulator.numbers import to_values

from inferlib.executors.cuda_attention import plan_attention
from inferlib.executors.cuda_sm90 import (
    ATTENTION_THREADS,
    LINEAR_TILES,
    ONLY_FOR,
    architecture_of,
    attention_shared_bytes,
    linear_tile,
)
from inferlib.executors.cuda_weights import pack_float
from inferlib.executors.tensor_maps import TensorMap

i32, f32 = np.int32, np.float32


def linear_sm90(x, weight, bias, kind, out_kind, *, tile=None, seeds=SEEDS):
    (rows, k), n = x.shape, len(weight)
    tile = tile or linear_tile(rows)
    arguments = [
        Out((rows, n), DTYPES[out_kind]),
        TensorMap(array=weight, shape=weight.shape, box=(tile.outputs, 64)),
        TensorMap(array=x, shape=x.shape, box=(tile.rows, 64)),
        *(bias, i32(rows), i32(n), i32(k), i32(n)),
    ]
    (out,) = run(
        f"linear_sm90_{kind}_{out_kind}_{tile.rows}",
        (-(-n // tile.outputs), -(-rows // tile.rows)),
        tile.threads,
        arguments,
        shared_bytes=tile.shared_bytes,
        seeds=seeds,
    )
    return out


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 1, 8), (7, 70, 904), (61, 129, 136), (131, 30, 72)]
)
def test_linear(kind, rows, n, k):
    generator = np.random.default_rng(rows)
    x, weight = numbers(generator, (rows, k), kind), numbers(generator, (n, k), kind)
    bias = np.linspace(-1, 1, n).astype(f32) if rows == 7 else None
    expected = to_values(x) @ to_values(weight).T + (0 if bias is None else bias)
    for out_kind in (kind, "f32"):
        out = linear_sm90(x, weight, bias, kind, out_kind)
        assert_close(out, expected, out_kind, factor=1 if out_kind == kind else 3)


def test_rows_have_the_same_bits_in_every_tile_and_sums_the_order_of_the_other_kernels():
    """On a GPU this says whether one instruction of wgmma sums as mma.sync does."""
    generator = np.random.default_rng(0)
    x, weight = numbers(generator, (9, 1120), "bf16"), numbers(generator, (40, 1120), "bf16")
    expected = linear("many", x, pack_float(weight), None, "bf16", "f32", seeds=(0,))
    for tile in LINEAR_TILES:
        out = linear_sm90(x, weight, None, "bf16", "f32", tile=tile, seeds=(0, 1))
        assert out.tobytes() == expected.tobytes()
        alone = linear_sm90(x[3:4].copy(), weight, None, "bf16", "f32", tile=tile, seeds=(0,))
        assert alone.tobytes() == expected[3:4].tobytes()


def attend_sm90(case, kind, shape, *, seeds=SEEDS):
    """All rows by the kernel of sm_90a."""
    heads, kv_heads, head_dim = shape["num_heads"], shape["num_kv_heads"], shape["head_dim"]
    window, softcap = shape.get("window"), shape.get("softcap")
    work = plan_attention(
        case.query_start_loc,
        case.positions,
        group=heads // kv_heads,
        window=window,
        decode_rows=ALWAYS_PREFILL,
    )
    planes = (len(case.k_cache) * kv_heads, 16, head_dim)
    arguments = [
        *(Out((len(case.q), heads * head_dim), DTYPES[kind]), work.prefill_tiles),
        *(
            TensorMap(array=cache, shape=planes, box=(1, 16, 64))
            for cache in (case.k_cache, case.v_cache)
        ),
        *(case.q, case.positions, case.query_start_loc),
        *(case.block_tables, case.block_table_start_loc),
        *(case.sinks, i32(case.q.shape[1]), i32(heads), i32(kv_heads), i32(window or 0)),
        *(f32(head_dim**-0.5), f32(softcap or 0)),
    ]
    (result,) = run(
        f"attention_prefill_sm90_{kind}_{head_dim}",
        (len(work.prefill_tiles), kv_heads),
        ATTENTION_THREADS,
        arguments,
        shared_bytes=attention_shared_bytes(head_dim),
        seeds=seeds,
    )
    return result


SHAPES = [
    ("bf16", {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}),
    ("f16", {"num_heads": 3, "num_kv_heads": 1, "head_dim": 128}),
    ("bf16", {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "window": 19}),
    ("f16", {"num_heads": 2, "num_kv_heads": 1, "head_dim": 64, "softcap": 5.0}),
    ("bf16", {"num_heads": 1, "num_kv_heads": 1, "head_dim": 256, "window": 300}),
    ("bf16", {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "window": 40, "has_sinks": True}),
]


@pytest.mark.parametrize(("kind", "shape"), SHAPES, ids=lambda x: str(x)[-12:-1])
def test_prefill_is_right_and_sums_in_the_order_of_decoding(kind, shape):
    case = attention_case(kind, lengths=LENGTHS, **shape)
    found = attend_sm90(case, kind, shape)
    assert_close(found, case.expected, kind, factor=1.5)
    decoded = attend(case, kind, shape, decode_rows=ALWAYS_DECODE, seeds=(0,))
    assert found.tobytes() == decoded.tobytes()


def test_files_and_their_architectures():
    assert set(ONLY_FOR) == {"attention_prefill_sm90", "linear_sm90"}
    assert architecture_of("linear_sm90", "sm_90") == "sm_90a"
    assert architecture_of("linear_sm90", "sm_80") is None
    assert architecture_of("linear_sm90", "sm_100") is None
    assert architecture_of("linear_few", "sm_90") == "sm_90"
    assert [linear_tile(rows).rows for rows in (1, 8, 9, 64, 65, 4096)] == [8, 8, 64, 64, 128, 128]
    for tile in LINEAR_TILES:
        assert tile.shared_bytes <= 227 * 1024


def check_linear():
    generator = np.random.default_rng(3)
    x, weight = numbers(generator, (9, 1208), "bf16"), numbers(generator, (70, 1208), "bf16")
    out = linear_sm90(x, weight, None, "bf16", "bf16", seeds=SEEDS)
    assert_close(out, to_values(x) @ to_values(weight).T, "bf16")


def check_attention():
    kind, shape = SHAPES[0]
    case = attention_case(kind, lengths=[(3, 290), (40, 75)], **shape)
    assert_close(attend_sm90(case, kind, shape), case.expected, kind, factor=1.5)


LINEAR_BUGS = {
    "wrong parity of full stages": (
        "wait_for(full + stage, round & 1);",
        "wait_for(full + stage, 0);",
    ),
    "no wait for empty stages": ("wait_for(empty + stage, (round & 1) ^ 1);", ""),
    "no fence before products": ("    fence_products();\n", ""),
    "a stage is freed too early": (
        "if (lane == 0 && chunk > first) arrive(empty + last_stage);\n      last_stage = stage;",
        "last_stage = stage;\n      if (lane == 0 && chunk > first) arrive(empty + last_stage);",
    ),
    "a slice is not finished": ("    wait_products<0>(sums);\n", "    wait_products<1>(sums);\n"),
    "the ring is overwritten while it is read": (
        "  sync_threads(1, CONSUMERS);  // nobody reads the ring any more\n",
        "",
    ),
    "half of the weight's rows": ("warp / 4 * 64 * CHUNK_BYTES", "warp / 4 * 32 * CHUNK_BYTES"),
}


ATTENTION_BUGS = {
    "wrong parity of full stages": (
        "wait_for(full + stage, number / STAGES & 1);",
        "wait_for(full + stage, 0);",
    ),
    "hidden values are not cleared": (
        "      clear_values<HEAD_DIM>(value_tile, start, span);\n",
        "",
    ),
    "outputs are scaled while products add to them": (
        "        wait_products<0>(reinterpret_cast<float (&)[32]>(state.output[part * 8]));",
        "        wait_products<1>(reinterpret_cast<float (&)[32]>(state.output[part * 8]));",
    ),
    "a block too few is announced": (
        "(last - first + 1) * 2 * PARTS * BLOCK_BYTES",
        "(last - first) * 2 * PARTS * BLOCK_BYTES",
    ),
}
PLANTED = {
    **{f"linear: {name}": ("linear_sm90", *bug, check_linear) for name, bug in LINEAR_BUGS.items()},
    **{
        f"attention: {name}": ("attention_prefill_sm90", *bug, check_attention)
        for name, bug in ATTENTION_BUGS.items()
    },
}
KEPT = ("bf16_bf16_64", "bf16_64")


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(monkeypatch, name):
    if launching.is_gpu():
        pytest.skip("about the emulator")
    file, text, by, check = PLANTED[name]
    emulators = {seed: Emulator(seed=seed) for seed in SEEDS}
    for each in emulators.values():
        each.replace(file, text, by, keep=KEPT)
    monkeypatch.setattr(launching, "_emulators", emulators)
    with pytest.raises((AssertionError, KernelError)):
        check()


@pytest.mark.parametrize("check", [check_linear, check_attention])
def test_without_the_bug_the_same_check_passes(check):
    check()
