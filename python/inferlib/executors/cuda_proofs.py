"""What the kernels of sm_90a must show on a device before a model is given to them.

A request's results may not depend on how many rows are computed together. So ``linear_sm90`` has
all rows of the matrices that it takes, prefill and decode alike, if its tiles give the same bits;
and ``attention_prefill_sm90`` may stand beside ``attention_decode`` if they do. Neither is
documented of the hardware, so the device itself is asked, with numbers whose sums come out
differently when they are rounded in another way. What fails is not launched, and the log says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutorError
from .cuda_attention import decode_shared_bytes, plan_attention, prefill_shared_bytes
from .cuda_parts import to_bfloat16
from .cuda_sm90 import (
    ATTENTION_HEAD_DIMS,
    ATTENTION_THREADS,
    LINEAR_TILES,
    attention_shared_bytes,
    linear_launch,
)
from .tensor_maps import TensorMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..devices import Device, DeviceArray
    from .cuda_choices import KernelChoices
    from .cuda_matrices import Kind

_logger = logging.getLogger(f"{(__package__ or '').rpartition('.')[0]}.cuda")

_ARCHITECTURE = "sm_90"
_ROWS, _OUTPUTS, _COLUMNS = 12, 72, 1096  # three slices of columns, the last one not whole
_TOLERANCE = 1e-4
"""Of a sum, relative to the sum of magnitudes: a wrong layout is off by about 1."""
_NEW, _CONTEXT, _GROUP = 40, 280, 2  # across the border of two segments


def linear_is_proven(device: Device, kind: Kind) -> bool:
    """Whether ``linear_sm90`` is right on a device, and its tiles give the same bits."""
    if kind == "f32" or device.architecture != _ARCHITECTURE:
        return False
    generator = np.random.default_rng(0)
    x, x_values = _numbers(generator, (_ROWS, _COLUMNS), kind)
    weight, weight_values = _numbers(generator, (_OUTPUTS, _COLUMNS), kind)
    on_device = [_uploaded(device, each) for each in (weight, x)]
    out = _uploaded(device, np.zeros((_ROWS, _OUTPUTS), np.float32))
    found = []
    try:
        for tile in LINEAR_TILES:
            arrays = (out, *on_device, None)
            linear_launch(device, f"{kind}_f32", tile, arrays, _OUTPUTS)(_ROWS)
            found.append(device.download(out))
    except ExecutorError as error:
        return _is_refused(device, "linear_sm90", str(error))
    difference = np.abs(found[0] - x_values @ weight_values.T)
    if not (difference <= _TOLERANCE * (np.abs(x_values) @ np.abs(weight_values).T)).all():
        return _is_refused(device, "linear_sm90", "its sums are wrong")
    if any(each.tobytes() != found[0].tobytes() for each in found):
        return _is_refused(device, "linear_sm90", "its tiles round differently")
    return True


def prefill_sm90_is_chosen(
    device: Device, choices: KernelChoices, kind: Kind, head_dim: int
) -> bool:
    """Whether to prefill by ``attention_prefill_sm90``: with the bits of decoding, and quicker."""
    if device.architecture != _ARCHITECTURE or head_dim not in ATTENTION_HEAD_DIMS:
        return False
    case = _AttentionCase(device, kind, head_dim)
    kernel = f"attention_prefill_sm90_{kind}_{head_dim}"
    try:
        found = [case.result(launch) for launch in (case.decode, case.prefill_sm90)]
    except ExecutorError as error:
        return _is_refused(device, kernel, str(error))
    if found[0].tobytes() != found[1].tobytes():
        return _is_refused(device, kernel, "decoding has other bits")
    candidates = {"sm90": case.prefill_sm90, "mma": case.prefill}
    return choices.choose(f"attention_prefill {kind}_{head_dim}", candidates) == "sm90"


def _is_refused(device: Device, kernel: str, reason: str) -> bool:
    device.synchronize()  # before the arrays go
    _logger.warning("%s is not used on %s: %s", kernel, device.name, reason)
    return False


class _AttentionCase:
    """The last tokens of one sequence, as each of the kernels computes them."""

    def __init__(self, device: Device, kind: Kind, head_dim: int) -> None:
        self._device, self._head_dim = device, head_dim
        self._name = f"{kind}_{head_dim}"
        generator = np.random.default_rng(1)
        blocks = -(-_CONTEXT // 16)
        cache = (blocks, 1, 16, head_dim)
        q = _numbers(generator, (_NEW, _GROUP * head_dim), kind)[0]
        self._q = _uploaded(device, q)
        self._k, self._v = (
            _uploaded(device, _numbers(generator, cache, kind)[0]) for _ in range(2)
        )
        self._out = _uploaded(device, np.zeros_like(q))
        starts = np.array([0, _NEW], np.int32)
        positions = np.arange(_CONTEXT - _NEW, _CONTEXT, dtype=np.int32)
        self._positions, self._starts = (_uploaded(device, each) for each in (positions, starts))
        self._sizes = (
            *(np.int32(_GROUP * head_dim), np.int32(_GROUP), np.int32(1), np.int32(0)),
            *(np.float32(head_dim**-0.5), np.float32(0)),
        )
        tables = (np.arange(blocks, dtype=np.int32)[::-1], np.array([0, blocks], np.int32))
        self._tables = [_uploaded(device, each) for each in tables]
        few, many = (
            plan_attention(starts, positions, group=_GROUP, window=None, decode_rows=rows)
            for rows in (_NEW * _GROUP, 0)
        )
        self._num_items, self._num_tiles = len(few.decode_items), len(few.decode_tiles)
        self._num_prefilled = len(many.prefill_tiles)
        self._items, self._tiles, self._prefilled = (
            _uploaded(device, each)
            for each in (few.decode_items, few.decode_tiles, many.prefill_tiles)
        )
        shape = (self._num_items, 16)
        self._partials = [
            _uploaded(device, np.zeros((*shape, width), np.float32)) for width in (head_dim, 2)
        ]

    def result(self, launch: Callable[[], None]) -> NDArray[Any]:
        """What a launch computes."""
        self._device.upload(self._out, np.zeros(self._out.shape, self._out.dtype))
        launch()
        return self._device.download(self._out)

    def decode(self) -> None:
        """In segments, combined."""
        self._device.launch(
            f"attention_decode_{self._name}",
            (self._num_items, 1),
            32,
            (*self._partials, self._items, self._q, self._k, self._v, *self._rest()),
            shared_bytes=decode_shared_bytes(self._head_dim),
        )
        self._device.launch(
            f"attention_decode_combine_{self._name}",
            (self._num_tiles, 1, 16),
            128,
            (self._out, *self._partials, self._tiles, self._starts, None, *self._sizes[1:3]),
        )

    def prefill(self) -> None:
        """With the products of warps."""
        self._device.launch(
            f"attention_prefill_{self._name}",
            (self._num_prefilled, 1),
            128,
            (self._out, self._prefilled, self._q, self._k, self._v, *self._rest()),
            shared_bytes=prefill_shared_bytes(self._head_dim),
        )

    def prefill_sm90(self) -> None:
        """With those of warpgroups."""
        maps = (cache_map(self._k), cache_map(self._v))
        self._device.launch(
            f"attention_prefill_sm90_{self._name}",
            (self._num_prefilled, 1),
            ATTENTION_THREADS,
            (self._out, self._prefilled, *maps, self._q, *self._rest()),
            shared_bytes=attention_shared_bytes(self._head_dim),
        )

    def _rest(self) -> tuple[Any, ...]:
        return (self._positions, self._starts, *self._tables, None, *self._sizes)


def cache_map(cache: DeviceArray) -> TensorMap:
    """Keys or values, ``[num_blocks, num_kv_heads, 16, head_dim]``, as loads of blocks see them."""
    blocks, heads, rows, head_dim = (int(size) for size in cache.shape)
    return TensorMap(array=cache, shape=(blocks * heads, rows, head_dim), box=(1, rows, 64))


def _numbers(
    generator: np.random.Generator, shape: tuple[int, ...], kind: Kind
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Numbers of many magnitudes, as the kernels store them and as they are."""
    numbers = generator.standard_normal(shape) * 2.0 ** generator.integers(-5, 3, shape)
    if kind == "f16":
        halves = numbers.astype(np.float16)
        return halves, halves.astype(np.float64)
    bits = to_bfloat16(numbers.astype(np.float32))
    return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _uploaded(device: Device, values: NDArray[Any]) -> DeviceArray:
    array = device.alloc(values.shape, values.dtype, "a proof of kernels")
    device.upload(array, np.ascontiguousarray(values))
    return array
