"""A stand-in for CuPy whose kernels are emulated and whose stream is as late as CUDA allows.

Launches and copies are queued; they happen when somebody waits for an event behind them, or for the
stream. So what reads a copy too early, or changes pinned memory too early, reads or sends nonsense.
It shows what is asked of CuPy, not that CuPy does it: that takes a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import struct
import sys
import types

import numpy as np
from tests.cuda_emulator import Emulator

from inferlib.executors.tensor_maps import TensorMap


class Array(np.ndarray):
    """Enough of ``cupy.ndarray``."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def set(self, values, stream):
        assert (self.shape, self.dtype) == (values.shape, values.dtype)
        stream.later(lambda: np.copyto(self, values))


class Driver:
    """Enough of ``libcuda``: writes what it is told of an array into the 128 bytes of its map.

    ``status`` is what it answers.
    """

    LAYOUT = struct.Struct("<QI3Q2Q3I")  # address, dimensions, sizes, strides, box

    def __init__(self, entered, status=0):
        self.entered, self.status, self.num_maps = entered, status, 0

    def cuTensorMapEncodeTiled(  # noqa: N802  # the driver's name
        self, target, kind, rank, address, sizes, strides, box, steps, *modes
    ):
        assert self.entered, "no context is current"
        assert target.value % 64 == 0
        assert (kind.value, [each.value for each in modes]) == (1, [0, 3, 3, 0])
        assert list(steps) == [1] * rank.value
        self.num_maps += 1
        if not self.status:
            values = [[*each, 0, 0][:count] for each, count in ((sizes, 3), (strides, 2), (box, 3))]
            text = self.LAYOUT.pack(address.value, rank.value, *itertools.chain(*values))
            ctypes.memmove(target.value, text.ljust(128, b"\0"), 128)
        return self.status

    @classmethod
    def described(cls, encoded):
        """The map that the bytes stand for."""
        address, rank, *rest = cls.LAYOUT.unpack(encoded.tobytes()[: cls.LAYOUT.size])
        sizes, strides, box = rest[:rank], rest[3 : 2 + rank], rest[5 : 5 + rank]
        count = math.prod(sizes)
        memory = (ctypes.c_uint16 * count).from_address(address)
        found = TensorMap(
            array=np.frombuffer(memory, np.uint16), shape=tuple(sizes[::-1]), box=tuple(box[::-1])
        )
        assert list(found.strides[1:]) == strides
        return found


class Current:
    """Something that is current inside of a ``with``, and must not be made so in any other way."""

    entered: list[object]

    def __enter__(self):
        self.entered.append(self)
        return self

    def __exit__(self, *_):
        assert self.entered.pop() is self

    def use(self):
        raise AssertionError("the host's current device or stream was changed")


class Stream(Current):
    """A queue; ``captured`` is what goes into a graph."""

    ptr = 4711

    def __init__(self, entered, *, refuses_graphs=False):
        self.entered = entered
        self.queue = []
        self.captured = None
        self.refuses_graphs = refuses_graphs

    def later(self, action):
        assert self.captured is None, "not in a capture"
        self.queue.append(action)

    def launch(self, action):
        (self.queue if self.captured is None else self.captured).append(action)

    def run(self, count=None):
        count = len(self.queue) if count is None else count
        actions, self.queue[:count] = self.queue[:count], []
        for action in actions:
            action()
        return len(actions)

    def synchronize(self):
        self.run()

    def begin_capture(self):
        assert self.entered[-1] is self
        self.captured = []

    def end_capture(self):
        captured, self.captured = self.captured, None
        if self.refuses_graphs:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")

        def launch(stream):
            assert self.captured is None
            stream.queue.extend(captured)

        return types.SimpleNamespace(launch=launch)


class Event:
    """A place in the queue of a stream."""

    def __init__(self, *, disable_timing):
        assert disable_timing
        self.done = True

    def record(self, stream):
        self.stream, self.done = stream, False

        def happen():
            self.done = True

        stream.later(happen)

    def synchronize(self):
        while not self.done:
            assert self.stream.run(1), "an event that nothing brings about"


def _given(argument):
    """What the kernel gets of an argument of a launch."""
    if isinstance(argument, np.uint64) and not argument:
        return None
    if isinstance(argument, np.ndarray) and argument.dtype.kind == "V":
        assert argument.nbytes == 128
        return Driver.described(argument)
    return argument


def _forbidden(*_):
    raise AssertionError("CuPy's global state was changed or used")


def stand_in(  # noqa: C901  # one function for each of CuPy's
    num_bytes=1 << 30, *, count=1, capability="90", refuses_graphs=False
):
    """A module ``cupy``; ``entered`` holds the devices and streams that are current."""
    entered, emulator, streams = [], Emulator(seed=1), []

    class NoMemoryError(Exception):
        pass

    class DriverError(Exception):
        pass

    class Device(Current):
        compute_capability = capability

        def __init__(self, number):
            assert number < count
            self.number = number
            self.entered = entered

    def make_stream(*, non_blocking):
        assert non_blocking
        assert type(entered[-1]) is Device
        streams.append(Stream(entered, refuses_graphs=refuses_graphs))
        return streams[-1]

    class Pool:
        used = 0

        def malloc(self, size):
            assert [type(each) for each in entered[-2:]] == [Device, Stream]
            assert entered[-1].captured is None, "memory is allocated in a capture"
            if self.used + size > num_bytes:
                raise NoMemoryError
            self.used += size
            return size

        def free_bytes(self):
            return 0

        def free_all_blocks(self):
            self.used = 0

    class PinnedPool:
        """What nobody holds is given out again at once, as it is."""

        def __init__(self):
            self.given = []

        def malloc(self, size):
            assert type(entered[-1]) is Device
            for memory in self.given:
                if len(memory) == size and sys.getrefcount(memory) == 3:
                    return memory
            self.given.append(bytearray(b"\xff" * size))
            return self.given[-1]

        def free_all_blocks(self):
            pass

    class Function:
        max_dynamic_shared_size_bytes = 0

        def __init__(self, name):
            self.name = name

        def __call__(self, grid, block, arguments, *, shared_mem):
            assert [type(each) for each in entered[-2:]] == [Device, Stream]
            assert shared_mem <= max(48 << 10, self.max_dynamic_shared_size_bytes)
            assert not any(isinstance(each, int | float) for each in arguments)
            if math.prod(grid) == 0:
                raise DriverError("CUDA_ERROR_INVALID_VALUE")
            values = [_given(each) for each in arguments]
            entered[-1].launch(
                lambda: emulator.launch(self.name, grid, block[0], values, shared_bytes=shared_mem)
            )

    def make_array(shape, dtype, *, memptr):
        array = emulator.buffers.empty(shape, dtype).view(Array)
        assert array.nbytes == memptr
        return array

    def open_module(*, path):
        assert path.endswith(".cubin")
        assert all(stream.captured is None for stream in streams), "loaded in a capture"
        return types.SimpleNamespace(get_function=Function)

    def copy(target, source, size, kind, stream):
        assert kind in (1, 2)
        assert stream == Stream.ptr
        streams[-1].later(lambda: ctypes.memmove(target, source, size))

    module = types.SimpleNamespace(
        ndarray=make_array,
        RawModule=open_module,
        get_default_memory_pool=_forbidden,
        get_default_pinned_memory_pool=_forbidden,
        cuda=types.SimpleNamespace(
            Device=Device,
            Stream=make_stream,
            Event=Event,
            MemoryPool=Pool,
            PinnedMemoryPool=PinnedPool,
            set_allocator=_forbidden,
            set_pinned_memory_allocator=_forbidden,
            alloc=_forbidden,
            alloc_pinned_memory=_forbidden,
            driver=types.SimpleNamespace(CUDADriverError=DriverError),
            memory=types.SimpleNamespace(OutOfMemoryError=NoMemoryError),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=RuntimeError,
                setDevice=_forbidden,
                getDeviceCount=lambda: count,
                getDeviceProperties=lambda number: {"name": f"stand-in {number}".encode()},
                memGetInfo=lambda: (num_bytes, num_bytes),
                memcpyAsync=copy,
            ),
        ),
    )
    return module, entered
