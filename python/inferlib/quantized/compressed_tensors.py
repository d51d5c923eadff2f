"""Folders of compressed-tensors: integers of 1 to 8 bits, packed or not, and 8-bit floats.

``value = (code - zero) * scale``, a scale per matrix, row, group of columns or block. Inputs, and
keys and values, are computed with as ``precision`` and ``kv_cache_dtype`` say, whatever the
checkpoint wants of them.

Source: compressed-tensors 0.17, ``compressors/{pack,naive}_quantized``, ``lifecycle/forward.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError, UnsupportedModelError
from .fp8 import FLOATS_OF_8_BITS
from .matrices import FloatMatrix, IntegerMatrix
from .stored import has, require, scales, unpack, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import Weights
    from .schemes import Scheme

COMPANIONS = (
    ".weight_packed",
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
    ".input_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
)
"""Endings of the tensors that belong to a matrix."""


def read_matrix(weights: Weights, prefix: str, scheme: Scheme) -> IntegerMatrix | FloatMatrix:
    """The matrix of a module.

    Raises:
        ModelFormatError: A tensor is missing, of the wrong type, or does not fit the others.
    """
    if scheme.kind == "float":
        return _read_floats(weights, prefix, scheme)
    name = f"{prefix}.weight"
    if scheme.packed:
        packed, shape = _packed(weights, prefix, scheme.bits)
    else:
        shape = _matrix_shape(weights, name, ("I8",))
    found = _scales(weights, prefix, scheme, shape)
    zeros = _zeros(weights, prefix, scheme, (shape[0], found.shape[1]))
    groups = _groups(weights, prefix, scheme, shape[1], found.shape[1])
    if scheme.packed:  # from 0 on: words hold the codes plus the middle
        return IntegerMatrix(
            name=name,
            shape=shape,
            bounds=(0, 2**scheme.bits - 1),
            codes=lambda: np.ascontiguousarray(unpack(packed, scheme.bits)[:, : shape[1]]),
            zeros=zeros + np.int16(2 ** (scheme.bits - 1)),
            scales=found,
            groups=groups,
        )
    return IntegerMatrix(
        name=name,
        shape=shape,
        bounds=(-128, 127),  # codes of fewer bits lie in bytes that may hold any
        codes=lambda: weights.raw(name).view(np.int8).reshape(shape),
        zeros=zeros,
        scales=found,
        groups=groups,
    )


def _read_floats(weights: Weights, prefix: str, scheme: Scheme) -> FloatMatrix:
    name = f"{prefix}.weight"
    shape = _matrix_shape(weights, name, FLOATS_OF_8_BITS)
    if scheme.strategy == "block":
        found = scales(weights, f"{prefix}.weight_scale")
        return FloatMatrix(name=name, weights=weights, scales=found, block=scheme.block)
    return FloatMatrix(name=name, weights=weights, scales=_scales(weights, prefix, scheme, shape))


def _matrix_shape(weights: Weights, name: str, types: tuple[str, ...]) -> tuple[int, int]:
    dtype, shape = require(weights, name)
    if dtype not in types:
        raise ModelFormatError(f"{name} is of type {dtype}, not {' or '.join(types)}")
    if len(shape) != 2:
        raise UnsupportedModelError(f"{name} has {len(shape)} dimensions; only matrices have two")
    return shape[0], shape[1]


def _packed(weights: Weights, prefix: str, bits: int) -> tuple[NDArray[np.uint32], tuple[int, int]]:
    """Words, ``[n, words]``, and the shape of the matrix without what fills the last word."""
    packed = words(weights, f"{prefix}.weight_packed")
    name = f"{prefix}.weight_shape"
    dtype, _ = require(weights, name)
    values = weights.array(name) if dtype in ("I32", "I64") else np.empty(0)
    shape = tuple(int(value) for value in values.reshape(-1))
    per_word = 32 // bits
    if len(shape) != 2 or packed.shape != (shape[0], -(-shape[1] // per_word)):
        raise ModelFormatError(
            f"{name} says {list(shape)}, which does not fit {list(packed.shape)} words of "
            f"{per_word} codes"
        )
    return packed, (shape[0], shape[1])


def _scales(
    weights: Weights, prefix: str, scheme: Scheme, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """``[1, 1]``, ``[n, 1]`` or ``[n, groups]``, as the strategy says."""
    name = f"{prefix}.weight_scale"
    found = scales(weights, name)
    n, k = shape
    expected = {"tensor": (1, 1), "channel": (n, 1)}.get(scheme.strategy)
    if expected is None:
        size = scheme.group_size or k
        expected = (n, -(-k // size))
        if k > size and k % size:
            raise ModelFormatError(f"{prefix}.weight has {k} columns: no whole groups of {size}")
    # A scale of all is stored with one dimension or none, those of rows with one or two.
    if found.ndim < 2:
        found = found.reshape(-1, 1)
    if found.shape != expected:
        raise ModelFormatError(
            f"{name} has shape {list(found.shape)}, not the {list(expected)} of a "
            f"{scheme.strategy} each"
        )
    return found


def _zeros(
    weights: Weights, prefix: str, scheme: Scheme, shape: tuple[int, int]
) -> NDArray[np.int16]:
    """``[n, groups]`` or ``[1, 1]``; 0 is the middle of the codes."""
    name = f"{prefix}.weight_zero_point"
    none = np.zeros((1, 1), np.int16)
    if not has(weights, name):
        if scheme.symmetric:
            return none
        raise ModelFormatError(f"{name} is missing")
    if scheme.packed and not scheme.symmetric and scheme.strategy in ("group", "channel"):
        per_word = 32 // scheme.bits
        packed = words(weights, name)
        if packed.shape != (-(-shape[0] // per_word), shape[1]):
            raise ModelFormatError(
                f"{name} has shape {list(packed.shape)}, which does not fit {list(shape)} scales"
            )
        codes = unpack(packed.T, scheme.bits)[:, : shape[0]].T
        return codes.astype(np.int16) - np.int16(2 ** (scheme.bits - 1))
    dtype, _ = weights.info(name)
    values = weights.array(name)
    if not (np.isfinite(values) & (np.abs(values) <= 128) & (values == np.rint(values))).all():
        raise ModelFormatError(f"{name} of type {dtype} has values that are no 8-bit integers")
    if scheme.symmetric:
        if values.any():
            raise ModelFormatError(f"{name} is not zero, but the scheme is symmetric")
        return none
    if values.ndim < 2:
        values = values.reshape(-1, 1)
    if values.shape not in (shape, (1, 1)):
        raise ModelFormatError(
            f"{name} has shape {list(values.shape)}, which does not fit {list(shape)} scales"
        )
    return values.astype(np.int16)


def _groups(
    weights: Weights, prefix: str, scheme: Scheme, columns: int, num_groups: int
) -> NDArray[np.int32] | None:
    """The group of each column, if they are no runs; -1 stands for runs."""
    name = f"{prefix}.weight_g_idx"
    if scheme.strategy != "group" or not has(weights, name):
        if scheme.act_order:
            raise ModelFormatError(f"{name} is missing")
        return None
    found = words(weights, name, dimensions=1).view(np.int32)
    if len(found) != columns:
        raise ModelFormatError(f"{name} has {len(found)} groups for {columns} columns")
    if (found == -1).any():
        return None
    if found.size and not 0 <= found.min() <= found.max() < num_groups:
        raise ModelFormatError(f"{name} names groups beyond the {num_groups} that there are")
    return found
