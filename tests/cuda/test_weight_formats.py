"""GPTQ, AWQ and fp8 checkpoints as the kernels' layouts, against their plain formulas."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.cuda.launching import assert_close, numbers
from tests.cuda.test_packed_weights import linear
from tests.cuda_emulator.numbers import to_bits, to_values

from inferlib.errors import ModelFormatError, UnsupportedModelError
from inferlib.executors.cuda_weights import pack_quantized
from inferlib.executors.fp8_weights import fp8_values, pack_fp8
from inferlib.executors.gptq_awq import read_awq, read_gptq

f32 = np.float32


def words(generator, *shape):
    return generator.integers(-(2**31), 2**31, shape).astype(np.int32)


def scales_of(generator, *shape):
    return (generator.standard_normal(shape) * 0.01).astype(np.float16)


def nibble(word, place):
    return int(np.uint32(word)) >> 4 * place & 15


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("n", "k", "group"), [(24, 256, 128), (8, 96, 32), (16, 192, 192)])
def test_gptq_values_are_those_of_its_formula(n, k, group, version):
    generator = np.random.default_rng(n)
    qweight, qzeros = words(generator, k // 8, n), words(generator, k // group, n // 8)
    scales = scales_of(generator, k // group, n)
    g_idx = (np.arange(k) // group).astype(np.int32)
    matrix = read_gptq(qweight, qzeros, scales, g_idx, version=version)
    values = matrix.values()
    for row in range(0, n, 3):
        for column in range(0, k, 7):
            code = nibble(qweight[column // 8, row], column % 8)
            zero = nibble(qzeros[column // group, row // 8], row % 8) + (version == 1)
            assert values[row, column] == f32(scales[column // group, row]) * (code - zero)


@pytest.mark.parametrize(("n", "k", "group"), [(24, 256, 128), (8, 96, 32)])
def test_awq_values_are_those_of_its_formula(n, k, group):
    generator = np.random.default_rng(n)
    qweight, qzeros = words(generator, k, n // 8), words(generator, k // group, n // 8)
    scales = scales_of(generator, k // group, n)
    values = read_awq(qweight, qzeros, scales).values()
    place = [0, 4, 1, 5, 2, 6, 3, 7]  # of a word's neighbour
    for row in range(n):
        for column in range(0, k, 5):
            code = nibble(qweight[column, row // 8], place[row % 8])
            zero = nibble(qzeros[column // group, row // 8], place[row % 8])
            assert values[row, column] == f32(scales[column // group, row]) * (code - zero)


@pytest.mark.parametrize("kernel", ["few", "many"])
@pytest.mark.parametrize("read", [read_gptq, read_awq])
def test_their_products(kernel, read):
    generator = np.random.default_rng(4)
    n, k = 40, 1056
    shape = (k // 8, n) if read is read_gptq else (k, n // 8)
    matrix = read(
        words(generator, *shape), words(generator, 11, n // 8), scales_of(generator, 11, n)
    )
    x = numbers(generator, (5, k), "bf16")
    out = linear(kernel, x, pack_quantized(matrix), None, "bf16", "bf16")
    assert_close(out, to_values(x) @ to_values(to_bits(matrix.values(), "bf16")).T, "bf16")


def test_columns_in_another_order_are_refused():
    generator = np.random.default_rng(0)
    qweight, qzeros, scales = (
        *(words(generator, 8, 8), words(generator, 2, 1)),
        scales_of(generator, 2, 8),
    )
    g_idx = (np.arange(64) % 2).astype(np.int32)
    with pytest.raises(UnsupportedModelError, match="desc_act"):
        read_gptq(qweight, qzeros, scales, g_idx)


@pytest.mark.parametrize(("groups", "zeros"), [(3, 3), (2, 1), (4, 4)])
def test_shapes_that_do_not_fit_are_refused(groups, zeros):
    generator = np.random.default_rng(0)
    with pytest.raises(ModelFormatError, match="multiples of 32"):
        read_awq(
            words(generator, 64, 1), words(generator, zeros, 1), scales_of(generator, groups, 8)
        )


@pytest.mark.parametrize(
    ("dtype", "oracle"), [("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)]
)
def test_numbers_of_8_bits(dtype, oracle):
    expected = np.arange(256, dtype=np.uint8).view(oracle).astype(f32)
    expected[np.isinf(expected)] = np.nan
    np.testing.assert_array_equal(fp8_values(dtype), expected)


def fp8_case(dtype, n, k, block):
    generator = np.random.default_rng(n + k)
    codes = generator.integers(0, 256, (n, k)).astype(np.uint8)
    codes[np.isnan(fp8_values(dtype)[codes])] = 1  # the smallest number
    if block is None:
        scales = np.abs(generator.standard_normal(n)).astype(f32)
        wide = scales[:, None]
    else:
        shape = (-(-n // block[0]), -(-k // block[1]))
        scales = np.abs(generator.standard_normal(shape)).astype(f32)
        wide = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[:n, :k]
    return codes, scales, fp8_values(dtype)[codes] * wide


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
@pytest.mark.parametrize("kernel", ["few", "many"])
@pytest.mark.parametrize("block", [None, (128, 128), (16, 64)])
def test_products_of_8_bits(dtype, kernel, block):
    codes, scales, values = fp8_case(dtype, 150, 672, block)
    x = numbers(np.random.default_rng(1), (7, 672), "bf16")
    matrix = pack_fp8(dtype, codes, scales, block=block)
    out = linear(kernel, x, matrix, None, "bf16", "bf16")
    assert_close(out, to_values(x) @ to_values(to_bits(values, "bf16")).T, "bf16")


def test_one_scale_of_a_whole_matrix_and_every_number():
    codes = np.resize(np.arange(127, dtype=np.uint8), (16, 128))
    codes[1::2] |= 0x80
    matrix = pack_fp8("e4m3", codes, np.array(0.5, f32))
    identity = to_bits(np.eye(128)[:8], "f16")
    for kernel in ("few", "many"):
        out = linear(kernel, identity, matrix, None, "f16", "f32")
        assert (out == 0.5 * fp8_values("e4m3")[codes].T[:8]).all()


@pytest.mark.parametrize(
    ("code", "scales", "block", "message"),
    [
        (0x7F, np.ones(1), None, "NaN"),
        (0xFF, np.ones(1), None, "NaN"),
        (0, np.ones(3), None, "neither one nor one a row"),
        (0, np.ones((1, 2)), (128, 128), "do not fit"),
        (0, np.ones((1, 8)), (128, 8), "do not fit"),
    ],
)
def test_what_is_no_matrix_of_8_bits_is_refused(code, scales, block, message):
    codes = np.full((4, 64), code, np.uint8)
    with pytest.raises(ModelFormatError, match=message):
        pack_fp8("e4m3", codes, scales, block=block)
