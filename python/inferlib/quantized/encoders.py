"""Float matrices as GGUF's blocks of 32, by ggml's reference formulas.

Source: ggml's ``ggml-quants.c``, ``quantize_row_{q4_0,q4_1,q5_0,q5_1,q8_0}_ref``, multiplications
and additions rounded one by one in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError
from .blocks import BLOCK, CODE_BITS, block_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    _Floats = NDArray[np.float32]
    # Codes, halves, and the numbers that they stand for.
    _Encoded = tuple[NDArray[np.uint8], tuple[NDArray[np.float16], ...], _Floats]

_CHUNK = 2048
"""Blocks at a time: what is computed on the way stays in the cache."""


def encode(dtype: str, values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, float]:
    """Quantize numbers, a multiple of 32 of them to a row.

    Args:
        dtype: ``"Q4_0"``, ``"Q4_1"``, ``"Q5_0"``, ``"Q5_1"`` or ``"Q8_0"``.
        values: Any shape whose last dimension is a multiple of 32.

    Returns:
        The blocks' bytes, flat; the sum of the squares of the numbers; and that of their errors.

    Raises:
        ModelFormatError: A number is NaN, infinite, or so large that float16 has no scale for it.
    """
    blocks = np.ascontiguousarray(values).reshape(-1, BLOCK)
    parts, squares, errors = [], 0.0, 0.0
    for first in range(0, len(blocks), _CHUNK):
        # Block beside block: what is found of each block is found of many at once.
        chunk = np.ascontiguousarray(blocks[first : first + _CHUNK].T)
        with np.errstate(all="ignore"):
            codes, halves, restored = _ENCODERS[dtype](chunk, CODE_BITS[dtype])
        if not all(np.isfinite(half).all() for half in halves):
            raise ModelFormatError(f"numbers that {dtype} cannot hold: NaN, infinite or too large")
        restored -= chunk
        squares += float(np.vdot(chunk, chunk))
        errors += float(np.vdot(restored, restored))
        parts.append(block_bytes(dtype, np.ascontiguousarray(codes.T), *halves))
    return np.concatenate(parts or [np.empty((0, 0), np.uint8)]).reshape(-1), squares, errors


TYPE_OF_ROWS = "Q8_0"
"""What holds rows of 8 bits: every block of a row repeats its scale."""


def encode_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, float]:
    """Quantize the rows of a matrix to 8 bits with one scale each, ``max|x| / 127``.

    The scale is the next float16 above, so that no code exceeds 127.

    Args:
        values: ``[rows, columns]``, columns a multiple of 32.

    Returns:
        As ``encode``, blocks of ``TYPE_OF_ROWS``.

    Raises:
        ModelFormatError: As ``encode``.
    """
    parts, squares, errors = [], 0.0, 0.0
    rows_per_chunk = max(1, _CHUNK * BLOCK // max(1, values.shape[1]))
    for first in range(0, len(values), rows_per_chunk):
        chunk = np.ascontiguousarray(values[first : first + rows_per_chunk])
        with np.errstate(all="ignore"):
            exact = np.abs(chunk).max(axis=1) / np.float32(127)
            half = exact.astype(np.float16)
            half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
            scale = half.astype(np.float32)[:, None]
            codes = np.rint(chunk * _inverse(scale)).astype(np.int8)
        if not np.isfinite(half).all():
            raise ModelFormatError("numbers that INT8 cannot hold: NaN, infinite or too large")
        restored = codes * scale
        restored -= chunk
        squares += float(np.vdot(chunk, chunk))
        errors += float(np.vdot(restored, restored))
        halves = np.repeat(half, chunk.shape[1] // BLOCK)
        parts.append(block_bytes(TYPE_OF_ROWS, codes.reshape(-1, BLOCK), halves))
    return np.concatenate(parts or [np.empty((0, 0), np.uint8)]).reshape(-1), squares, errors


def _from_largest(blocks: _Floats, bits: int) -> _Encoded:
    """``Q4_0`` and ``Q5_0``: the number of largest magnitude becomes the least code."""
    zero = 2 ** (bits - 1)
    most, least = blocks.max(axis=0), blocks.min(axis=0)
    largest = np.where(most > -least, most, least)
    ties = np.flatnonzero(most == -least)  # then it is the first of them
    if ties.size:
        tied = blocks[:, ties]
        largest[ties] = tied[np.abs(tied).argmax(axis=0), np.arange(ties.size)]
    scale = largest / np.float32(-zero)
    codes = _codes(blocks * _inverse(scale), zero + 0.5, bits)
    half = scale.astype(np.float16)
    restored = codes.astype(np.float32)
    restored -= np.float32(zero)
    restored *= half.astype(np.float32)
    return codes, (half,), restored


def _from_least(blocks: _Floats, bits: int) -> _Encoded:
    """``Q4_1`` and ``Q5_1``: the least number becomes 0, the largest the largest code."""
    least = blocks.min(axis=0)
    scale = (blocks.max(axis=0) - least) / np.float32(2**bits - 1)
    scaled = blocks - least
    scaled *= _inverse(scale)
    codes = _codes(scaled, 0.5, bits)
    halves = scale.astype(np.float16), least.astype(np.float16)
    restored = codes.astype(np.float32)
    restored *= halves[0].astype(np.float32)
    restored += halves[1].astype(np.float32)
    return codes, halves, restored


def _signed(blocks: _Floats, bits: int) -> _Encoded:
    """``Q8_0``: the largest magnitude becomes 127; halves are rounded away from zero."""
    largest = np.abs(np.maximum(blocks.max(axis=0), -blocks.min(axis=0)))  # no -0
    scale = largest / np.float32(2 ** (bits - 1) - 1)
    scaled = blocks * _inverse(scale)
    scaled += np.copysign(np.float32(0.5), scaled)
    codes = scaled.astype(np.int8)  # towards zero
    half = scale.astype(np.float16)
    restored = codes.astype(np.float32)
    restored *= half.astype(np.float32)
    return codes.view(np.uint8), (half,), restored


def _inverse(scale: _Floats) -> _Floats:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _codes(scaled: _Floats, offset: float, bits: int) -> NDArray[np.uint8]:
    """Down to integers; of the numbers at a block's end one may come out as one too many."""
    scaled += np.float32(offset)
    np.minimum(scaled, np.float32(2**bits - 1), out=scaled)
    return scaled.astype(np.uint8)


_ENCODERS: dict[str, Callable[[NDArray[np.float32], int], _Encoded]] = {
    "Q4_0": _from_largest,
    "Q4_1": _from_least,
    "Q5_0": _from_largest,
    "Q5_1": _from_least,
    "Q8_0": _signed,
}
