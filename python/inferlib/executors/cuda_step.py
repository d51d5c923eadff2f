"""A step as arrays on the host: read from a batch, foreseen from the step before, or compared.

A decode step is foreseen when the next one can differ from it in nothing but the tokens drawn,
which are on the device: then it is launched before the host has seen them (``CudaExecutor.run``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import BLOCK_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import Batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostGroup:
    """Of one KV group; see ``GroupBatch``."""

    slot_mapping: NDArray[np.int32]
    block_table_start_loc: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    block_copies: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostDraws:
    """How the sampled rows are drawn, ``[num_sampled]`` each; see ``SampledRows``."""

    is_plain: NDArray[np.bool_]
    is_argmax: NDArray[np.bool_]
    num_tokens_left: NDArray[np.int32]
    temperature: NDArray[np.float32]
    top_k: NDArray[np.int32]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    seeds: NDArray[np.uint64]
    sequence_indices: NDArray[np.int32]
    positions: NDArray[np.int32]


_DRAWS = tuple(field.name for field in fields(HostDraws))
_GROUP = tuple(field.name for field in fields(HostGroup))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostStep:
    """What a step reads.

    Attributes:
        token_ids: ``[num_tokens]``; ``None`` if they are those that the step before draws.
        positions: ``[num_tokens]``.
        query_start_loc: ``[num_seqs + 1]``.
        logits_indices: ``[num_sampled]``.
        groups: One per KV group.
        draws: Of the sampled rows.
    """

    token_ids: NDArray[np.int32] | None
    positions: NDArray[np.int32]
    query_start_loc: NDArray[np.int32]
    logits_indices: NDArray[np.int32]
    groups: tuple[HostGroup, ...]
    draws: HostDraws

    @classmethod
    def of(cls, batch: Batch) -> HostStep:
        """Read a batch."""
        sampled = batch.sampled
        return cls(
            token_ids=batch.token_ids,
            positions=batch.positions,
            query_start_loc=batch.query_start_loc,
            logits_indices=batch.logits_indices,
            groups=tuple(
                HostGroup(**{name: getattr(group, name) for name in _GROUP})
                for group in batch.groups
            ),
            draws=HostDraws(**{name: getattr(sampled, name) for name in _DRAWS}),
        )

    @property
    def num_tokens(self) -> int:
        """Rows."""
        return len(self.positions)

    @property
    def num_seqs(self) -> int:
        """Sequences."""
        return len(self.query_start_loc) - 1

    @property
    def num_sampled(self) -> int:
        """Rows of logits."""
        return len(self.logits_indices)

    def has_copies(self) -> bool:
        """Whether blocks are copied first."""
        return any(len(group.block_copies) for group in self.groups)

    def following(self, max_model_len: int) -> HostStep | None:
        """The step behind this one if every sequence goes on by one token; ``None`` if unforeseen.

        Its keys and values go where no other sequence reads: into the blocks that this step writes
        to, one slot further. A block that would be full is left to the scheduler.
        """
        rows = self.num_tokens
        if not rows == self.num_seqs == self.num_sampled:
            return None
        if not self.draws.is_plain.all() or (self.draws.num_tokens_left <= 0).any():
            return None
        if any((group.slot_mapping % BLOCK_SIZE == BLOCK_SIZE - 1).any() for group in self.groups):
            return None
        if int(self.positions.max()) + 1 >= max_model_len:
            return None
        return replace(
            self,
            token_ids=None,
            positions=self.positions + np.int32(1),
            groups=tuple(
                replace(
                    group,
                    slot_mapping=group.slot_mapping + np.int32(1),
                    block_copies=group.block_copies[:0],
                )
                for group in self.groups
            ),
            draws=replace(
                self.draws,
                positions=self.draws.positions + np.int32(1),
                num_tokens_left=self.draws.num_tokens_left - np.int32(1),
            ),
        )

    def find_rows(self, wanted: HostStep, token_ids: NDArray[np.int32]) -> NDArray[np.intp] | None:
        """Rows of this foreseen step that compute all rows of ``wanted``; ``None`` if not all do.

        A row's result is a function of what is compared here, whoever else is in the batch.

        Args:
            wanted: What the scheduler asks for.
            token_ids: ``[num_tokens]``: what this step found drawn.
        """
        rows = wanted.num_tokens
        if not 0 < rows == wanted.num_seqs == wanted.num_sampled or wanted.has_copies():
            return None
        slots = self.groups[0].slot_mapping
        order = np.argsort(slots)
        places = np.searchsorted(slots[order], wanted.groups[0].slot_mapping)
        found = order[np.minimum(places, len(order) - 1)]
        if wanted.token_ids is None or not np.array_equal(token_ids[found], wanted.token_ids):
            return None
        is_equal = np.array_equal(self.positions[found], wanted.positions) and all(
            np.array_equal(getattr(self.draws, name)[found], getattr(wanted.draws, name))
            for name in _DRAWS
        )
        groups = zip(self.groups, wanted.groups, strict=True)
        return found if is_equal and all(_is_same(*pair, found) for pair in groups) else None


def _is_same(group: HostGroup, wanted: HostGroup, rows: NDArray[np.intp]) -> bool:
    """Whether ``rows`` of a group have the slots and blocks of the wanted ones."""
    if not np.array_equal(group.slot_mapping[rows], wanted.slot_mapping):
        return False
    tables = group.block_tables
    if len(rows) != len(group.slot_mapping) or (np.diff(rows) != 1).any():
        starts = group.block_table_start_loc
        tables = np.concatenate([tables[starts[row] : starts[row + 1]] for row in rows.tolist()])
    lengths = np.diff(group.block_table_start_loc)[rows]
    return np.array_equal(lengths, np.diff(wanted.block_table_start_loc)) and np.array_equal(
        tables, wanted.block_tables
    )
