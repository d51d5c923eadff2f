"""Quantized blocks of GGUF files as codes and scales, without touching a code.

Source: ggml's ``ggml-common.h`` (structures) and ``ggml-quants.c`` (meaning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cuda_weights import QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Blocks = NDArray[np.uint8]


def read_blocks(dtype: str, raw: NDArray[np.uint8], shape: tuple[int, int]) -> QuantizedMatrix:
    """Codes and scales of a tensor ``[n, k]`` of type ``dtype``, one of ``READABLE``."""
    n, k = shape
    num_bytes, size, read = _TYPES[dtype]
    blocks = raw.reshape(n * (k // size), num_bytes)
    codes, scales, minimums = read(blocks)
    return QuantizedMatrix(
        codes=codes.reshape(n, k),
        scales=scales.reshape(n, -1),
        minimums=None if minimums is None else minimums.reshape(n, -1),
    )


def _half(blocks: Blocks, start: int) -> NDArray[np.float32]:
    """A float16 of each block, ``[blocks, 1]``."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Blocks) -> NDArray[np.int8]:
    """Low halves of all bytes, then high halves, along the last axis."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int8)


_Parts = tuple["NDArray[np.int8]", "NDArray[np.float32]", "NDArray[np.float32] | None"]


def _q4_0(blocks: Blocks) -> _Parts:
    scale = _half(blocks, 0)
    return _nibbles(blocks[:, 2:]), scale, scale * -8


def _q4_1(blocks: Blocks) -> _Parts:
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Blocks) -> _Parts:
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little").astype(np.int8)
    return (_nibbles(blocks[:, 6:]) | high << 4) - np.int8(16), _half(blocks, 0), None


def _q8_0(blocks: Blocks) -> _Parts:
    return blocks[:, 2:].view(np.int8), _half(blocks, 0), None


def _q4_k(blocks: Blocks) -> _Parts:
    packed = blocks[:, 4:16]
    low, high, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([low & 63, mixed & 15 | low >> 6 << 4], axis=1)
    minimums = np.concatenate([high & 63, mixed >> 4 | high >> 6 << 4], axis=1)
    codes = _nibbles(blocks[:, 16:].reshape(-1, 4, 32))
    return codes, _half(blocks, 0) * scales, -_half(blocks, 2) * minimums


def _q6_k(blocks: Blocks) -> _Parts:
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = (nibbles | (high >> shifts & 3) << 4).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return codes, _half(blocks, 208) * scales, None


# Bytes and values per block.
_TYPES: dict[str, tuple[int, int, Callable[[Blocks], _Parts]]] = {
    "Q4_0": (18, 32, _q4_0),
    "Q4_1": (20, 32, _q4_1),
    "Q5_0": (22, 32, _q5_0),
    "Q8_0": (34, 32, _q8_0),
    "Q4_K": (144, 256, _q4_k),
    "Q6_K": (210, 256, _q6_k),
}

READABLE = frozenset(_TYPES)
"""Types that ``read_blocks`` knows."""
