"""GPTQ and AWQ matrices as codes, scales and minimums, without touching a code.

Both store ``value = (code - zero) * scale``, packed along different axes. The products of a float16
scale with integers of 5 bits are exact in float32, so ``scale * code + minimum`` is that value.

Source: AutoGPTQ's ``qlinear_cuda_old.py`` and GPTQModel's ``gptq_v2``; AutoAWQ's
``packing_utils.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError, UnsupportedModelError
from .cuda_weights import PAIR_COLUMNS, QuantizedMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PER_WORD = 8
# Which of eight neighbours the nibbles of an AWQ word hold.
_AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])


def read_gptq(
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32],
    scales: NDArray[np.float16],
    g_idx: NDArray[np.int32] | None = None,
    *,
    version: int = 1,
) -> QuantizedMatrix:
    """A matrix ``[n, k]`` of GPTQ with 4 bits.

    Args:
        qweight: ``[k / 8, n]``, eight neighbours in k a word, the first in the lowest bits.
        qzeros: ``[groups, n / 8]``, eight neighbours in n a word.
        scales: ``[groups, n]``.
        g_idx: ``[k]``, the group of each column; ``None`` means ascending.
        version: 1 stores zeros minus one, 2 as they are (``checkpoint_format``).

    Raises:
        ModelFormatError: The shapes do not fit each other.
        UnsupportedModelError: Columns were quantized in another order (``desc_act``), so that the
            32 columns of a kernel's group have several scales.
    """
    codes = _unpacked(qweight.T)
    k = codes.shape[1]
    group = _group(k, scales, qzeros, codes.shape[0])
    if g_idx is not None and not np.array_equal(g_idx, np.arange(k) // group):
        raise UnsupportedModelError(
            "a GPTQ matrix with desc_act=True: its groups are not runs of columns",
            hint="give a checkpoint that was quantized with desc_act=False",
        )
    zeros = _unpacked(qzeros) + (1 if version == 1 else 0)
    return _matrix(codes, zeros, scales, group)


def read_awq(
    qweight: NDArray[np.int32], qzeros: NDArray[np.int32], scales: NDArray[np.float16]
) -> QuantizedMatrix:
    """A matrix ``[n, k]`` of AWQ with 4 bits (``gemm`` version).

    Args:
        qweight: ``[k, n / 8]``, eight neighbours in n a word, in the order 0 2 4 6 1 3 5 7.
        qzeros: ``[groups, n / 8]``, likewise.
        scales: ``[groups, n]``.

    Raises:
        ModelFormatError: The shapes do not fit each other.
    """
    codes = _in_awq_order(qweight).T
    group = _group(codes.shape[1], scales, qzeros, codes.shape[0])
    return _matrix(codes, _in_awq_order(qzeros), scales, group)


def _unpacked(words: NDArray[np.int32]) -> NDArray[np.int8]:
    """``[…, words]`` → ``[…, 8 * words]``, the lowest bits first."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    nibbles = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts & 15
    return nibbles.reshape(*words.shape[:-1], -1).astype(np.int8)


def _in_awq_order(words: NDArray[np.int32]) -> NDArray[np.int8]:
    nibbles = _unpacked(words).reshape(*words.shape, _PER_WORD)
    ordered = np.empty_like(nibbles)
    ordered[..., _AWQ_ORDER] = nibbles
    return ordered.reshape(*words.shape[:-1], -1)


def _group(k: int, scales: NDArray[np.float16], qzeros: NDArray[np.int32], n: int) -> int:
    groups = len(scales)
    group = k // groups if groups else 0
    fits = scales.shape == (groups, n) and qzeros.shape == (groups, n // _PER_WORD)
    if not group or k % groups or group % PAIR_COLUMNS or not fits:
        raise ModelFormatError(
            f"a matrix [{n}, {k}] with scales {scales.shape} and zeros {qzeros.shape}; groups are "
            f"multiples of {PAIR_COLUMNS} columns"
        )
    return group


def _matrix(
    codes: NDArray[np.int8], zeros: NDArray[np.int8], scales: NDArray[np.float16], group: int
) -> QuantizedMatrix:
    """With the scales of groups repeated for every 32 columns."""
    times = group // PAIR_COLUMNS
    wide = scales.T.astype(np.float32)
    return QuantizedMatrix(
        codes=np.ascontiguousarray(codes),
        scales=np.repeat(wide, times, axis=1),
        minimums=np.repeat(-wide * zeros.T, times, axis=1),
    )
