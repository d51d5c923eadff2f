"""Matrices of 8-bit floats, e4m3 and e5m2, for the kernels: their codes as they are stored.

Source: Micikevicius et al. 2022 (the formats); the block scales are those of DeepSeek-V3's
checkpoints (``weight_scale_inv``), the scales of a tensor or of a row those of compressed-tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ..errors import ModelFormatError
from .cuda_weights import PAIR_COLUMNS, PackedMatrix, pack_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Fp8: TypeAlias = Literal["e4m3", "e5m2"]
# The first magnitude that is infinity or NaN.
_NO_NUMBER = {"e4m3": 0x7F, "e5m2": 0x7C}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Matrix:
    """A matrix of 8-bit floats without scales.

    Attributes:
        dtype: Of the codes.
        codes: ``[n, k]``, the bits.
    """

    dtype: Fp8
    codes: NDArray[np.uint8]

    def values(self) -> NDArray[np.float32]:
        """The numbers, ``[n, k]``."""
        return fp8_values(self.dtype)[self.codes]

    def rows(self, order: NDArray[np.integer]) -> Fp8Matrix:
        """The same rows in another order."""
        return replace(self, codes=self.codes[order])

    def packed(self) -> PackedMatrix:
        """For the kernels.

        Raises:
            ModelFormatError: A code is NaN or infinite.
        """
        return pack_fp8(self.dtype, self.codes, np.ones(1, np.float32))


def refuse_no_numbers(name: str, dtype: Fp8, codes: NDArray[np.uint8]) -> None:
    """Kernels would read such codes as numbers.

    Raises:
        ModelFormatError: A code is NaN or infinite; the message begins with the name.
    """
    if (codes & 0x7F >= _NO_NUMBER[dtype]).any():
        raise ModelFormatError(f"{name} has weights that are NaN or infinite")


def pack_fp8(
    dtype: Fp8,
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    *,
    block: tuple[int, int] | None = None,
) -> PackedMatrix:
    """Pack a matrix ``value = scale * number``.

    Args:
        dtype: ``"e4m3"`` (the variant without infinities) or ``"e5m2"``.
        codes: ``[n, k]``, the bits; k is a multiple of 32.
        scales: One for all, ``[n]`` or ``[n, 1]`` for rows, ``[ceil(n / rows), ceil(k / columns)]``
            for blocks.
        block: Rows and columns of a block; ``None`` for one scale of all or of each row.

    Raises:
        ModelFormatError: A code is NaN or infinite, or the scales do not fit the codes.
    """
    n, k = codes.shape
    refuse_no_numbers(f"a matrix of {dtype}", dtype, codes)
    scales = np.asarray(scales, np.float32)
    if block is None:
        if scales.size not in (1, n):
            raise ModelFormatError(f"{scales.size} scales for {n} rows: neither one nor one a row")
        return pack_bytes(dtype, codes, np.broadcast_to(scales.reshape(-1, 1), (n, 1)))
    rows, columns = block
    if columns % PAIR_COLUMNS or scales.shape != (-(-n // rows), -(-k // columns)):
        raise ModelFormatError(
            f"scales {scales.shape} of blocks {block} do not fit a matrix {codes.shape}"
        )
    of_rows = np.repeat(scales, rows, axis=0)[:n]
    if k % columns:  # the last block is cut off: groups that divide the row
        of_rows = np.repeat(of_rows, columns // PAIR_COLUMNS, axis=1)[:, : k // PAIR_COLUMNS]
    return pack_bytes(dtype, codes, of_rows)


def fp8_values(dtype: Fp8) -> NDArray[np.float32]:
    """The number of each of the 256 codes."""
    exponent_bits = 4 if dtype == "e4m3" else 5
    mantissa_bits, bias = 7 - exponent_bits, 2 ** (exponent_bits - 1) - 1
    codes = np.arange(256)
    exponent, mantissa = (codes & 0x7F) >> mantissa_bits, codes & (2**mantissa_bits - 1)
    steps = np.where(exponent == 0, mantissa, mantissa + 2**mantissa_bits)
    values = np.ldexp(steps.astype(np.float32), np.maximum(exponent, 1) - bias - mantissa_bits)
    values = np.where(codes & 0x80, -values, values)
    return np.where((codes & 0x7F) >= _NO_NUMBER[dtype], np.nan, values).astype(np.float32)
