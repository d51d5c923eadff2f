"""NVRTC through ctypes: CUDA C++ to cubins, without a driver, a GPU or CuPy.

CuPy's own compiler is not used: it never asks for the ``a`` architectures, does not see changes of
our headers in its cache, and cuts the last byte off a cubin.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OPTIONS = (
    "--std=c++17",
    "-default-device",
    "-lineinfo",
    "--fmad=false",  # kernels that must agree write fmaf themselves: fusing may differ between them
    "--ptxas-options=-v",
)
_INSTALL = "pip install inferlib[cuda13]"
_FUNCTION = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<frame>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUsage:
    """What the assembler says of one kernel.

    Attributes:
        name: The kernel.
        registers: Per thread.
        spill_bytes: Stores and loads together.
        shared_bytes: Static shared memory.
    """

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int


class Nvrtc:
    """The compiler.

    Raises:
        ExecutorError: The library is not installed.
    """

    def __init__(self) -> None:
        self._library = _load()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version: str = f"{major.value}.{minor.value}"

    def compile(
        self, name: str, source: str, headers: Mapping[str, str], architecture: str
    ) -> tuple[bytes, tuple[KernelUsage, ...]]:
        """Compile one file.

        Args:
            name: Of the file, for messages.
            source: Its text.
            headers: What it may include: name → text.
            architecture: ``"sm_90"``.

        Returns:
            The cubin, and what its kernels use.

        Raises:
            ExecutorError: The text is refused; the message holds the compiler's.
        """
        library, program = self._library, ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*[text.encode() for text in headers.values()])
        names = (ctypes.c_char_p * len(headers))(*[each.encode() for each in headers])
        self._check(
            library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names
            )
        )
        try:
            options = [f"--gpu-architecture={architecture}", *OPTIONS]
            values = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            status = library.nvrtcCompileProgram(program, len(options), values)
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if status:
                raise ExecutorError(f"{name} does not compile for {architecture}:\n{log}")
            return self._read(program, "CUBIN"), tuple(_usages(log))
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, status: int) -> None:
        if status:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            text = self._library.nvrtcGetErrorString(status).decode()
            raise ExecutorError(f"NVRTC failed: {text}", hint=f"{_INSTALL} installs a fitting one")


def _usages(log: str) -> Iterator[KernelUsage]:
    for found in _FUNCTION.finditer(log):
        shared = _SHARED.search(found["rest"])
        yield KernelUsage(
            name=found["name"],
            registers=int(found["registers"]),
            spill_bytes=int(found["stores"]) + int(found["loads"]),
            shared_bytes=int(shared[1]) if shared else 0,
        )


def _load() -> ctypes.CDLL:
    """The library of NVIDIA's wheel, else the system's."""
    for folder in _wheel_folders():
        for library in sorted(folder.glob("libnvrtc.so*"), reverse=True):
            for part in folder.glob("libnvrtc-builtins.so*"):
                ctypes.CDLL(str(part), ctypes.RTLD_GLOBAL)  # looked up by name, wherever it is
            return ctypes.CDLL(str(library))
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ExecutorError("NVRTC, the compiler of CUDA kernels, is not installed", hint=_INSTALL)


def _wheel_folders() -> Iterator[Path]:
    found = importlib.util.find_spec("nvidia")
    for root in (found and found.submodule_search_locations) or ():
        for part in ("cu13", "cuda_nvrtc"):
            folder = Path(root) / part / "lib"
            if folder.is_dir():
                yield folder
