"""All that a program launches in a step, over buffers that are allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import BLOCK_SIZE
from .cuda_choices import KernelChoices
from .cuda_draws import Draws
from .cuda_inputs import InputBuffer
from .cuda_memory import (
    DTYPES,
    buffer_shapes,
    expert_arrays,
    max_items,
    panels_of_head,
    partial_rows,
)
from .cuda_model import DeviceModel
from .cuda_ops import plan_launches
from .cuda_products import greedy_head
from .cuda_weights import FEW_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core import Program
    from ..devices import Device, DeviceArray
    from .cuda_draws import DrawKind
    from .cuda_inputs import StepInputs
    from .cuda_matrices import DeviceWeights, Kind
    from .cuda_memory import StepLimits
    from .cuda_model import Launch

    KvCache = dict[tuple[int, int], tuple[DeviceArray, DeviceArray]]


def kv_cache(device: Device, program: Program, kind: Kind, num_blocks: int) -> KvCache:
    """Allocate K and V of every layer, and one block of nobody behind them for spare rows.

    Raises:
        OutOfMemoryError: The device refuses the memory.
    """

    def cache(num_kv_heads: int, head_dim: int) -> DeviceArray:
        shape = (num_blocks + 1, num_kv_heads, BLOCK_SIZE, head_dim)
        return device.alloc(shape, DTYPES[kind], "KV cache")

    return {
        (number, layer): (
            cache(group.num_kv_heads, group.k_head_dim),
            cache(group.num_kv_heads, group.v_head_dim),
        )
        for number, group in enumerate(program.kv_groups)
        for layer in range(group.num_layers)
    }


class ProgramLaunches:
    """A program as launches: first of all rows, then of those whose logits are wanted.

    Args:
        device: Where everything is.
        program: The forward pass.
        kind: Of activations and KV cache.
        limits: What no step exceeds.
        weights: All of them.
        kv: As ``kv_cache`` gives it.
        scratch_block: Its last block.

    Raises:
        UnsupportedModelError: There is no kernel for a part of the model.
        OutOfMemoryError: The device refuses the memory.
    """

    def __init__(
        self,
        device: Device,
        program: Program,
        kind: Kind,
        limits: StepLimits,
        *,
        weights: DeviceWeights,
        kv: KvCache,
        scratch_block: int,
    ) -> None:
        self._device = device
        self._kv = kv
        buffers = {
            name: device.alloc(shape, dtype, f"buffer {name}")
            for name, (shape, dtype) in buffer_shapes(program, kind, limits).items()
        }
        expert_rows = {
            name: device.alloc((size,), dtype, name)
            for name, (size, dtype) in expert_arrays(program, kind, limits).items()
        }
        partials: tuple[DeviceArray, DeviceArray] = (None, None)
        largest = None
        if kind != "f32":
            elements, rows = partial_rows(program, limits)
            if elements:
                partials = (
                    device.alloc((elements,), np.float32, "attention's partial outputs"),
                    device.alloc((2 * rows,), np.float32, "attention's partial sums"),
                )
            shape = (panels_of_head(program), FEW_ROWS)
            largest = (
                device.alloc(shape, np.float32, "largest logits"),
                device.alloc(shape, np.int32, "tokens of the largest logits"),
            )
        model = DeviceModel(
            device=device,
            program=program,
            kind=kind,
            buffers=buffers,
            weights=weights,
            kv=kv,
            choices=KernelChoices(device),
            expert_rows=expert_rows,
            partials=partials,
        )
        ops = program.ops
        first = next(place for place, (op, _) in enumerate(ops) if op == "gather_rows")
        self.of_tokens: list[Launch] = plan_launches(model, ops[:first])
        head = next(place for place, (op, _) in enumerate(ops) if op == "lm_head")
        self._of_sampled = plan_launches(model, ops[first:head])
        self._head = plan_launches(model, ops[head:])
        self._greedy_head = greedy_head(model, ops[head][1], largest)
        model.choices.save()
        logits = buffers[ops[head][1]["out"]]
        self._rows_per_turn = int(logits.shape[0])
        self.draws: Draws = Draws(device, logits)
        groups = range(len(program.kv_groups))
        self.max_items: list[int] = [max_items(program, number, limits) for number in groups]
        self.inputs: InputBuffer = InputBuffer(
            device,
            limits,
            windows=[group.window for group in program.kv_groups],
            attended=model.attended,
            max_items=self.max_items,
            scratch_block=scratch_block,
        )

    def all(self, inputs: StepInputs, draw: DrawKind) -> None:
        """Launch a whole step of decode."""
        for launch in self.of_tokens:
            launch(inputs, inputs.num_tokens)
        self.sample(inputs, draw, 0, inputs.num_sampled)

    def copy_blocks(self, inputs: StepInputs) -> None:
        """Launch the copies of blocks that sequences no longer share."""
        for (number, _), caches in self._kv.items():
            group = inputs.groups[number]
            if group.num_copies:
                words = [cache.reshape(-1).view(np.uint32) for cache in caches]
                sizes = [np.int32(cache[0].nbytes // 4) for cache in caches]
                arguments = (*words, group.block_copies, *sizes)
                self._device.launch("copy_blocks_u32", (group.num_copies,), 256, arguments)

    def turns(self, inputs: StepInputs) -> Iterator[tuple[int, int]]:
        """Runs of sampled rows whose logits fit the buffer."""
        for start in range(0, inputs.num_sampled, self._rows_per_turn):
            yield start, min(inputs.num_sampled, start + self._rows_per_turn)

    def sample(self, inputs: StepInputs, draw: DrawKind, start: int, end: int) -> None:
        """Compute the logits of some sampled rows and draw their tokens."""
        part = inputs.from_sampled_row(start) if start else inputs
        for launch in self._of_sampled:
            launch(part, end - start)
        if draw == "greedy" and self._greedy_head is not None and end - start <= FEW_ROWS:
            self._greedy_head(inputs, start, end)
            return
        for launch in self._head:
            launch(part, end - start)
        self.draws.launch(inputs, draw, start, end)
