"""Folders of 8-bit floats with scales of blocks, as DeepSeek 3 and Qwen 3 are published.

``quant_method`` is ``"fp8"``: ``weight * weight_scale_inv``, a scale per block of
``weight_block_size`` rows and columns, or, without that, one per matrix or row (``weight_scale``).
The scales of inputs are left out: inputs are computed with as ``precision`` says.

Source: Transformers' ``finegrained_fp8.py``; DeepSeek-V3's ``README_WEIGHTS.md``; vLLM's
``fp8.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ModelFormatError
from .matrices import FloatMatrix
from .stored import has, require, scales

if TYPE_CHECKING:
    from .._core import Weights
    from ..architectures import Fields

COMPANIONS = (".weight_scale_inv", ".weight_scale", ".input_scale", ".activation_scale")
"""Endings of the tensors that belong to a matrix."""
_SCALES = (".weight_scale_inv", ".weight_scale")
FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2")


def block_size(quantization: Fields) -> tuple[int, int] | None:
    """``weight_block_size``: rows and columns that share a scale, if there are blocks.

    Raises:
        ModelFormatError: It is no pair of positive integers.
    """
    return positive_pair(quantization, "weight_block_size")


def positive_pair(fields: Fields, key: str) -> tuple[int, int] | None:
    """Two positive integers, or ``None`` if the key is absent.

    Raises:
        ModelFormatError: They are something else.
    """
    found = fields.whole_numbers(key)
    if found is None:
        return None
    if len(found) != 2 or min(found) < 1 or max(found) >= 2**31:
        raise fields.invalid(key, "two positive integers", found)
    return found[0], found[1]


def read_fp8(weights: Weights, prefix: str, block: tuple[int, int] | None) -> FloatMatrix:
    """The matrix of a prefix.

    Raises:
        ModelFormatError: Its scale is missing, or its weight not of 8-bit floats.
    """
    name = f"{prefix}.weight"
    dtype, _ = require(weights, name)
    if dtype not in FLOATS_OF_8_BITS:
        raise ModelFormatError(f"{name} has scales but is of type {dtype}, not of 8-bit floats")
    scale = next((prefix + ending for ending in _SCALES if has(weights, prefix + ending)), None)
    if scale is None:
        wanted = _SCALES[0] if block is not None else _SCALES[1]
        raise ModelFormatError(f"{prefix}{wanted} is missing")
    found = scales(weights, scale)
    if block is None and found.ndim < 2:
        found = found.reshape(-1, 1)
    return FloatMatrix(name=name, weights=weights, scales=found, block=block)
