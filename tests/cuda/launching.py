"""One kernel under every schedule: the same bits under all, and those are returned."""

from __future__ import annotations

import collections
import ctypes
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.device import EmulatedDevice
from tests.cuda_emulator.numbers import to_bits, to_values

from inferlib.executors.kernels import KernelSources, source_folder
from inferlib.executors.tensor_maps import TensorMap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike, NDArray

    from inferlib.devices import Device

SEEDS = range(6)
"""0 is in order; the others are shuffled."""

# Relative to the norm of the expected values: one rounding of the result, and room for the sums.
TOLERANCE = {"f32": 2e-6, "f16": 4e-4, "bf16": 2e-3}

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
KINDS = tuple(TOLERANCE)

_emulators: dict[int, Emulator] = {}
_gpu: list[Callable[[], Device]] = []


@dataclass(frozen=True)
class Out:
    """An array that the kernel writes: its shape and type, or its contents before the launch."""

    shape: tuple[int, ...] = ()
    dtype: DTypeLike = np.float32
    before: NDArray[Any] | None = None

    def contents(self) -> NDArray[Any]:
        """What is there before the launch: NaN, or -1, unless given."""
        if self.before is not None:
            return self.before
        array = np.empty(self.shape, self.dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array


def emulator(seed: int) -> Emulator:
    """One emulator per schedule, so that libraries are opened once."""
    return _emulators.setdefault(seed, Emulator(seed=seed))


def use_gpu() -> None:
    """Run everything on the first GPU instead: what ``--device=gpu`` does."""
    from inferlib.executors.cupy_device import open_gpu

    open_gpu().close()  # or say now what is missing
    _gpu.append(open_gpu)


def is_gpu() -> bool:
    """Whether the kernels run on a real GPU."""
    return bool(_gpu)


class CountedDevice:
    """A device that counts its launches, those inside of graphs when they are recorded."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.launched: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(self, kernel: str, *arguments: Any, **options: Any) -> None:
        self.launched[kernel] += 1
        self._device.launch(kernel, *arguments, **options)


def open_device(seed: int = 0) -> CountedDevice:
    """A device for a whole model; ``seed`` is of its schedules, if it is emulated."""
    return CountedDevice(_gpu[0]() if _gpu else EmulatedDevice(seed=seed))


@functools.cache
def gpu() -> Device:
    """The device of all single launches on a GPU."""
    device = _gpu[0]()
    device.prepare(KernelSources(source_folder()).files.keys())
    return device


def run(
    kernel: str,
    grid: Sequence[int],
    threads: int,
    arguments: Sequence[Any],
    *,
    shared_bytes: int = 0,
    seeds: Sequence[int] = SEEDS,
) -> list[NDArray[Any]]:
    """Launch under every schedule; return the ``Out`` arrays, in order.

    Emulated, all arrays lie between guard pages. On a GPU the kernel runs as often as there would
    be schedules.
    """
    first: list[NDArray[Any]] = []
    for seed in seeds:
        if is_gpu():
            results = launch_on(gpu(), kernel, grid, threads, arguments, shared_bytes)
        else:
            results = _launch_guarded(seed, kernel, grid, threads, arguments, shared_bytes)
        if not first:
            first = results
        for result, expected in zip(results, first, strict=True):
            assert result.tobytes() == expected.tobytes(), f"schedule {seed} of {kernel} differs"
    return first


def _launch_guarded(
    seed: int,
    kernel: str,
    grid: Sequence[int],
    threads: int,
    arguments: Sequence[Any],
    shared_bytes: int,
) -> list[NDArray[Any]]:
    device = emulator(seed)
    outs, values = [], []
    for index, argument in enumerate(arguments):
        value, name = argument, f"argument {index}"
        if isinstance(argument, Out):
            value = device.buffers.copy_of(argument.contents(), name)
            outs.append(value)
        elif isinstance(argument, TensorMap):
            value = argument.of(device.buffers.copy_of(argument.array, name))
        elif isinstance(argument, np.ndarray):
            value = device.buffers.copy_of(argument, name)
        values.append(value)
    device.launch(kernel, grid, threads, values, shared_bytes=shared_bytes)
    return [out.copy() for out in outs]


def launch_on(
    device: Device,
    kernel: str,
    grid: Sequence[int],
    threads: int,
    arguments: Sequence[Any],
    shared_bytes: int,
) -> list[NDArray[Any]]:
    """Launch once on any device; the ``Out`` arrays, in order."""
    outs, values = [], []
    for index, argument in enumerate(arguments):
        value = argument
        if isinstance(argument, Out | np.ndarray):
            contents = argument.contents() if isinstance(argument, Out) else argument
            value = device.alloc(contents.shape, contents.dtype, f"argument {index}")
            device.upload(value, contents)
        elif isinstance(argument, TensorMap):
            array = device.alloc(argument.array.shape, argument.array.dtype, f"argument {index}")
            device.upload(array, argument.array)
            value = argument.of(array)
            if is_gpu():
                value = value.encode(ctypes.CDLL("libcuda.so.1"))
        if isinstance(argument, Out):
            outs.append(value)
        values.append(value)
    device.launch(kernel, grid, threads, values, shared_bytes=shared_bytes)
    return [device.download(out) for out in outs]


def numbers(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Normal numbers as a kernel stores them."""
    return to_bits(generator.standard_normal(shape), kind)


def assert_close(
    found: NDArray[Any], expected: NDArray[Any], kind: str, *, factor: float = 1.0
) -> None:
    """Compare stored numbers with float64 ones, by the norm of the difference."""
    difference = to_values(found) - expected
    assert np.isfinite(difference).all()
    error = np.linalg.norm(difference) / max(np.linalg.norm(expected), 1e-30)
    if (
        expected.size < 256
    ):  # few roundings do not even out: the worst case is twice the typical one
        factor *= 2
    assert error <= factor * TOLERANCE[kind], f"relative error {error:.2e}"
