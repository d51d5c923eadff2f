"""What the launches of a program work on: buffers, weights and KV cache on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .cuda_proofs import prefill_sm90_is_chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core import Program
    from ..devices import Device, DeviceArray
    from .cuda_choices import KernelChoices
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
        choices: Which of several kernels with the same bits to launch.
        expert_rows: Arrays of a mixture of experts, by what is in them; empty without one.
        partials: Room for decode attention's partial outputs and sums, for all layers in turn; of
            ``None`` where no kernel needs it.
        constants: Rotary frequencies by number.
        attended: KV group → query heads per KV head, where attention needs work lists.
        prefilled: Head size → whether prefill goes by the kernel of sm_90a.
    """

    device: Device
    program: Program
    kind: Kind
    buffers: Mapping[str, DeviceArray]
    weights: DeviceWeights
    kv: Mapping[tuple[int, int], tuple[DeviceArray, DeviceArray]]
    choices: KernelChoices
    expert_rows: Mapping[str, DeviceArray]
    partials: tuple[DeviceArray, DeviceArray]
    constants: dict[int, DeviceArray] = field(default_factory=dict)
    attended: dict[int, int] = field(default_factory=dict)
    prefilled: dict[int, bool] = field(default_factory=dict)

    def from_element(self, buffer: str, start: int) -> DeviceArray:
        """A buffer's memory from an element of its first row on."""
        return self.buffers[buffer].reshape(-1)[start:]

    def width(self, buffer: str) -> int:
        """Elements per row."""
        return int(self.buffers[buffer].shape[1])

    def prefills_by_sm90(self, head_dim: int) -> bool:
        """Whether the device has shown that it may."""
        if head_dim not in self.prefilled:
            self.prefilled[head_dim] = prefill_sm90_is_chosen(
                self.device, self.choices, self.kind, head_dim
            )
        return self.prefilled[head_dim]

    def frequencies(self, op: dict[str, Any]) -> DeviceArray:
        """The rotary table of an op, on the device once."""
        if op["rope"] not in self.constants:
            array = self.device.alloc(op["inv_freq"].shape, np.float32, "rotary frequencies")
            self.device.upload(array, op["inv_freq"])
            self.constants[op["rope"]] = array
        return self.constants[op["rope"]]
