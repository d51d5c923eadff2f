"""Copies between the host and a GPU through pinned memory of our own, so that neither side waits.

Memory of the system would do, but then the driver may make a copy wait for the stream. CuPy's pool
of pinned memory is the host's; this one is ours and goes with the device.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGED_BYTES = 16 << 20
"""Larger arrays (weights, logits) are copied by CuPy from and to where they lie, while the host
waits."""
_SLOTS = 4
"""Uploads that may be under way; the next one waits for the first."""
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind


class StartedDownload:
    """A copy to pinned memory; see ``devices.Download``."""

    def __init__(self, cupy: Any, event: Any, memory: Any, array: NDArray[Any]) -> None:  # noqa: ANN401  # untyped
        self._cupy = cupy
        self._event = event
        self._memory = memory
        self._array = array

    @property
    def is_done(self) -> bool:
        """Whether the copy is made."""
        return bool(self._event.done)

    def wait(self) -> NDArray[Any]:
        """Block until it is there."""
        try:
            self._event.synchronize()
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise ExecutorError(f"the GPU failed: {error}") from error
        return self._array.copy()  # the pinned memory goes back to its pool


class Staging:
    """Pinned memory of one stream.

    Args:
        cupy: The module; the stream's device is current at every call.
        stream: All copies are in its order.
    """

    def __init__(self, cupy: Any, stream: Any) -> None:  # noqa: ANN401  # untyped
        self._cupy = cupy
        self._stream = stream
        self._pool = cupy.cuda.PinnedMemoryPool()
        self._slots: list[tuple[Any, Any] | None] = [None] * _SLOTS
        self._next = 0
        self._downloads: collections.deque[StartedDownload] = collections.deque()

    def upload(self, target: Any, values: NDArray[Any]) -> None:  # noqa: ANN401  # untyped
        """Copy to the device; ``values`` may be changed at once."""
        if not values.nbytes:
            return
        if values.nbytes > STAGED_BYTES:
            target.set(np.ascontiguousarray(values), stream=self._stream)
            self._stream.synchronize()
            return
        slot = self._slots[self._next]
        if slot is not None:
            slot[1].synchronize()
        memory, array = self._pinned(values.shape, values.dtype)
        array[...] = values
        self._copy(target.data.ptr, array.ctypes.data, values.nbytes, _TO_DEVICE)
        self._slots[self._next] = memory, self._record()
        self._next = (self._next + 1) % _SLOTS

    def start_download(self, source: Any) -> StartedDownload:  # noqa: ANN401  # untyped
        """Begin to copy to the host."""
        memory, array = self._pinned(source.shape, source.dtype)
        if source.nbytes:
            self._copy(array.ctypes.data, source.data.ptr, source.nbytes, _TO_HOST)
        download = StartedDownload(self._cupy, self._record(), memory, array)
        # Its memory must not be given to others before the copy is made, waited for or not.
        while self._downloads and self._downloads[0].is_done:
            self._downloads.popleft()
        self._downloads.append(download)
        return download

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, NDArray[Any]]:  # noqa: ANN401  # untyped
        count = int(np.prod(shape))
        memory = self._pool.malloc(max(1, count * np.dtype(dtype).itemsize))
        return memory, np.frombuffer(memory, dtype, count).reshape(shape)

    def _copy(self, target: int, source: int, num_bytes: int, kind: int) -> None:
        self._cupy.cuda.runtime.memcpyAsync(target, source, num_bytes, kind, self._stream.ptr)

    def _record(self) -> Any:  # noqa: ANN401  # untyped
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return event

    def close(self) -> None:
        """Give the pinned memory back; nothing is under way any more."""
        self._slots = [None] * _SLOTS
        self._downloads.clear()
        self._pool.free_all_blocks()
