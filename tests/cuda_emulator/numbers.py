"""bf16 as the 16 bits that kernels see, in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_bits(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """Round to ``"f32"``, ``"f16"`` or ``"bf16"`` (ties to even); bf16 is returned as uint16."""
    values = np.asarray(values, np.float32)
    if kind == "f32":
        return values
    if kind == "f16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def to_values(stored: NDArray[Any]) -> NDArray[np.float64]:
    """Values of an array of float32, float16 or bf16 bits."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)
