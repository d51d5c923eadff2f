"""A ``Device`` of NumPy arrays and emulated kernels: the CUDA executor without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inferlib import ExecutorError, OutOfMemoryError
from inferlib.executors.kernels import KernelSources

from .build import KERNELS
from .emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import DTypeLike, NDArray

_MEMORY_BYTES = 8 << 30


class EmulatedDownload:
    """A copy that was made when it was asked for, as the order of a stream would have it."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def wait(self) -> NDArray[Any]:
        return self._values


class EmulatedGraph:
    """Launches to run again with the very arrays that they were recorded with."""

    def __init__(self, device: EmulatedDevice, launches: list[tuple[Any, ...]]) -> None:
        self._device = device
        self._launches = launches

    def launch(self) -> None:
        self._device.num_replays += 1
        for kernel, grid, threads, arguments, shared_bytes in self._launches:
            self._device.start(kernel, grid, threads, arguments, shared_bytes)


class EmulatedDevice:
    """Runs the kernels of ``cuda/`` on the host; arrays lie between guard pages.

    What CUDA refuses while a graph is captured is refused here, too: to allocate, to copy, to load
    a kernel.

    Args:
        seed: Of the schedule of every launch; 0 is in order.
        num_bytes: What may be allocated.
        architecture: What it passes for.
        has_bfloat16: Whether it passes for a GPU that knows bf16.
        has_graphs: Whether graphs can be recorded.

    Attributes:
        num_allocs: Arrays that were reserved.
        prepared: Files whose kernels were announced; if any were, no others may be launched.
        num_replays: Graphs that were launched.
    """

    name = "cuda-emulated"
    cache_folder = None

    def __init__(
        self,
        *,
        seed: int = 0,
        num_bytes: int = _MEMORY_BYTES,
        architecture: str = "sm_80",
        has_bfloat16: bool = True,
        has_graphs: bool = True,
    ) -> None:
        self.emulator = Emulator(seed=seed)
        self.architecture = architecture
        self.has_bfloat16 = has_bfloat16
        self.num_allocs = self.num_replays = 0
        self.prepared: set[str] = set()
        self._sources, self._files = KernelSources(KERNELS), dict[str, str]()
        self._has_graphs = has_graphs
        self._num_bytes = self._free = num_bytes
        self._is_closed = False
        self._loaded: dict[str, int] = {}
        self._recorded: list[tuple[Any, ...]] | None = None

    def free_bytes(self) -> int:
        return self._free

    def alloc(self, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> NDArray[Any]:
        self._refuse_in_graph("allocate")
        self._is_closed = False
        required = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if required > self._free:
            raise OutOfMemoryError(
                f"{name} takes {required:,} bytes but {self._free:,} are free",
                required=required,
                available=self._free,
                hint="give a smaller kv_cache",
            )
        self._free -= required
        self.num_allocs += 1
        return self.emulator.buffers.empty(shape, dtype, name)

    def upload(self, target: NDArray[Any], values: NDArray[Any]) -> None:
        self._refuse_in_graph("copy")
        assert (target.shape, target.dtype) == (values.shape, values.dtype)
        target[...] = values

    def download(self, source: NDArray[Any]) -> NDArray[Any]:
        return self.start_download(source).wait()

    def start_download(self, source: NDArray[Any]) -> EmulatedDownload:
        self._refuse_in_graph("copy")
        return EmulatedDownload(source.copy())

    def prepare(self, files: Collection[str]) -> None:
        assert set(files) <= self._sources.files.keys()
        self.prepared |= set(files)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
    ) -> None:
        if self._recorded is None:
            self.start(kernel, grid, threads, arguments, shared_bytes)
            self._loaded[kernel] = max(shared_bytes, self._loaded.get(kernel, 0))
            return
        assert self._loaded.get(kernel, -1) >= shared_bytes, f"{kernel} is loaded in a capture"
        self._recorded.append((kernel, tuple(grid), threads, tuple(arguments), shared_bytes))

    def start(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[Any],
        shared_bytes: int,
    ) -> None:
        """Run a kernel now."""
        assert not self._is_closed
        if self.prepared:
            file = self._files.get(kernel) or self._sources.file_of(kernel)
            assert file in self.prepared, f"nobody said that {file} is needed"
            self._files[kernel] = file
        self.emulator.launch(kernel, grid, threads, arguments, shared_bytes=shared_bytes)

    def graph(self, record: Callable[[], None]) -> EmulatedGraph:
        if not self._has_graphs:
            raise ExecutorError("this device records no graphs")
        assert self._recorded is None
        self._recorded = []
        try:
            record()
            return EmulatedGraph(self, self._recorded)
        finally:
            self._recorded = None

    def _refuse_in_graph(self, what: str) -> None:
        assert self._recorded is None, f"a graph that is captured may not {what}"

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self._is_closed = True
        self._free = self._num_bytes
