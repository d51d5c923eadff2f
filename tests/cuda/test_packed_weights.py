"""GGUF blocks as codes and scales, and the packed linear kernels against float64."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.launching import DTYPES, Out, assert_close, numbers, run
from tests.cuda_emulator.numbers import to_bits, to_values

from inferlib._core import dequantize
from inferlib.executors.cuda_weights import QuantizedMatrix, pack_float, pack_quantized
from inferlib.executors.fp8_weights import fp8_values, pack_fp8
from inferlib.executors.gguf_blocks import READABLE, read_blocks

i32, f32 = np.int32, np.float32
BLOCK_BYTES = {
    "Q4_0": (18, 32),
    "Q4_1": (20, 32),
    "Q5_0": (22, 32),
    "Q8_0": (34, 32),
    "Q4_K": (144, 256),
    "Q6_K": (210, 256),
}
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}


def random_blocks(dtype, n, k, seed=0):
    """Random bytes, but sensible scales."""
    generator = np.random.default_rng(seed)
    num_bytes, size = BLOCK_BYTES[dtype]
    blocks = generator.integers(0, 256, (n * (k // size), num_bytes), np.uint8)
    for start in HALVES[dtype]:
        scales = (generator.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, start : start + 2] = scales[:, None].view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("dtype", sorted(BLOCK_BYTES))
def test_codes_and_scales_are_those_of_the_file(dtype):
    assert BLOCK_BYTES.keys() == READABLE
    raw = random_blocks(dtype, 5, 512)
    matrix = read_blocks(dtype, raw, (5, 512))
    expected = dequantize(dtype, raw).reshape(5, 512)
    assert matrix.group == (16 if dtype == "Q6_K" else 32)
    np.testing.assert_allclose(matrix.values(), expected, rtol=2e-6, atol=2e-7)


def weights(layout, kind, n, k):
    """A packed matrix and its values as the kernels round them."""
    generator = np.random.default_rng(n + k)
    if layout == "float":
        values = numbers(generator, (n, k), kind)
        return pack_float(values), to_values(values)
    group = 16 if layout == "int8-16" else 32
    is_int4 = layout == "int4"
    low, high = (0, 16) if is_int4 else (-128, 128)
    scales = (generator.standard_normal((n, k // group)) / (8 if is_int4 else 64)).astype(f32)
    minimums = generator.standard_normal((n, k // group)).astype(f32) if is_int4 else None
    codes = generator.integers(low, high, (n, k)).astype(np.int8)
    matrix = QuantizedMatrix(codes=codes, scales=scales, minimums=minimums)
    return pack_quantized(matrix), to_values(to_bits(matrix.values(), kind))


def linear(kernel, x, matrix, bias, kind, out_kind, seeds=None):
    rows, k = x.shape
    n = matrix.shape[0]
    weight = kind if matrix.layout == "float" else matrix.layout
    few = kernel == "few"
    arguments = [
        *(Out((rows, n), DTYPES[out_kind]), x, matrix.codes, matrix.scales, bias),
        *(i32(rows), i32(n), i32(k), i32(matrix.group), i32(n)),
    ]
    (out,) = run(
        f"linear_{kernel}_{kind}_{weight}_{out_kind}",
        (-(-n // 16),) if few else (-(-n // 128), -(-rows // 64)),
        128,
        arguments,
        shared_bytes=-(-k // 512) * 512 if few else 0,
        **({} if seeds is None else {"seeds": seeds}),
    )
    return out


LAYOUTS = ["float", "int8-16", "int8-32", "int4"]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", ["few", "many"])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 32), (5, 23, 96), (8, 33, 1056)])
def test_linear(kind, layout, kernel, rows, n, k):
    x = numbers(np.random.default_rng(rows), (rows, k), kind)
    matrix, values = weights(layout, kind, n, k)
    bias = np.linspace(-1, 1, n).astype(f32) if rows == 5 else None
    expected = to_values(x) @ values.T + (0 if bias is None else bias)
    for out_kind in (kind, "f32"):
        out = linear(kernel, x, matrix, bias, kind, out_kind)
        assert_close(out, expected, out_kind, factor=1 if out_kind == kind else 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_of_many_rows(layout):
    x = numbers(np.random.default_rng(0), (67, 160), "bf16")
    matrix, values = weights(layout, "bf16", 150, 160)
    out = linear("many", x, matrix, None, "bf16", "bf16", seeds=(0, 3))
    assert_close(out, to_values(x) @ values.T, "bf16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_has_the_same_bits_from_both_kernels_and_among_any_number_of_rows(layout):
    k = 1120
    x = numbers(np.random.default_rng(0), (66, k), "bf16")
    matrix, _ = weights(layout, "bf16", 40, k)
    together = linear("many", x, matrix, None, "bf16", "f32", seeds=(0,))
    for first, rows in ((0, 1), (3, 3), (58, 8), (65, 1)):
        part = x[first : first + rows].copy()
        for kernel in ("few", "many"):
            alone = linear(kernel, part, matrix, None, "bf16", "f32", seeds=(0, 1))
            assert alone.tobytes() == together[first : first + rows].tobytes()


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("layout", ["float", "int8-16", "int8-32", "int4", "e4m3"])
def test_rows_that_are_looked_up_are_those_of_the_unpacked_matrix(layout, kind):
    n, k = 37, 544
    matrix, values = fp8_matrix(kind, n, k) if layout == "e4m3" else weights(layout, kind, n, k)
    token_ids = np.array([0, 36, 7, 8, 15, 16, 16, 31, 32], np.int32)
    weight = kind if layout == "float" else matrix.layout
    for scale in (1.0, 22.6):
        (found,) = run(
            f"embedding_packed_{kind}_{weight}",
            (len(token_ids),),
            128,
            [
                *(Out((len(token_ids), k), DTYPES[kind]), matrix.codes, matrix.scales, token_ids),
                *(i32(k), i32(matrix.group), f32(scale)),
            ],
            seeds=(0, 1),
        )
        (expected,) = run(
            f"embedding_{kind}_{kind}",
            (len(token_ids),),
            128,
            [
                *(Out((len(token_ids), k), DTYPES[kind]), to_bits(values, kind), token_ids),
                *(i32(k), f32(scale)),
            ],
            seeds=(0,),
        )
        assert found.tobytes() == expected.tobytes()


def fp8_matrix(kind, n, k):
    """8-bit floats, and their values as the kernels round them."""
    generator = np.random.default_rng(4)
    codes = generator.integers(0, 0x7F, (n, k)).astype(np.uint8)
    codes |= generator.integers(0, 2, (n, k)).astype(np.uint8) << 7
    scales = generator.uniform(0.01, 0.02, n).astype(f32)
    values = fp8_values("e4m3")[codes] * scales[:, None]
    return pack_fp8("e4m3", codes, scales), to_values(to_bits(values, kind))
