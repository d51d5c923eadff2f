"""Which thread block attends what: rows of sequences in tiles, positions in segments.

A row is one token's one query head of those that share a KV head. Who computes a row changes none
of its bits (``cuda/attention.cuh``); this only spreads the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import KvGroup

DECODE_ROWS = 16
PREFILL_ROWS = 64
SEGMENT = 256
HEAD_DIMS = {"bf16": (16, 32, 64, 80, 96, 112, 128, 192, 256), "f16": (64, 128, 256)}
"""Those that kernels are compiled for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """Work lists of one step, int32.

    Attributes:
        decode_items: ``[items, 3]``: sequence, first row, segment.
        decode_tiles: ``[tiles, 4]``: sequence, first row, first item, number of items.
        prefill_tiles: ``[tiles, 2]``: sequence, first row.
        rounds: First and end of the items and of the tiles that are computed at once. A tile's
            first item is counted from its round's.
    """

    decode_items: NDArray[np.int32]
    decode_tiles: NDArray[np.int32]
    prefill_tiles: NDArray[np.int32]
    rounds: tuple[tuple[int, int, int, int], ...]


NO_WORK = AttentionWork(
    decode_items=np.empty((0, 3), np.int32),
    decode_tiles=np.empty((0, 4), np.int32),
    prefill_tiles=np.empty((0, 2), np.int32),
    rounds=(),
)
"""Of a kernel that needs no lists."""


def is_latent(group: KvGroup) -> bool:
    """Whether keys and values differ in width: then ``attention_latent`` has prefill and decode."""
    return group.k_head_dim != group.v_head_dim


def decode_shared_bytes(head_dim: int) -> int:
    """Dynamic shared memory of ``attention_decode``."""
    return 256 * (head_dim + 8) + (8192 if head_dim > 128 else 0)


def prefill_shared_bytes(head_dim: int) -> int:
    """Dynamic shared memory of ``attention_prefill``."""
    return 256 * (head_dim + 8) + 256 * head_dim + (32768 if head_dim > 128 else 0)


def plan_attention(
    query_start_loc: NDArray[np.int32],
    positions: NDArray[np.int32],
    *,
    group: int,
    window: int | None,
    max_items: int = 1 << 30,
    decode_rows: int = DECODE_ROWS,
) -> AttentionWork:
    """Share out the rows of a batch.

    Args:
        query_start_loc: ``[num_seqs + 1]``.
        positions: ``[num_tokens]``, ascending within a sequence.
        group: Query heads per KV head.
        window: Tokens a query may see; ``None`` means all.
        max_items: Items that are computed at once; not less than a tile has.
        decode_rows: Sequences of at most so many rows are decoded, in segments of their own; the
            others are prefilled.
    """
    rows = np.diff(query_start_loc) * group
    few = np.flatnonzero(rows <= decode_rows)
    sequences, first_rows = _tiles(few, rows, DECODE_ROWS)
    first = query_start_loc[sequences] + first_rows // group
    end_row = np.minimum(rows[sequences], first_rows + DECODE_ROWS) - 1
    last = query_start_loc[sequences] + end_row // group
    first_visible = positions[first] * 0
    if window is not None:
        first_visible = np.maximum(0, positions[first] - window + 1)
    first_segment = first_visible // SEGMENT
    counts = positions[last] // SEGMENT - first_segment + 1
    starts = np.cumsum(counts) - counts
    tile_of_item = np.repeat(np.arange(len(counts)), counts)
    segments = first_segment[tile_of_item] + np.arange(counts.sum()) - starts[tile_of_item]
    items = (sequences[tile_of_item], first_rows[tile_of_item], segments)
    many = np.flatnonzero(rows > decode_rows)
    rounds = _rounds(starts, counts, max_items)
    for first_item, _, first_tile, end_tile in rounds[1:]:
        starts[first_tile:end_tile] -= first_item
    return AttentionWork(
        decode_items=np.stack(items, axis=1).astype(np.int32),
        decode_tiles=np.stack((sequences, first_rows, starts, counts), axis=1).astype(np.int32),
        prefill_tiles=np.stack(_tiles(many, rows, PREFILL_ROWS), axis=1).astype(np.int32),
        rounds=rounds,
    )


def _rounds(
    starts: NDArray[np.intp], counts: NDArray[np.intp], max_items: int
) -> tuple[tuple[int, int, int, int], ...]:
    """As many whole tiles per round as fit."""
    ends = starts + counts
    rounds: list[tuple[int, int, int, int]] = []
    tile = 0
    while tile < len(starts):
        first = int(starts[tile])
        end_tile = max(int(np.searchsorted(ends, first + max_items, side="right")), tile + 1)
        rounds.append((first, int(ends[end_tile - 1]), tile, end_tile))
        tile = end_tile
    return tuple(rounds)


def _tiles(
    sequences: NDArray[np.intp], rows: NDArray[np.int32], tile_rows: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Sequence and first row of every tile."""
    counts = -(-rows[sequences] // tile_rows)
    starts = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) - np.repeat(starts, counts)
    return np.repeat(sequences, counts), places * tile_rows
