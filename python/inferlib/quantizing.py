"""Quantize the matrices of a full-precision checkpoint while it is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._core import Weights
from .errors import UnsupportedModelError
from .gguf_bytes import TYPE_NUMBERS, gguf_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

_logger = logging.getLogger(__package__)

_BLOCK = 32
_FLOATS = ("F32", "F16", "BF16")


def quantize_matrices(
    weights: Weights, names: Collection[str], *, used: Collection[str]
) -> Weights:
    """The same checkpoint with ``Q8_0`` in the place of float matrices.

    Args:
        weights: Of a folder.
        names: The tensors to quantize. Those whose columns are no multiple of 32 stay as they are.
        used: All that the model reads; others are left out.

    Raises:
        UnsupportedModelError: A tensor is of a type that cannot stand beside them.
    """
    tensors: list[tuple[str, str, tuple[int, ...], NDArray[np.uint8]]] = []
    squares = errors = 0.0
    count = 0
    for name in weights.names:
        if name not in used:
            continue
        dtype, shape = weights.info(name)
        if name in names and dtype in _FLOATS and len(shape) == 2 and shape[1] % _BLOCK == 0:
            values = weights.array(name)
            blocks, restored = q8_0(values)
            squares += float(np.sum(values * values, dtype=np.float64))
            errors += float(np.sum((values - restored) ** 2, dtype=np.float64))
            count += 1
            tensors.append((name, "Q8_0", shape, blocks))
        elif dtype in TYPE_NUMBERS:
            tensors.append((name, dtype, shape, weights.raw(name)))
        else:
            raise UnsupportedModelError(
                f"{name} is of type {dtype}, which cannot be kept beside quantized matrices",
                hint="load the checkpoint without quantize",
            )
    source = Path(weights.files[0])
    share = (errors / squares) ** 0.5 if squares else 0.0
    _logger.info(
        "%s: %d matrices quantized to Q8_0, which changes them by %.2f %% (root mean square)",
        source.parent.name,
        count,
        100 * share,
    )
    # Not the name of a file: whoever remembers what a file holds must not take this for it.
    return Weights.from_bytes(source.with_suffix(".quantized.gguf"), gguf_bytes(tensors))


def q8_0(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize rows of a multiple of 32 columns.

    Returns:
        Blocks of 34 bytes, flat: a float16 scale and 32 int8 codes; and the values that they stand
        for.

    Source: llama.cpp's ``quantize_row_q8_0``: the largest of a block becomes 127, halves are
    rounded away from zero.
    """
    blocks = values.reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), 1 / scale)
    scaled = blocks * inverse
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    half = scale.astype(np.float16)
    restored = (codes * half.astype(np.float32)).reshape(values.shape)
    data = np.concatenate([half.view(np.uint8), codes.view(np.uint8)], axis=1)
    return data.reshape(-1), restored
