"""How much memory a program takes on a device: everything is reserved before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config import BLOCK_SIZE
from .cuda_attention import DECODE_ROWS, SEGMENT, is_latent
from .cuda_weights import FEW_ROWS, PANEL_ROWS

if TYPE_CHECKING:
    from .._core import Program
    from ..config import EngineConfig
    from ..devices import Device
    from .cuda_matrices import Kind

DTYPES: dict[Kind, type[np.generic]] = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16}
"""What activations, keys and values are stored as."""

_LOGITS_ROWS = 256
"""Rows of logits that are held at once; more are computed in turns, since 4,096 rows of 128k logits
would take 2 GiB."""
_PARTIAL_BYTES = 64 << 20
"""Partial results of decode attention; what needs more is computed in turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """What no step exceeds.

    Attributes:
        rows: Tokens.
        seqs: Sequences.
        model_len: Tokens of a sequence.
    """

    rows: int
    seqs: int
    model_len: int

    @classmethod
    def of(cls, config: EngineConfig, max_model_len: int) -> StepLimits:
        """Those of a model that is being loaded."""
        rows = config.max_num_batched_tokens
        return cls(rows=rows, seqs=min(rows, config.max_num_seqs), model_len=max_model_len)

    @property
    def sampled(self) -> int:
        """Rows of logits that are held at once."""
        return min(self.rows, _LOGITS_ROWS)

    @property
    def blocks(self) -> int:
        """KV blocks of a sequence."""
        return -(-self.model_len // BLOCK_SIZE)

    @property
    def segments(self) -> int:
        """Segments of attention in which a tile of a sequence may have work."""
        return -(-self.model_len // SEGMENT) + 1


def kind_for(config: EngineConfig, device: Device) -> Kind:
    """What activations, keys and values are stored as."""
    if config.precision == "exact":
        return "f32"
    return "bf16" if device.has_bfloat16 else "f16"


def block_bytes(program: Program, kind: Kind) -> int:
    """Bytes of one KV block, all groups together; every group gets the same number of blocks."""
    elements = sum(
        group.num_layers * group.num_kv_heads * (group.k_head_dim + group.v_head_dim)
        for group in program.kv_groups
    )
    return BLOCK_SIZE * elements * np.dtype(DTYPES[kind]).itemsize


def buffer_shapes(
    program: Program, kind: Kind, limits: StepLimits
) -> dict[str, tuple[tuple[int, int], type[np.generic]]]:
    """Shape and type of every buffer; logits, those of routers too, are always float32."""
    ops = program.ops
    logits = {str(op["out"]) for name, op in ops if name == "lm_head"}
    logits |= {str(op["router_logits"]) for name, op in ops if name == "moe"}
    return {
        name: (
            (limits.rows if rows == "tokens" else limits.sampled, width),
            np.float32 if name in logits else DTYPES[kind],
        )
        for name, (rows, width) in program.buffers.items()
    }


def expert_arrays(
    program: Program, kind: Kind, limits: StepLimits
) -> dict[str, tuple[int, type[np.generic]]]:
    """Elements and type of what mixtures of experts need beside buffers, for all layers in turn.

    Results have the room of gate and up, which are read before there are any.
    """
    mixtures = [op for name, op in program.ops if name == "moe"]
    if not mixtures:
        return {}
    choices = limits.rows * max(op["top_k"] for op in mixtures)
    shapes = [program.weights[op["gate"]] for op in mixtures]
    inner, hidden = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
    return {
        "experts of tokens": (choices, np.int32),
        "shares of experts": (choices, np.float32),
        "first choices of experts": (max(shape[0] for shape in shapes) + 1, np.int32),
        "choices by expert": (choices, np.int32),
        "rows within experts": (choices * inner, DTYPES[kind]),
        "results of experts": (choices * max(2 * inner, hidden), DTYPES[kind]),
    }


def max_items(program: Program, number: int, limits: StepLimits) -> int:
    """Work items of decode attention that are computed at once in a KV group.

    One tile's at least; not more than all sequences can have, nor than ``_PARTIAL_BYTES`` hold.
    """
    group = program.kv_groups[number]
    item_bytes = group.num_kv_heads * DECODE_ROWS * (group.k_head_dim + 2) * 4
    return max(limits.segments, min(limits.seqs * limits.segments, _PARTIAL_BYTES // item_bytes))


def partial_rows(program: Program, limits: StepLimits) -> tuple[int, int]:
    """Elements of the partial outputs, and rows of them; all groups and layers share the arrays.

    None where all attention is to latents, which has no partial results.
    """
    rows = {
        number: max_items(program, number, limits) * group.num_kv_heads * DECODE_ROWS
        for number, group in enumerate(program.kv_groups)
        if not is_latent(group)
    }
    elements = [count * program.kv_groups[number].k_head_dim for number, count in rows.items()]
    return max(elements, default=0), max(rows.values(), default=0)


def panels_of_head(program: Program) -> int:
    """Panels of the logits' weight: so many are searched for the largest at once."""
    logits = next(str(op["out"]) for name, op in program.ops if name == "lm_head")
    return -(-program.buffers[logits][1] // PANEL_ROWS)


def workspace_bytes(program: Program, kind: Kind, limits: StepLimits) -> int:
    """Bytes of all that is not weights and KV blocks, but for the inputs of a step (a few MiB)."""
    buffers = sum(
        rows * width * np.dtype(dtype).itemsize
        for (rows, width), dtype in buffer_shapes(program, kind, limits).values()
    )
    buffers += sum(
        size * np.dtype(dtype).itemsize
        for size, dtype in expert_arrays(program, kind, limits).values()
    )
    scratch_block = block_bytes(program, kind)
    if kind == "f32":
        return buffers + scratch_block
    elements, rows = partial_rows(program, limits)
    largest = 2 * panels_of_head(program) * FEW_ROWS
    return buffers + scratch_block + 4 * (elements + 2 * rows + largest)
