"""Parts of a matrix as a checkpoint stores them, and how neighbours are packed together.

A part is floats (float32, float16, or bf16 as uint16), integers with scales, or 8-bit floats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .cuda_weights import (
    QuantizedMatrix,
    own_panels,
    pack_float,
    pack_quantized,
    pack_stacked,
)
from .fp8_weights import Fp8Matrix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .cuda_weights import PackedMatrix

    Part: TypeAlias = "NDArray[Any] | QuantizedMatrix | Fp8Matrix"


def shape_of(part: Part) -> tuple[int, int]:
    """``(n, k)``."""
    shape = part.shape if isinstance(part, np.ndarray) else part.codes.shape
    return int(shape[0]), int(shape[1])


def rows_of(part: Part, order: NDArray[np.integer]) -> Part:
    """The same rows in another order."""
    return part[order] if isinstance(part, np.ndarray) else part.rows(order)


def is_float(part: Part) -> bool:
    """Whether its elements are floats of at least 16 bits."""
    return isinstance(part, np.ndarray)


def runs(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbours that can be packed as one."""
    run: list[Part] = []
    for part in parts:
        if run and _layout(run[-1]) != _layout(part):
            yield run
            run = []
        run.append(part)
    yield run


def _layout(part: Part) -> tuple[str, int]:
    if isinstance(part, np.ndarray):
        return "float", 0
    if isinstance(part, Fp8Matrix):
        return part.dtype, 0
    return "int8" if part.minimums is None else "int4", part.group


def pack(run: Sequence[Part], count: int | None = None) -> PackedMatrix:
    """Pack the rows of a run, floats of 16 bits among others.

    Args:
        run: As ``runs`` gives it.
        count: How many matrices of one shape the rows are, each packed from a panel of its own on;
            ``None``: they are one.

    Raises:
        ModelFormatError: An 8-bit float is NaN or infinite.
    """
    stacked = _stacked(run)
    if isinstance(stacked, Fp8Matrix):
        if count is None:
            return stacked.packed()
        panels = replace(stacked, codes=own_panels(stacked.codes, count))
        rows, k = stacked.codes.shape
        return replace(panels.packed(), shape=(rows // count, k))
    if count is not None:
        return pack_stacked(stacked, count)
    if isinstance(stacked, QuantizedMatrix):
        return pack_quantized(stacked)
    return pack_float(stacked)


def _stacked(run: Sequence[Part]) -> Part:
    floats = [part for part in run if isinstance(part, np.ndarray)]
    if floats:
        return np.concatenate(floats)
    if isinstance(run[0], Fp8Matrix):
        codes = np.concatenate([part.codes for part in run if isinstance(part, Fp8Matrix)])
        return replace(run[0], codes=codes)
    integers = [part for part in run if isinstance(part, QuantizedMatrix)]
    minimums = [part.minimums for part in integers if part.minimums is not None]
    return QuantizedMatrix(
        codes=np.concatenate([part.codes for part in integers]),
        scales=np.concatenate([part.scales for part in integers]),
        minimums=np.concatenate(minimums) if minimums else None,
    )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bf16 numbers, ties to even, as their bits."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)
