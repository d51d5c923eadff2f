"""The kernels of ``cuda/``: their sources, and their cubins in our own cache."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExecutorError
from .cuda_sm90 import architecture_of
from .nvrtc import OPTIONS, Nvrtc

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Future

_logger = logging.getLogger(f"{(__package__ or '').rpartition('.')[0]}.cuda")

CACHE = Path("~/.cache/inferlib/kernels")
_COMPILERS = 4
"""Files that are compiled at the same time, at most."""


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
        self.files: dict[str, str] = {
            path.stem: path.read_text() for path in sorted(folder.glob("*.cu"))
        }
        self.headers: dict[str, str] = {
            path.name: path.read_text() for path in sorted(folder.glob("*.cuh"))
        }

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

    Any number of processes may share the folder: a file is written under another name and renamed,
    and who compiles what somebody else has just written replaces it by the same bytes.

    Args:
        sources: What is compiled.
        architecture: ``"sm_90"``.
        folder: Made if it is missing.
    """

    def __init__(self, sources: KernelSources, architecture: str, folder: Path) -> None:
        self._sources = sources
        self._architecture = architecture
        self._nvrtc = Nvrtc()
        self.key: str = hashlib.sha256(
            repr((sources.digest(), architecture, OPTIONS, self._nvrtc.version)).encode()
        ).hexdigest()[:24]
        self.folder: Path = folder / self.key
        self._lock = threading.Lock()
        self._running: dict[str, Future[Path]] = {}
        self._is_silent = False

    def compile_ahead(self, files: Collection[str]) -> None:
        """Compile in the background what the cache lacks of some files; says so once."""
        architecture = self._architecture
        with self._lock:
            missing = [
                file
                for file in sorted(files)
                if architecture_of(file, architecture)
                and file not in self._running
                and not self._cubin(file).exists()
            ]
            if not missing:
                return
            pool = ThreadPoolExecutor(min(_COMPILERS, os.cpu_count() or 1), "inferlib-nvrtc")
            self._running |= {file: pool.submit(self._compile, file) for file in missing}
            is_first, self._is_silent = not self._is_silent, True
        pool.shutdown(wait=False)  # the threads end when they are done
        if is_first:
            _logger.info(
                "compiling CUDA kernels for %s, once: they are kept in %s",
                architecture,
                self.folder,
            )

    def path(self, file: str) -> Path:
        """The cubin of a kernel file; compiled now if nobody has before.

        Raises:
            ExecutorError: It does not compile.
        """
        with self._lock:
            running = self._running.pop(file, None)
        if running is not None:
            return running.result()
        cubin = self._cubin(file)
        return cubin if cubin.exists() else self._compile(file)

    def stop(self) -> None:
        """Begin no further file in the background."""
        with self._lock:
            for running in self._running.values():
                running.cancel()
            self._running = {}

    def _cubin(self, file: str) -> Path:
        return self.folder / f"{file}.{self._architecture}.cubin"

    def _compile(self, file: str) -> Path:
        start = time.perf_counter()
        architecture = architecture_of(file, self._architecture)
        if architecture is None:
            raise ExecutorError(f"the kernels of {file}.cu are not for {self._architecture}")
        code, _ = self._nvrtc.compile(
            f"{file}.cu", self._sources.files[file], self._sources.headers, architecture
        )
        cubin = self._cubin(file)
        write_atomically(cubin, code)
        seconds = time.perf_counter() - start
        _logger.debug("compiled %s.cu for %s in %.1f s", file, self._architecture, seconds)
        return cubin


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file of a cache whole or not at all; its folder is made.

    Raises:
        ExecutorError: The folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as target:
                target.write(content)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExecutorError(
            f"the cache of CUDA kernels cannot be written: {error}",
            hint="make its folder writeable",
        ) from error
