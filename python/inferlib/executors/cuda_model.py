"""What the launches of a program work on: buffers, weights and KV cache on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core import Program
    from ..devices import Device, DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_matrices import DeviceWeights, Kind

    Launch: TypeAlias = Callable[[StepInputs, int], None]
    """Launches an op for the step's inputs and a number of rows."""

_KINDS = {"float32": "f32", "float16": "f16", "uint16": "bf16"}


def ceil_divide(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def kind_of(array: DeviceArray) -> str:
    """The kernels' word for an array's elements; bf16 is stored as uint16."""
    return _KINDS[array.dtype.name]


class Partials:
    """Room for the partial results of decode attention; all layers use it in turn."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._outputs: DeviceArray = None
        self._softmax: DeviceArray = None

    def arrays(self, rows: int, head_dim: int) -> tuple[DeviceArray, DeviceArray]:
        """Two arrays of at least ``rows * head_dim`` and ``rows * 2`` float32; they grow."""
        if self._outputs is None or len(self._outputs) < rows * head_dim:
            size = 2 * rows * head_dim
            self._outputs = self._device.alloc((size,), np.float32, "attention's partial outputs")
        if self._softmax is None or len(self._softmax) < rows * 2:
            self._softmax = self._device.alloc((rows * 4,), np.float32, "attention's partial sums")
        return self._outputs, self._softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """A program's data on a device.

    Attributes:
        device: Where it is.
        program: The forward pass.
        kind: Of activations and KV cache.
        buffers: Name → ``[rows, width]``.
        weights: All of them.
        kv: (group, layer) → K and V, ``[num_blocks, num_kv_heads, 16, head_dim]``.
        partials: Scratch of attention.
        constants: Rotary frequencies by number.
        attended: KV group → query heads per KV head, where attention needs work lists.
    """

    device: Device
    program: Program
    kind: Kind
    buffers: Mapping[str, DeviceArray]
    weights: DeviceWeights
    kv: Mapping[tuple[int, int], tuple[DeviceArray, DeviceArray]]
    partials: Partials
    constants: dict[int, DeviceArray] = field(default_factory=dict)
    attended: dict[int, int] = field(default_factory=dict)

    def from_element(self, buffer: str, start: int) -> DeviceArray:
        """A buffer's memory from an element of its first row on."""
        return self.buffers[buffer].reshape(-1)[start:]

    def width(self, buffer: str) -> int:
        """Elements per row."""
        return int(self.buffers[buffer].shape[1])

    def frequencies(self, op: dict[str, Any]) -> DeviceArray:
        """The rotary table of an op, on the device once."""
        if op["rope"] not in self.constants:
            array = self.device.alloc(op["inv_freq"].shape, np.float32, "rotary frequencies")
            self.device.upload(array, op["inv_freq"])
            self.constants[op["rope"]] = array
        return self.constants[op["rope"]]
