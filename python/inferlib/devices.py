"""What an executor of kernels needs of a machine: arrays, copies, launches, graphs.

``executors/cuda.py`` knows a GPU only through this. CuPy implements it for real ones
(``executors/cupy_device.py``); NumPy and an emulator do in this project's tests, so that the whole
engine runs its CUDA path on a machine without a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import DTypeLike, NDArray

DeviceArray: TypeAlias = Any
"""A C-contiguous array on the device: NumPy's or CuPy's, with ``dtype``, ``shape``, ``nbytes``,
``reshape`` and slices that share memory."""

KernelArgument: TypeAlias = "DeviceArray | np.int32 | np.float32 | None"
"""What a kernel takes; a ``TensorMap`` (``executors/tensor_maps.py``) too, on sm_90. Scalars carry
their width: a Python ``int`` would travel as eight bytes."""


class Download(Protocol):
    """A copy to the host that is under way."""

    def wait(self) -> NDArray[Any]:
        """Block until it is there, without the GIL; what was launched behind it may still run.

        Raises:
            ExecutorError: A kernel before it failed.
        """


class Graph(Protocol):
    """Launches that were recorded once; its arrays stay allocated as long as it lives."""

    def launch(self) -> None:
        """Start all of them, in order, behind all that was launched before."""


@runtime_checkable
class Device(Protocol):
    """A machine that runs the kernels of ``cuda/``; used by one thread at a time."""

    @property
    def name(self) -> str:
        """For people: ``"cuda"`` and the card, or ``"cuda-emulated"``."""

    @property
    def architecture(self) -> str:
        """What its kernels are compiled for, as CUDA names it: ``"sm_90"``."""

    @property
    def has_bfloat16(self) -> bool:
        """Whether its tensor cores multiply bf16; if not, reduced precision is f16."""

    @property
    def cache_folder(self) -> Path | None:
        """Where to keep what was measured with these kernels; ``None``: nothing is measured."""

    def free_bytes(self) -> int:
        """Bytes that ``alloc`` may still give, roughly."""

    def alloc(self, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> DeviceArray:
        """Reserve an array of undefined contents; ``name`` says what it is for, in errors.

        Raises:
            OutOfMemoryError: The device refuses; ``required`` and ``available`` say by how much.
        """

    def upload(self, target: DeviceArray, values: NDArray[Any]) -> None:
        """Copy host values of the same shape and type into an array, in the order of the stream.

        ``values`` may be changed as soon as this returns, which may be before the copy is made.
        """

    def download(self, source: DeviceArray) -> NDArray[Any]:
        """Copy an array to the host, after all that was launched before."""

    def start_download(self, source: DeviceArray) -> Download:
        """Begin the same without waiting; what is launched later may overwrite ``source``.

        The result need not be waited for.
        """

    def prepare(self, files: Collection[str]) -> None:
        """Begin to get kernels ready, in the background: these files of ``cuda/`` are needed."""

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

    def graph(self, record: Callable[[], None]) -> Graph:
        """Keep what ``record`` launches, without running it.

        Every kernel in it must have been launched before with as much shared memory, and ``record``
        may neither allocate nor copy.

        Raises:
            ExecutorError: It cannot be recorded; the device is as it was before.
        """

    def synchronize(self) -> None:
        """Wait for all that was launched, without the GIL.

        Raises:
            ExecutorError: A kernel failed.
        """

    def close(self) -> None:
        """Give everything back; arrays of this device must not be used any more."""


_registered: dict[str, Callable[[], Device]] = {}


def register_device(name: str, open_device: Callable[[], Device]) -> None:
    """Let ``device=name`` mean a device of your own; for tests and for new hardware.

    Args:
        name: Not one of the built-in ones; the last registration of a name counts.
        open_device: Called at every load; what it gives is closed with the model.
    """
    if name in ("auto", "cpu") or name.partition(":")[0] == "cuda":
        raise ValueError(f"{name!r} is a built-in device")
    _registered[name] = open_device


def registered_device(name: str) -> Callable[[], Device] | None:
    """What was registered under a name."""
    return _registered.get(name)


def gpu_index(name: str) -> int | None:
    """The number of the GPU in ``"cuda"`` (0) or ``"cuda:1"``; ``None`` if it names none."""
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdecimal())):
        return None
    return int(number or 0)
