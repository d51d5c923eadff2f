"""Arrays between pages that cannot be touched: what reads or writes past them is found out."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_PAGE = mmap.PAGESIZE
# On both sides: address space only, but a wrong stride must not jump over it.
_GUARD = 256 * _PAGE
_ALIGNMENT = 16  # what cudaMalloc promises is more, but this is what kernels ask for
_POISON, _CANARY = 0xFF, 0xA5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class _Record:
    name: str
    start: int
    num_bytes: int
    slack: NDArray[np.uint8]


class GuardedBuffers:
    """Makes guarded arrays and knows them by address."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._with_slack: dict[int, _Record] = {}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike, name: str = "buffer") -> NDArray[Any]:
        """An array that ends at a guard page (but for 15 bytes), filled with NaN or -1."""
        count, itemsize = int(np.prod(shape)), np.dtype(dtype).itemsize
        num_bytes = count * itemsize
        slack = -num_bytes % _ALIGNMENT
        pages = -(-(num_bytes + slack) // _PAGE) * _PAGE
        mapping = mmap.mmap(-1, pages + 2 * _GUARD)
        base = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        _libc.mprotect(base, _GUARD, 0)
        _libc.mprotect(base + _GUARD + pages, _GUARD, 0)
        start = _GUARD + pages - slack - num_bytes
        array = np.frombuffer(mapping, dtype, count, start).reshape(shape)
        if num_bytes:
            array.reshape(-1).view(np.uint8)[:] = _POISON
        tail = np.frombuffer(mapping, np.uint8, slack, start + num_bytes)
        tail[:] = _CANARY
        key = base + start
        # What owns the bytes dies after all views of it.
        owner = array.base if isinstance(array.base, np.ndarray) else array
        self._records[key] = _Record(name, key, num_bytes, tail.copy())
        weakref.finalize(owner, self._records.pop, key, None)
        if slack:
            self._with_slack[key] = self._records[key]
            weakref.finalize(owner, self._with_slack.pop, key, None)
        return array

    def copy_of(self, values: NDArray[Any], name: str = "buffer") -> NDArray[Any]:
        """A guarded copy."""
        array = self.empty(values.shape, values.dtype, name)
        array[...] = values
        return array

    def describe(self, address: int) -> str:
        """Which buffer an address belongs to, or is next to."""
        for record in self._records.values():
            end = record.start + record.num_bytes
            if record.start <= address < end:
                return f"inside {record.name}, misaligned or read-only"
            if end <= address < end + _GUARD:
                return f"{address - end} bytes past the end of {record.name}"
            if record.start - _GUARD <= address < record.start:
                return f"{record.start - address} bytes before the start of {record.name}"
        return f"at address {address:#x}, which belongs to no buffer"

    def check(self) -> None:
        """Raise if the bytes behind any buffer were written to."""
        for record in self._with_slack.values():
            address = record.start + record.num_bytes
            tail = ctypes.string_at(address, len(record.slack))
            if tail != record.slack.tobytes():
                raise AssertionError(f"a kernel wrote past the end of {record.name}")
