"""A checkpoint whose tensors are computed one by one, when it is written into memory.

What a folder's tensors become is known from its headers and small tensors; so what it will take is
checked before any of it is made, and beside the result there is one tensor at a time.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._core import Weights, dequantize
from ..config import format_bytes
from ..errors import OutOfMemoryError, UnsupportedModelError
from ..host_memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from numpy.typing import NDArray

_ALIGNMENT = 32
# GGUF's number of a type, elements and bytes of its blocks. Source: ggml's ``ggml.h``.
_TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "BF16": (30, 1, 2),
}
# Types that GGUF does not know, and the smallest that holds their numbers.
_HELD_AS = {"F8_E4M3": "F16", "F8_E5M2": "F16"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorPlan:
    """A tensor that is computed when it is wanted.

    Attributes:
        name: In the checkpoint.
        dtype: Name of its type.
        shape: Outermost dimension first.
        read: Gives its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.uint8]]

    @property
    def num_bytes(self) -> int:
        """What it takes in memory.

        Raises:
            UnsupportedModelError: It is of a type that cannot stand among others in memory.
        """
        if self.dtype not in _TYPES:
            raise UnsupportedModelError(
                f"{self.name} is of type {self.dtype}, which cannot be kept beside quantized "
                "matrices",
                hint="use the unquantized checkpoint, without quantize, or a GGUF file of it",
            )
        _, elements, num_bytes = _TYPES[self.dtype]
        return prod(self.shape) // elements * num_bytes

    def values(self) -> NDArray[np.float32]:
        """Its numbers, in memory of their own: ``shape``."""
        return dequantize(self.dtype, self.read().reshape(-1)).reshape(self.shape)


class CheckpointPlan:
    """Tensors by name, not computed yet.

    Args:
        source: File of the checkpoint that they are of.
        tensors: In the order in which they are written.
    """

    def __init__(self, source: Path, tensors: Iterable[TensorPlan]) -> None:
        self.source = source
        self.tensors: dict[str, TensorPlan] = {tensor.name: tensor for tensor in tensors}

    @classmethod
    def of(cls, weights: Weights) -> CheckpointPlan:
        """The tensors of a checkpoint as they are."""
        return cls(Path(weights.files[0]), (stored_tensor(weights, name) for name in weights.names))

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self.tensors)

    def info(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a tensor."""
        tensor = self.tensors[name]
        return tensor.dtype, tensor.shape

    def written(self, used: Collection[str]) -> Weights:
        """Compute the tensors and hold them in memory.

        Args:
            used: Those that the model reads; others are left out.

        Raises:
            OutOfMemoryError: They do not fit.
            UnsupportedModelError: One is of a type that cannot stand beside them.
            ModelFormatError: Reading one found damage.
        """
        tensors = [tensor for name, tensor in self.tensors.items() if name in used]
        # Twice: there is a moment when the file is there as Python's bytes and as the reader's.
        required, available = 2 * sum(tensor.num_bytes for tensor in tensors), free_bytes()
        if required > available:
            raise OutOfMemoryError(
                f"preparing the weights of {self.source.parent.name} takes "
                f"{format_bytes(required)} but {format_bytes(available)} are free",
                required=required,
                available=available,
                hint='give quantize="q8_0" or a smaller type, or a GGUF file',
            )
        # Not the name of a file: whoever remembers what a file holds must not take this for it.
        return Weights.from_bytes(self.source.with_suffix(".prepared.gguf"), _gguf_bytes(tensors))


def stored_tensor(weights: Weights, name: str) -> TensorPlan:
    """A tensor as the checkpoint has it; where GGUF does not know its type, as one that does it."""
    dtype, shape = weights.info(name)
    if dtype in _HELD_AS:

        def read() -> NDArray[np.uint8]:
            return weights.array(name).astype(np.float16).view(np.uint8)

        return TensorPlan(name=name, dtype=_HELD_AS[dtype], shape=shape, read=read)
    return TensorPlan(name=name, dtype=dtype, shape=shape, read=lambda: weights.raw(name))


def _gguf_bytes(tensors: Iterable[TensorPlan]) -> bytes:
    """A file of tensors without metadata."""
    tensors = list(tensors)
    file = io.BytesIO()
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 0))
    place = 0
    for tensor in tensors:
        text = tensor.name.encode()
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1]))
        file.write(struct.pack("<IQ", _TYPES[tensor.dtype][0], place))
        place += tensor.num_bytes + -tensor.num_bytes % _ALIGNMENT
    file.write(bytes(-file.tell() % _ALIGNMENT))
    for tensor in tensors:
        data = np.ascontiguousarray(tensor.read())
        if data.nbytes != tensor.num_bytes:
            raise AssertionError(tensor.name, data.nbytes, tensor.num_bytes)
        file.write(data.data)
        file.write(bytes(-data.nbytes % _ALIGNMENT))
    return file.getvalue()
