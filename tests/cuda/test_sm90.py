"""Kernels of sm_90a: against float64, against mma.sync's bits, and with mistakes planted."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda import launching
from tests.cuda.launching import DTYPES, SEEDS, Out, assert_close, numbers, run
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator import Emulator, KernelError
from tests.cuda_emulator.numbers import to_values

from inferlib.executors.cuda_sm90 import LINEAR_TILES, ONLY_FOR, architecture_of, linear_tile
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


def test_files_and_their_architectures():
    assert set(ONLY_FOR) == {"linear_sm90"}
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


PLANTED = {
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
    "outputs are read before they are staged": ("  }\n  sync_threads(1, CONSUMERS);\n", "  }\n"),
    "half of the weight's rows": ("warp / 4 * 64 * CHUNK_BYTES", "warp / 4 * 32 * CHUNK_BYTES"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(monkeypatch, name):
    text, by = PLANTED[name]
    emulators = {seed: Emulator(seed=seed) for seed in SEEDS}
    for each in emulators.values():
        each.replace("linear_sm90", text, by, keep=("bf16_bf16_64",))
    monkeypatch.setattr(launching, "_emulators", emulators)
    with pytest.raises((AssertionError, KernelError)):
        check_linear()


def test_without_the_bug_the_same_check_passes():
    check_linear()
