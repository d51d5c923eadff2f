"""What an executor of kernels needs of the machine that runs them: arrays, copies, launches.

``executors/cuda.py`` knows a GPU only through this. CuPy implements it for real ones
(``executors/kernels.py``); NumPy and an emulator do in this project's tests, so that the whole
engine runs its CUDA path on a machine without a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import DTypeLike, NDArray

DeviceArray: TypeAlias = Any
"""A C-contiguous array on the device: NumPy's or CuPy's, with ``dtype``, ``shape``, ``nbytes``,
``reshape`` and slices that share memory."""

KernelArgument: TypeAlias = "DeviceArray | np.int32 | np.float32 | None"
"""What a kernel takes. Scalars carry their width: a Python ``int`` would travel as eight bytes."""


@runtime_checkable
class Device(Protocol):
    """A machine that runs the kernels of ``cuda/``; used by one thread at a time."""

    @property
    def name(self) -> str:
        """For people: ``"cuda"`` and the card, or ``"cuda-emulated"``."""

    def free_bytes(self) -> int:
        """Bytes that ``alloc`` may still give, roughly."""

    def alloc(self, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> DeviceArray:
        """Reserve an array of undefined contents; ``name`` says what it is for, in errors.

        Raises:
            OutOfMemoryError: The device refuses; ``required`` and ``available`` say by how much.
        """

    def upload(self, target: DeviceArray, values: NDArray[Any]) -> None:
        """Copy host values of the same shape and type into an array, in the order of the stream."""

    def download(self, source: DeviceArray) -> NDArray[Any]:
        """Copy an array to the host, after all that was launched before."""

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[KernelArgument],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Start a kernel behind all that was launched before.

        Args:
            kernel: Its name; the file is the one whose name it begins with.
            grid: One to three numbers of thread blocks.
            threads: Per thread block.
            arguments: In the kernel's order; ``None`` is a null pointer.
            shared_bytes: Dynamic shared memory.

        Raises:
            ExecutorError: The kernel cannot be compiled or started.
        """

    def close(self) -> None:
        """Give everything back; arrays of this device must not be used any more."""
