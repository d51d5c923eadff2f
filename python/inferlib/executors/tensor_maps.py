"""Descriptions of arrays for the unit that loads boxes of them (TMA, from sm_90 on).

A kernel takes one as ``const __grid_constant__ TensorMap``. The driver turns the description into
128 bytes; the emulator reads it as it is. NOT YET RUN ON A GPU: ``encode`` was written by the
driver's documentation and is tested on a stand-in for it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..devices import DeviceArray

SWIZZLED_BYTES = 128
"""Of a row of a box that kernels of ``wgmma`` read."""
_MAX_BOX = 256
# CUtensorMapDataType of 16-bit elements: bits are bits, nothing computes with them.
_UINT16 = 1
_SWIZZLE_128B, _PROMOTE_256B = 3, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMap:
    """A C-contiguous array of 16-bit elements, seen as boxes with swizzled rows of 128 bytes.

    Attributes:
        array: Its elements, on the device.
        shape: ``[rows, columns]`` or ``[planes, rows, columns]``.
        box: As many elements of each; 64 columns.

    Raises:
        ValueError: The driver would refuse it.
    """

    array: DeviceArray
    shape: tuple[int, ...]
    box: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or len(self.box) != len(self.shape):
            raise ValueError(f"shape {self.shape} and box {self.box}: both have 2 or 3 dimensions")
        if self.array.dtype.itemsize != 2 or int(np.prod(self.shape)) != self.array.size:
            raise ValueError(f"shape {self.shape} is not that of an array of 16-bit elements")
        if self.box[-1] * 2 != SWIZZLED_BYTES:
            raise ValueError(f"a box has 64 columns, not {self.box[-1]}")
        if not all(1 <= size <= _MAX_BOX for size in self.box):
            raise ValueError(f"box {self.box} has a side of more than {_MAX_BOX}")
        if self.shape[-1] % 8:
            raise ValueError(f"rows of {self.shape[-1]} elements are not a multiple of 16 bytes")
        if address_of(self.array) % 16:
            raise ValueError("the array is not aligned to 16 bytes")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each dimension, innermost first."""
        return self.shape[::-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes of a step in each dimension, innermost first."""
        steps = [2]
        for size in self.sizes[:-1]:
            steps.append(steps[-1] * size)
        return tuple(steps)

    def of(self, array: DeviceArray) -> TensorMap:
        """The same description of another array."""
        return TensorMap(array=array, shape=self.shape, box=self.box)

    def encode(self, driver: Any) -> NDArray[Any]:  # noqa: ANN401  # a ctypes library
        """The 128 bytes that a kernel takes by value, as an array of one element.

        Args:
            driver: ``ctypes.CDLL("libcuda.so.1")``, with a context.

        Raises:
            ValueError: The driver refuses the description.
        """
        rank = len(self.shape)
        room = np.zeros(128 + 64, np.uint8)
        start = -room.ctypes.data % 64
        encoded = room[start : start + 128]
        status = driver.cuTensorMapEncodeTiled(
            ctypes.c_void_p(encoded.ctypes.data),
            ctypes.c_int(_UINT16),
            ctypes.c_uint32(rank),
            ctypes.c_void_p(address_of(self.array)),
            (ctypes.c_uint64 * rank)(*self.sizes),
            (ctypes.c_uint64 * (rank - 1))(*self.strides[1:]),
            (ctypes.c_uint32 * rank)(*self.box[::-1]),
            (ctypes.c_uint32 * rank)(*[1] * rank),
            *(ctypes.c_int(0), ctypes.c_int(_SWIZZLE_128B)),  # not interleaved
            *(ctypes.c_int(_PROMOTE_256B), ctypes.c_int(0)),  # zeros outside
        )
        if status:
            raise ValueError(f"the driver refuses a tensor map (error {status}): {self.shape}")
        return encoded.view(np.dtype((np.void, 128)))


def open_driver() -> ctypes.CDLL:
    """The driver's library.

    Raises:
        OSError: There is none.
    """
    return ctypes.CDLL("libcuda.so.1")


def address_of(array: DeviceArray) -> int:
    """Where an array of NumPy or CuPy begins."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
