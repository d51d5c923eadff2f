"""A GPU through CuPy. NOT YET RUN ON ONE: written by CuPy's documentation, tested on a stand-in.

Nothing of CuPy's that the host may use is changed: memory comes from pools of our own, launches go
to a stream of our own, and device and stream are current only inside of ``with``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutorError, OutOfMemoryError, RequestError
from .cupy_transfers import STAGED_BYTES, Staging, StartedDownload
from .kernels import CACHE, CubinCache, KernelSources, source_folder
from .tensor_maps import TensorMap, address_of, open_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from ..devices import DeviceArray, KernelArgument

_STATIC_LIMIT_BYTES = 48 * 1024
"""A kernel must be told if it gets more dynamic shared memory than this."""
_BFLOAT16_CAPABILITY = 80
_HINT = 'give device="cpu"'


def open_gpu(index: int = 0) -> CupyDevice:
    """Open a GPU.

    Args:
        index: As CUDA counts them.

    Raises:
        RequestError: CuPy, its driver or the GPU is missing; ``hint`` says what to do.
        ExecutorError: The compiler of kernels is missing.
    """
    name = "cuda" if index == 0 else f"cuda:{index}"
    try:
        import cupy
    except ImportError as error:
        raise RequestError(
            f'device="{name}" needs CuPy, which is not installed',
            field="device",
            hint="pip install inferlib[cuda13]",
        ) from error
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RequestError(
            f'device="{name}" needs a GPU and its driver: {error}', field="device", hint=_HINT
        ) from error
    if index >= count:
        found = "there is no GPU" if not count else f"the GPUs are 0 to {count - 1}"
        raise RequestError(f'device="{name}", but {found}', field="device", hint=_HINT)
    return CupyDevice(cupy, index=index)


class CapturedGraph:
    """A CUDA graph; see ``devices.Graph``."""

    def __init__(self, device: Any, stream: Any, graph: Any) -> None:  # noqa: ANN401  # untyped
        self._device = device
        self._stream = stream
        self._graph = graph

    def launch(self) -> None:
        """Start it."""
        with self._device:
            self._graph.launch(self._stream)


class CupyDevice:
    """One GPU; see ``devices.Device``.

    Args:
        cupy: The module, imported where it is known to be wanted.
        index: Which GPU.
        cache: Folder for cubins; ``None``: in the user's cache.
        driver: Opens the driver's library, when a tensor map is to be described to it.

    Attributes:
        name: ``"cuda"`` or ``"cuda:1"``, and the card.
        architecture: See ``Device``.
        has_bfloat16: See ``Device``.
        cache_folder: See ``Device``; the folder of the cubins.
    """

    def __init__(
        self,
        cupy: Any,  # noqa: ANN401  # untyped
        *,
        index: int = 0,
        cache: Path | None = None,
        driver: Callable[[], Any] = open_driver,
    ) -> None:
        self._cupy = cupy
        self._errors = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
        self._device = cupy.cuda.Device(index)
        capability = int(self._device.compute_capability)
        self._sources = KernelSources(source_folder())
        self.architecture: str = f"sm_{capability}"
        self._cubins = CubinCache(self._sources, self.architecture, (cache or CACHE).expanduser())
        self._open_driver = driver
        self._driver: Any = None
        self._maps: dict[tuple[Any, ...], NDArray[Any]] = {}
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._pool = cupy.cuda.MemoryPool()
            self._staging = Staging(cupy, self._stream)
        name = cupy.cuda.runtime.getDeviceProperties(index)["name"]
        card = name.decode() if isinstance(name, bytes) else name
        self.name: str = f"{'cuda' if index == 0 else f'cuda:{index}'} ({card})"
        self.has_bfloat16: bool = capability >= _BFLOAT16_CAPABILITY
        self.cache_folder: Path | None = self._cubins.folder
        self._modules: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}

    def free_bytes(self) -> int:
        """What the driver says is free, and what the pool holds but does not use."""
        with self._device:
            free: int = self._cupy.cuda.runtime.memGetInfo()[0]
        return free + int(self._pool.free_bytes())

    def alloc(self, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> DeviceArray:
        """Reserve an array; see ``Device``."""
        required = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            with self._device, self._stream:
                memory = self._pool.malloc(required)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{name} takes {required:,} bytes; {self.free_bytes():,} are free on {self.name}",
                required=required,
                available=self.free_bytes(),
                hint='give a smaller kv_cache (such as "1GiB"), or use a smaller model',
            ) from error
        return self._cupy.ndarray(shape, dtype, memptr=memory)

    def upload(self, target: DeviceArray, values: NDArray[Any]) -> None:
        """Copy to the device, in the order of the stream; ``values`` may be changed afterwards."""
        with self._device:
            self._staging.upload(target, values)

    def download(self, source: DeviceArray) -> NDArray[Any]:
        """Copy to the host, after all launches before."""
        if source.nbytes <= STAGED_BYTES:
            return self.start_download(source).wait()
        with self._device:
            result: NDArray[Any] = source.get(stream=self._stream)
        return result

    def start_download(self, source: DeviceArray) -> StartedDownload:
        """Begin to copy to the host."""
        with self._device:
            return self._staging.start_download(source)

    def prepare(self, files: Collection[str]) -> None:
        """Compile in the background what the cache lacks of these; see ``Device``."""
        self._cubins.compile_ahead(files)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[KernelArgument],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Start a kernel; see ``Device``."""
        values = tuple(self._value(kernel, argument) for argument in arguments)
        try:
            function = self._kernels.get(kernel) or self._load(kernel)
            if shared_bytes > max(_STATIC_LIMIT_BYTES, function.max_dynamic_shared_size_bytes):
                function.max_dynamic_shared_size_bytes = shared_bytes
            with self._device, self._stream:
                function(tuple(grid), (threads,), values, shared_mem=shared_bytes)
        except self._errors as error:
            raise ExecutorError(f"{kernel} cannot be launched: {error}") from error

    def _value(self, kernel: str, argument: KernelArgument) -> Any:  # noqa: ANN401  # as CuPy's
        """An argument as CuPy takes it."""
        if argument is None:
            return np.uint64(0)
        if not isinstance(argument, TensorMap):
            return argument
        key = (address_of(argument.array), argument.shape, argument.box)
        if key not in self._maps:
            try:
                with self._device:
                    self._driver = self._driver or self._open_driver()
                    self._maps[key] = argument.encode(self._driver)
            except (OSError, AttributeError, ValueError) as error:
                raise ExecutorError(
                    f"{kernel} cannot be launched: no tensor map for it: {error}"
                ) from error
        return self._maps[key]

    def _load(self, kernel: str) -> Any:  # noqa: ANN401  # CuPy has no types
        file = self._sources.file_of(kernel)
        with self._device:
            if file not in self._modules:
                path = str(self._cubins.path(file))
                self._modules[file] = self._cupy.RawModule(path=path)
            self._kernels[kernel] = self._modules[file].get_function(kernel)
        return self._kernels[kernel]

    def graph(self, record: Callable[[], None]) -> CapturedGraph:
        """Capture what ``record`` launches; see ``Device``."""
        with self._device, self._stream:
            try:
                self._stream.begin_capture()
                try:
                    record()
                except BaseException:
                    self._end_capture()
                    raise
                return CapturedGraph(self._device, self._stream, self._stream.end_capture())
            except self._errors as error:
                raise ExecutorError(f"CUDA refuses to capture a graph: {error}") from error

    def _end_capture(self) -> None:
        """Leave the state of capturing; the graph is nothing after a failure."""
        try:
            self._stream.end_capture()
        except self._errors:
            return  # a failed capture ends with this error

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        try:
            with self._device:
                self._stream.synchronize()
        except self._errors as error:
            raise ExecutorError(f"the GPU failed: {error}") from error

    def close(self) -> None:
        """Give the pools' memory back; what was launched is done."""
        self._cubins.stop()
        with self._device:
            self._maps.clear()
            self._kernels.clear()
            self._modules.clear()
            self._staging.close()
            self._pool.free_all_blocks()
