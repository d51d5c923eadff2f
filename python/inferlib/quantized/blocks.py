"""The bytes of GGUF's blocks of 32 numbers.

Source: ggml's ``ggml-common.h`` (``block_q4_0`` and its neighbours).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32
"""Numbers of a block."""
CODE_BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8}


def block_bytes(
    dtype: str, codes: NDArray[np.uint8] | NDArray[np.int8], *halves: NDArray[np.float16]
) -> NDArray[np.uint8]:
    """Put blocks together.

    Args:
        dtype: A key of ``CODE_BITS``.
        codes: ``[blocks, 32]``: from 0 on, those of ``Q8_0`` the bits of int8.
        *halves: Scales, then minimums where the type has them: ``[blocks]`` or ``[blocks, 1]``.

    Returns:
        ``[blocks, bytes of a block]``.
    """
    parts = [np.ascontiguousarray(half).view(np.uint8).reshape(len(codes), 2) for half in halves]
    bits = CODE_BITS[dtype]
    if bits == 8:
        return np.concatenate([*parts, codes.view(np.uint8)], axis=1)
    unsigned = codes.view(np.uint8)
    if bits == 5:
        parts.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
    middle = BLOCK // 2
    # The lower nibbles are the first 16 numbers.
    nibbles = unsigned[:, :middle] & 15 | unsigned[:, middle:] << 4
    return np.concatenate([*parts, nibbles.astype(np.uint8, copy=False)], axis=1)
