"""Launches kernels by name with NumPy arrays, and compares every argument with the signature."""

from __future__ import annotations

import ctypes
import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from inferlib.executors.tensor_maps import TensorMap, address_of

from .buffers import GuardedBuffers
from .build import KERNELS, Change, compile_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ADDRESS = re.compile(r"access to address (0x[0-9a-f]+|\(nil\))")
_MESSAGE_BYTES = 2048
_launching = threading.Lock()  # the handler of faults is the process's


class KernelError(AssertionError):
    """A kernel did what no kernel may do; the message names kernel, thread block and thread."""


class Emulator:
    """The kernels of a folder, compiled when they are first launched.

    Args:
        seed: Of the schedule of every launch; 0 is in order.
        folder: Where the ``.cu`` files are. A kernel belongs to the file with the longest name that
            its own name begins with.
        defines: Macros for all files.
    """

    def __init__(
        self, *, seed: int = 0, folder: Path = KERNELS, defines: tuple[str, ...] = ()
    ) -> None:
        self.seed = seed
        self.buffers = GuardedBuffers()
        self._folder = folder
        self._defines = defines
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._library_of: dict[str, ctypes.CDLL] = {}
        self._replaced: dict[str, Change] = {}

    def replace(
        self,
        file: str,
        text: str,
        by: str,
        *,
        keep: tuple[str, ...] | None = None,
        header: str | None = None,
    ) -> None:
        """Plant a bug: compile ``file`` (its stem) with some of its text replaced.

        Args:
            file: The file's stem.
            text: Occurs in it exactly once.
            by: What stands in its place.
            keep: Names of the instantiations to compile; ``None`` means all.
            header: Which of its headers has the text, if it is not in the file itself.
        """
        self._replaced[file] = Change(text=text, by=by, keep=keep, header=header)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Run one kernel to its end.

        Args:
            kernel: Its name.
            grid: One to three numbers of thread blocks.
            threads: Per thread block.
            arguments: Arrays, ``None`` for a null pointer, ``np.int32``, ``np.float32`` and
                ``TensorMap``.
            shared_bytes: Dynamic shared memory.

        Raises:
            KernelError: The kernel failed.
            TypeError: An argument does not fit the signature.
        """
        library = self._library(kernel)
        signature = library.cuda_emulator_signature(kernel.encode())
        if signature is None:
            raise KeyError(f"no kernel {kernel!r} in its file")
        values = _pack(kernel, signature.decode().split(", "), arguments)
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        shape = (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid)))
        block = (ctypes.c_uint * 3)(threads, 1, 1)
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        with _launching:
            failed = library.cuda_emulator_launch(
                kernel.encode(),
                shape,
                block,
                shared_bytes,
                pointers,
                self.seed,
                message,
                len(message),
            )
        if failed:
            raise KernelError(self._explain(message.value.decode()))
        try:
            self.buffers.check()
        except AssertionError as error:
            raise KernelError(f"{kernel}: {error}") from None

    def kernels(self, file: str) -> list[str]:
        """Names of all kernels in a file (its stem)."""
        library = self._library(file)
        library.cuda_emulator_kernels.restype = ctypes.c_char_p
        names: str = library.cuda_emulator_kernels().decode()
        return names.split()

    def _explain(self, message: str) -> str:
        found = _ADDRESS.search(message)
        if found is None:
            return message
        address = 0 if found[1] == "(nil)" else int(found[1], 16)
        where = (
            "misaligned, or to a null pointer" if not address else self.buffers.describe(address)
        )
        return message.replace(found[0], f"access {where}")

    def _library(self, kernel: str) -> ctypes.CDLL:
        if kernel in self._library_of:
            return self._library_of[kernel]
        stems = [path.stem for path in self._folder.glob("*.cu")]
        fitting = [stem for stem in stems if kernel == stem or kernel.startswith(f"{stem}_")]
        if not fitting:
            raise KeyError(f"no file for kernel {kernel!r} in {self._folder.name}")
        stem = max(fitting, key=len)
        if stem not in self._libraries:
            path = compile_kernels(
                self._folder / f"{stem}.cu",
                defines=self._defines,
                change=self._replaced.get(stem),
            )
            library = ctypes.CDLL(str(path))
            library.cuda_emulator_signature.restype = ctypes.c_char_p
            library.cuda_emulator_launch.argtypes = [
                *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
                *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t),
            ]
            self._libraries[stem] = library
        self._library_of[kernel] = self._libraries[stem]
        return self._libraries[stem]


# float16 arrays and arrays of bf16 bits are both u16 to a kernel.
_POINTERS = {"float16": "u16"}
_SCALARS: dict[str, Any] = {"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "f32": ctypes.c_float}


def _pack(kernel: str, signature: list[str], arguments: Sequence[Any]) -> list[Any]:
    """C values of the arguments; a GPU would take anything and read nonsense."""
    if signature == [""]:
        signature = []
    if len(arguments) != len(signature):
        raise TypeError(f"{kernel} takes {len(signature)} arguments, not {len(arguments)}")
    values: list[Any] = []
    for index, (declared, argument) in enumerate(zip(signature, arguments, strict=True)):
        found = _type_of(argument)
        if found != declared and not (found == "null" and declared.endswith("*")):
            raise TypeError(f"{kernel}: argument {index} is {found}, the kernel takes {declared}")
        if isinstance(argument, TensorMap):
            values.append(_described(argument))
        elif declared.endswith("*"):
            address = None if argument is None else argument.ctypes.data
            values.append(ctypes.c_void_p(address))
        else:
            values.append(_SCALARS[declared](argument.item()))
    return values


def _type_of(argument: Any) -> str:
    if argument is None:
        return "null"
    if isinstance(argument, TensorMap):
        return "tensor_map"
    if not isinstance(argument, np.ndarray | np.generic):
        return type(argument).__name__
    dtype = argument.dtype
    name = _POINTERS.get(dtype.name) or f"{dtype.kind}{8 * dtype.itemsize}"
    return f"{name}*" if isinstance(argument, np.ndarray) else name


class _TensorMap(ctypes.Structure):
    """``TensorMap`` of ``asynchronous.h``."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("sizes", ctypes.c_uint64 * 3),
        ("strides", ctypes.c_uint64 * 3),
        ("box", ctypes.c_uint32 * 3),
        ("element_bytes", ctypes.c_uint32),
        ("is_swizzled", ctypes.c_uint32),
        ("dimensions", ctypes.c_uint32),
        ("filler", ctypes.c_uint32),
    )


def _described(tensor: TensorMap) -> _TensorMap:
    def padded(values: tuple[int, ...], filler: int) -> tuple[int, ...]:
        return values + (filler,) * (3 - len(values))

    return _TensorMap(
        base=address_of(tensor.array),
        sizes=padded(tensor.sizes, 1),
        strides=padded(tensor.strides, 0),
        box=padded(tensor.box[::-1], 1),
        element_bytes=2,
        is_swizzled=1,
        dimensions=len(tensor.shape),
    )
