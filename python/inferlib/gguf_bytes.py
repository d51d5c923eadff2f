"""Tensors as a GGUF file in memory: what a checkpoint becomes whose tensors change their types."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ALIGNMENT = 32
TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "BF16": 30}
"""Types in GGUF, as far as they are written here."""


def gguf_bytes(tensors: list[tuple[str, str, tuple[int, ...], NDArray[np.uint8]]]) -> bytes:
    """A file of tensors (name, type, shape, bytes) without metadata; ``tensors`` is empty then."""
    file = io.BytesIO()
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 0))
    place = 0
    for name, dtype, shape, data in tensors:
        text = name.encode()
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1]))
        file.write(struct.pack("<IQ", TYPE_NUMBERS[dtype], place))
        place += data.nbytes + -data.nbytes % _ALIGNMENT
    file.write(bytes(-file.tell() % _ALIGNMENT))
    tensors.reverse()
    while tensors:  # each one's memory goes when it is written
        data = tensors.pop()[-1]
        file.write(data.data)
        file.write(bytes(-data.nbytes % _ALIGNMENT))
    return file.getvalue()
