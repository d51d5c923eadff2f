"""Sequences in a paged cache for attention kernels: random blocks, NaN in what is not theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tests import reference
from tests.cuda_emulator.numbers import to_bits, to_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """A batch of sequences, and what attention must give.

    Attributes:
        q: ``[tokens, num_heads * head_dim]``.
        k_cache: ``[num_blocks, num_kv_heads, 16, head_dim]``, and so ``v_cache`` but for its width.
        query_start_loc: ``[num_seqs + 1]``.
        seq_lens: ``[num_seqs]``.
        expected: ``[tokens, num_heads * v_head_dim]``, float64.
        sinks: ``[num_heads]``, or ``None``.
    """

    q: NDArray[Any]
    k_cache: NDArray[Any]
    v_cache: NDArray[Any]
    query_start_loc: NDArray[np.int32]
    seq_lens: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequences: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    block_table_start_loc: NDArray[np.int32]
    expected: NDArray[np.float64]
    sinks: NDArray[np.float32] | None


def attention_case(
    kind: str,
    *,
    lengths: list[tuple[int, int]],
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    v_head_dim: int | None = None,
    window: int | None = None,
    softcap: float | None = None,
    has_sinks: bool = False,
    seed: int = 3,
) -> AttentionCase:
    """Make a batch; ``lengths`` holds (tokens of this step, tokens in the cache after it).

    Values are as wide as keys unless ``v_head_dim`` is given.
    """
    v_head_dim = v_head_dim or head_dim
    generator = np.random.default_rng(seed)
    counts = [-(-total // BLOCK_SIZE) for _, total in lengths]
    num_blocks = sum(counts) + 3
    order = generator.permutation(num_blocks).astype(np.int32)
    k_cache, v_cache = (
        to_bits(np.full((num_blocks, num_kv_heads, BLOCK_SIZE, width), np.nan), kind)
        for width in (head_dim, v_head_dim)
    )
    # Below and above all scores of a row.
    sinks = np.linspace(-2, 6, num_heads).astype(np.float32) if has_sinks else None
    q_rows, expected, positions, sequences = [], [], [], []
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    tables = order[: starts[-1]].copy()
    for index, (new, total) in enumerate(lengths):
        q, k, v = (
            to_bits(generator.standard_normal(size), kind)
            for size in (
                (new, num_heads, head_dim),
                (total, num_kv_heads, head_dim),
                (total, num_kv_heads, v_head_dim),
            )
        )
        where = np.arange(total - new, total)
        for position in range(total):
            block = tables[starts[index] + position // BLOCK_SIZE]
            k_cache[block, :, position % BLOCK_SIZE] = k[position]
            v_cache[block, :, position % BLOCK_SIZE] = v[position]
        out = reference.attention(
            *(to_values(part) for part in (q, k, v)),
            where,
            scale=head_dim**-0.5,
            window=window,
            softcap=softcap,
            sinks=None if sinks is None else sinks.astype(np.float64),
        )
        if window is not None:  # those blocks may belong to somebody else by now
            hidden = max(0, (total - new) - window + 1) // BLOCK_SIZE
            tables[starts[index] : starts[index] + hidden] = -1
        q_rows.append(q.reshape(new, -1))
        expected.append(out.reshape(new, -1))
        positions.append(where)
        sequences.append(np.full(new, index))
    return AttentionCase(
        q=np.concatenate(q_rows),
        k_cache=k_cache,
        v_cache=v_cache,
        query_start_loc=np.cumsum([0, *(new for new, _ in lengths)]).astype(np.int32),
        seq_lens=np.array([total for _, total in lengths], np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        sequences=np.concatenate(sequences).astype(np.int32),
        block_tables=tables,
        block_table_start_loc=starts,
        expected=np.concatenate(expected),
        sinks=sinks,
    )
