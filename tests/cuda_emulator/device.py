"""A ``Device`` of NumPy arrays and emulated kernels: the CUDA executor without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

_MEMORY_BYTES = 8 << 30


class EmulatedDevice:
    """Runs the kernels of ``cuda/`` on the host; arrays lie between guard pages.

    Args:
        seed: Of the schedule of every launch; 0 is in order.
        num_bytes: What may be allocated.
    """

    name = "cuda-emulated"

    def __init__(self, *, seed: int = 0, num_bytes: int = _MEMORY_BYTES) -> None:
        self.emulator = Emulator(seed=seed)
        self._free = num_bytes
        self._is_closed = False

    def free_bytes(self) -> int:
        return self._free

    def alloc(self, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> NDArray[Any]:
        from inferlib import OutOfMemoryError

        required = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if required > self._free:
            raise OutOfMemoryError(
                f"{name} takes {required:,} bytes but {self._free:,} are free",
                required=required,
                available=self._free,
            )
        self._free -= required
        return self.emulator.buffers.empty(shape, dtype, name)

    def upload(self, target: NDArray[Any], values: NDArray[Any]) -> None:
        assert (target.shape, target.dtype) == (values.shape, values.dtype)
        target[...] = values

    def download(self, source: NDArray[Any]) -> NDArray[Any]:
        return source.copy()

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
    ) -> None:
        assert not self._is_closed
        self.emulator.launch(kernel, grid, threads, arguments, shared_bytes=shared_bytes)

    def close(self) -> None:
        self._is_closed = True
