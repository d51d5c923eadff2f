"""Small readers of a checkpoint's tensors that say what is wrong with one by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import Weights

_FLOATS = ("F32", "F16", "BF16")


def require(weights: Weights, name: str) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor.

    Raises:
        ModelFormatError: There is none.
    """
    try:
        return weights.info(name)
    except KeyError:
        raise ModelFormatError(f"{name} is missing") from None


def has(weights: Weights, name: str) -> bool:
    """Whether there is such a tensor (`names` would be made anew for each question)."""
    try:
        weights.info(name)
    except KeyError:
        return False
    return True


def words(weights: Weights, name: str, dimensions: int = 2) -> NDArray[np.uint32]:
    """A tensor of 32-bit integers, as their bits.

    Raises:
        ModelFormatError: It is missing, of another type or of another number of dimensions.
    """
    dtype, shape = require(weights, name)
    if dtype != "I32":
        raise ModelFormatError(f"{name} is of type {dtype}, not I32")
    if len(shape) != dimensions:
        raise ModelFormatError(f"{name} has {len(shape)} dimensions, not {dimensions}")
    return weights.raw(name).view(np.uint32).reshape(shape)


def scales(weights: Weights, name: str) -> NDArray[np.float32]:
    """A tensor of floats.

    Raises:
        ModelFormatError: It is missing or of another type.
    """
    dtype, _ = require(weights, name)
    if dtype not in _FLOATS:
        raise ModelFormatError(f"{name} is of type {dtype}, not of floats")
    return weights.array(name)


def unpack(packed: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """``[…, words]`` → ``[…, 32 // bits * words]`` codes, the lowest bits first."""
    if bits == 8:
        return np.ascontiguousarray(packed).astype("<u4", copy=False).view(np.uint8)
    count, mask = 32 // bits, 2**bits - 1
    found = np.empty((*packed.shape, count), np.uint8)
    for place in range(count):
        found[..., place] = packed >> np.uint32(bits * place) & np.uint32(mask)
    return found.reshape(*packed.shape[:-1], -1)
