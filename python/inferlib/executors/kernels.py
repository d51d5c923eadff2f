"""The kernels of ``cuda/``: their sources, their cubins in our own cache, and CuPy to run them.

NOT YET RUN ON A GPU. Sources, compilation and cache are tested; ``CupyDevice`` was written by
CuPy's documentation, and its tests use a stand-in for CuPy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutorError, OutOfMemoryError, RequestError
from .nvrtc import OPTIONS, Nvrtc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from ..devices import DeviceArray, KernelArgument

_logger = logging.getLogger(__package__)

_STATIC_LIMIT_BYTES = 48 * 1024
"""A kernel must be told if it gets more dynamic shared memory than this."""
_CACHE = Path("~/.cache/inferlib/kernels")


def source_folder() -> Path:
    """Where the ``.cu`` files are: in a checkout the repository's, else the installed package's.

    Raises:
        ExecutorError: Neither is there.
    """
    package = Path(__file__).parent.parent
    for folder in (package.parent.parent / "cuda", package / "cuda"):
        if (folder / "primitives.cuh").exists():
            return folder
    raise ExecutorError("the CUDA kernels are not a part of this installation")


class KernelSources:
    """The text of all kernel files, and which kernel is in which.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {path.stem: path.read_text() for path in sorted(folder.glob("*.cu"))}
        self.headers = {path.name: path.read_text() for path in sorted(folder.glob("*.cuh"))}

    def file_of(self, kernel: str) -> str:
        """The file of a kernel: the one with the longest name that the kernel's begins with.

        Raises:
            ExecutorError: There is none.
        """
        fitting = [stem for stem in self.files if f"{kernel}_".startswith(f"{stem}_")]
        if not fitting:
            raise ExecutorError(f"no file for kernel {kernel!r}")
        return max(fitting, key=len)

    def digest(self) -> str:
        """A hash of every byte: a header may matter to any file."""
        digest = hashlib.sha256()
        for name, text in (*self.files.items(), *self.headers.items()):
            digest.update(f"{name}\0{len(text)}\0{text}".encode())
        return digest.hexdigest()


class CubinCache:
    """Compiled kernel files in a folder, by the hash of all that they come from.

    Args:
        sources: What is compiled.
        architecture: ``"sm_90"``.
        folder: Made if it is missing.
    """

    def __init__(self, sources: KernelSources, architecture: str, folder: Path) -> None:
        self._sources = sources
        self._architecture = architecture
        self._nvrtc = Nvrtc()
        key = (sources.digest(), architecture, OPTIONS, self._nvrtc.version)
        self._folder = folder / hashlib.sha256(repr(key).encode()).hexdigest()[:24]

    def path(self, file: str) -> Path:
        """The cubin of a kernel file; compiled now if nobody has before.

        Raises:
            ExecutorError: It does not compile.
        """
        cubin = self._folder / f"{file}.{self._architecture}.cubin"
        if cubin.exists():
            return cubin
        start = time.perf_counter()
        code, _ = self._nvrtc.compile(
            f"{file}.cu", self._sources.files[file], self._sources.headers, self._architecture
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(handle, "wb") as target:
            target.write(code)
        Path(name).replace(cubin)
        seconds = time.perf_counter() - start
        _logger.info("compiled %s.cu for %s in %.1f s", file, self._architecture, seconds)
        return cubin


def cupy_device() -> CupyDevice:
    """Open the first GPU.

    Raises:
        RequestError: CuPy or a GPU is missing; ``hint`` says what to do.
    """
    try:
        import cupy
    except ImportError as error:
        raise RequestError(
            'device="cuda" needs CuPy, which is not installed',
            field="device",
            hint="pip install inferlib[cuda13]",
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RequestError(
            f'device="cuda" needs a GPU and its driver: {error}',
            field="device",
            hint='give device="cpu"',
        ) from error
    if not count:
        raise RequestError(
            'device="cuda", but there is no GPU', field="device", hint='give device="cpu"'
        )
    return CupyDevice(cupy)


class CupyDevice:
    """The first GPU through CuPy: memory from a pool of its own, launches on a stream of its own.

    CuPy's allocator, its current device and its current stream stay as they are.

    Args:
        cupy: The module, imported where it is known to be wanted.
        cache: Folder for cubins.
    """

    def __init__(self, cupy: Any, *, cache: Path = _CACHE) -> None:  # noqa: ANN401  # untyped
        self._cupy = cupy
        self._device = cupy.cuda.Device(0)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._pool = cupy.cuda.MemoryPool()
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
        self.name = f"cuda ({name.decode() if isinstance(name, bytes) else name})"
        self._sources = KernelSources(source_folder())
        architecture = f"sm_{self._device.compute_capability}"
        self._cubins = CubinCache(self._sources, architecture, cache.expanduser())
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
            target.set(np.ascontiguousarray(values), stream=self._stream)

    def download(self, source: DeviceArray) -> NDArray[Any]:
        """Copy to the host, after all launches before."""
        with self._device:
            result: NDArray[Any] = source.get(stream=self._stream)
        return result

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
        function = self._kernels.get(kernel) or self._load(kernel)
        if shared_bytes > max(_STATIC_LIMIT_BYTES, function.max_dynamic_shared_size_bytes):
            function.max_dynamic_shared_size_bytes = shared_bytes
        values = tuple(np.uint64(0) if value is None else value for value in arguments)
        with self._device, self._stream:
            function(tuple(grid), (threads,), values, shared_mem=shared_bytes)

    def _load(self, kernel: str) -> Any:  # noqa: ANN401  # CuPy has no types
        file = self._sources.file_of(kernel)
        with self._device:
            if file not in self._modules:
                path = str(self._cubins.path(file))
                self._modules[file] = self._cupy.RawModule(path=path)
            self._kernels[kernel] = self._modules[file].get_function(kernel)
        return self._kernels[kernel]

    def close(self) -> None:
        """Wait for what was launched, and give the pool's memory back."""
        with self._device:
            self._stream.synchronize()
            self._kernels.clear()
            self._modules.clear()
            self._pool.free_all_blocks()
