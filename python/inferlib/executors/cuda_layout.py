"""Where the arrays of a step lie in its input buffer, and the shapes for which graphs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cuda_attention import PREFILL_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cuda_attention import AttentionWork
    from .cuda_memory import StepLimits
    from .cuda_step import HostStep

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Rows of the decode steps that are captured; a step takes the next larger one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShape:
    """Of one KV group: pairs of block copies, items and tiles of decode, tiles of prefill."""

    copies: int
    items: int
    tiles: int
    prefill: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """How long the arrays of a step are.

    Attributes:
        rows: Tokens.
        seqs: Sequences.
        sampled: Rows of logits.
        groups: One per KV group.
    """

    rows: int
    seqs: int
    sampled: int
    groups: tuple[GroupShape, ...]

    @classmethod
    def of(cls, step: HostStep, work: Sequence[AttentionWork]) -> StepShape:
        """That of a step as it is."""
        return cls(
            rows=step.num_tokens,
            seqs=step.num_seqs,
            sampled=step.num_sampled,
            groups=tuple(
                GroupShape(
                    copies=len(group.block_copies) // 2,
                    items=len(its_work.decode_items),
                    tiles=len(its_work.decode_tiles),
                    prefill=len(its_work.prefill_tiles),
                )
                for group, its_work in zip(step.groups, work, strict=True)
            ),
        )

    @classmethod
    def largest(cls, limits: StepLimits, attended: Sequence[int | None]) -> StepShape:
        """More than any step has; ``attended``: query heads per KV head of groups with lists."""
        seqs = max(limits.seqs, min(limits.rows, BUCKETS[-1]))
        return cls(
            rows=limits.rows,
            seqs=seqs,
            sampled=limits.rows,
            groups=tuple(
                GroupShape(
                    copies=2 * seqs,
                    items=0 if group is None else 2 * seqs * limits.segments,
                    tiles=0 if group is None else seqs,
                    prefill=0 if group is None else -(-limits.rows * group // PREFILL_ROWS) + seqs,
                )
                for group in attended
            ),
        )


class InputLayout:
    """Names → slices of the buffer, each from a multiple of 16 bytes on.

    Block tables come behind ``size``: their length is no part of a shape.
    """

    def __init__(self, shape: StepShape) -> None:
        self._places: dict[str, slice] = {}
        self.size: int = 0
        rows, seqs, sampled = shape.rows, shape.seqs, shape.sampled
        self._add("token_ids", rows)
        self._add("failed", rows)
        self._add("positions", rows)
        self._add("sequences", rows)
        self._add("query_start_loc", seqs + 1)
        self._add("logits_indices", sampled)
        for name in ("temperature", "top_k", "top_p", "min_p"):
            self._add(name, sampled)
        self._add("seeds", 2 * sampled)
        self._add("sequence_indices", sampled)
        self._add("draw_positions", sampled)
        for number, group in enumerate(shape.groups):
            self._add(f"slot_mapping {number}", rows)
            self._add(f"block_table_start_loc {number}", seqs + 1)
            self._add(f"block_copies {number}", 2 * group.copies)
            self._add(f"decode_items {number}", 3 * group.items)
            self._add(f"decode_tiles {number}", 4 * group.tiles)
            self._add(f"prefill_tiles {number}", 2 * group.prefill)

    def _add(self, name: str, length: int) -> None:
        self._places[name] = slice(self.size, self.size + length)
        self.size += -(-length // 4) * 4

    def __getitem__(self, name: str) -> slice:
        return self._places[name]


def bucket_of(
    step: HostStep, work: Sequence[AttentionWork], limits: StepLimits, max_items: Sequence[int]
) -> StepShape | None:
    """The shape for which a step's graph is kept; ``None`` if it is not one of decode alone.

    Items of attention grow with the sequences, so they have buckets too: powers of two.
    """
    if not step.num_sampled or step.has_copies():
        return None
    if any(len(each.prefill_tiles) or len(each.rounds) > 1 for each in work):
        return None
    largest = min(limits.rows, BUCKETS[-1])
    if step.num_tokens > largest or 2 * step.num_sampled < step.num_tokens:
        return None
    rows = min(next(each for each in BUCKETS if each >= step.num_tokens), largest)
    groups = []
    for each, most in zip(work, max_items, strict=True):
        items = len(each.decode_items)
        room = min(1 << (max(items, rows) - 1).bit_length(), most) if items else 0
        if room < items:
            return None
        groups.append(GroupShape(copies=0, items=room, tiles=rows if items else 0, prefill=0))
    return StepShape(rows=rows, seqs=rows, sampled=rows, groups=tuple(groups))
