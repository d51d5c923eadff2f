"""Every tensor type as float32, bit for bit what the ``gguf`` and ``ml_dtypes`` packages give."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlib import _core

BLOCK_TYPES = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
]
NUMPY_TYPES = {
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "F16": np.float16,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def block_bytes(name: str) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]


def expected(name: str, data: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        values = gguf.dequantize(data, GGMLQuantizationType[name])
    return np.ascontiguousarray(values, dtype=np.float32).ravel()


def assert_same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bit by bit; a NaN (from an infinite scale) equals any NaN."""
    assert found.dtype == wanted.dtype == np.float32
    assert found.shape == wanted.shape
    both_nan = np.isnan(found) & np.isnan(wanted)
    differs = (found.view(np.uint32) != wanted.view(np.uint32)) & ~both_nan
    assert not differs.any(), (np.flatnonzero(differs)[:10], found[differs], wanted[differs])


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_random_blocks_are_what_gguf_gives(name: str) -> None:
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, 2048 * block_bytes(name), dtype=np.uint8)
    assert_same_bits(_core.dequantize(name, data), expected(name, data))


@pytest.mark.parametrize("name", BLOCK_TYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_blocks_are_what_gguf_gives(name: str, data: st.DataObject) -> None:
    size = block_bytes(name) * data.draw(st.integers(1, 3))
    blocks = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype=np.uint8)
    assert_same_bits(_core.dequantize(name, blocks), expected(name, blocks))


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF, 0x3C])
def test_blocks_of_one_byte_repeated_are_what_gguf_gives(name: str, byte: int) -> None:
    data = np.full(2 * block_bytes(name), byte, dtype=np.uint8)
    assert_same_bits(_core.dequantize(name, data), expected(name, data))


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_quantized_normal_numbers_are_what_gguf_gives(name: str) -> None:
    values = np.random.default_rng(3).normal(size=(64, 512)).astype(np.float32) * 0.02
    data = gguf.quantize(values, GGMLQuantizationType[name]).view(np.uint8).ravel()
    found = _core.dequantize(name, data)
    assert_same_bits(found, expected(name, data))
    assert np.abs(found - values.ravel()).max() < 0.02


@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_single_numbers_are_what_numpy_gives(name: str) -> None:
    dtype = np.dtype(NUMPY_TYPES[name])
    # All values of the narrow types, many of the wide ones.
    count = 256 if dtype.itemsize == 1 else 65_536
    low = np.arange(count, dtype=np.uint64)
    high = np.random.default_rng(5).integers(0, 2**63, count, dtype=np.uint64)
    bits = (low if dtype.itemsize <= 2 else high).astype(f"<u{dtype.itemsize}")
    with np.errstate(all="ignore"):
        wanted = bits.view(dtype).astype(np.float32)
    assert_same_bits(_core.dequantize(name, bits.view(np.uint8)), wanted)


def test_truth_values_are_zero_and_one() -> None:
    data = np.array([0, 1, 2, 255], dtype=np.uint8)
    np.testing.assert_array_equal(_core.dequantize("BOOL", data), [0, 1, 1, 1])
