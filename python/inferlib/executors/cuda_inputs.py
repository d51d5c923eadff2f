"""A batch's arrays on the device: one buffer of int32 that is filled by one copy per step.

The places are fixed, so that kernels find their input where it was in the step before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .cuda_attention import plan_attention

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from .._core import Batch
    from ..devices import Device, DeviceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInputs:
    """Of one KV group, on the device.

    Attributes:
        slot_mapping: ``[num_tokens]``.
        block_table_start_loc: ``[num_seqs + 1]``.
        block_tables: All sequences' blocks, one after the other.
        block_copies: Source, target, source, target …
        num_copies: Pairs in it.
        decode_items: Work lists of attention, flattened; see ``AttentionWork``. Empty without one.
    """

    slot_mapping: DeviceArray
    block_table_start_loc: DeviceArray
    block_tables: DeviceArray
    block_copies: DeviceArray
    num_copies: int
    decode_items: DeviceArray
    decode_tiles: DeviceArray
    prefill_tiles: DeviceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What one step reads, on the device.

    Attributes:
        num_tokens: Rows.
        num_sampled: Rows whose logits are wanted.
        token_ids: ``[num_tokens]``, and so ``positions`` and ``sequences`` (index in the batch).
        query_start_loc: ``[num_seqs + 1]``.
        logits_indices: ``[num_sampled]``.
        groups: One per KV group.
    """

    num_tokens: int
    num_sampled: int
    token_ids: DeviceArray
    positions: DeviceArray
    sequences: DeviceArray
    query_start_loc: DeviceArray
    logits_indices: DeviceArray
    groups: tuple[GroupInputs, ...]

    def from_sampled_row(self, start: int) -> StepInputs:
        """The same step, as if its first sampled row were ``start``."""
        return replace(self, logits_indices=self.logits_indices[start:])


class InputBuffer:
    """Makes ``StepInputs``; grows when a batch's block tables need it.

    Args:
        device: Where to.
        windows: Of each KV group.
        attended: KV group → query heads per KV head, for groups whose attention needs work lists.
    """

    def __init__(
        self, device: Device, windows: Sequence[int | None], attended: Mapping[int, int]
    ) -> None:
        self._device = device
        self._windows = windows
        self._attended = attended
        self._buffer: DeviceArray = None

    def stage(self, batch: Batch) -> StepInputs:
        """Copy a batch to the device."""
        sequences = np.repeat(
            np.arange(batch.num_seqs, dtype=np.int32), np.diff(batch.query_start_loc)
        )
        groups = batch.groups
        starts_of_queries = batch.query_start_loc
        arrays = [
            *(batch.token_ids, batch.positions, sequences, starts_of_queries),
            batch.logits_indices,
        ]
        for number, group in enumerate(groups):
            arrays += [
                group.slot_mapping,
                group.block_table_start_loc,
                group.block_tables,
                group.block_copies,
                *self._work(number, batch),
            ]
        token_ids, positions, sequences_there, starts_there, indices, *rest = self._copy(arrays)
        return StepInputs(
            num_tokens=batch.num_tokens,
            num_sampled=batch.num_sampled,
            token_ids=token_ids,
            positions=positions,
            sequences=sequences_there,
            query_start_loc=starts_there,
            logits_indices=indices,
            groups=tuple(
                GroupInputs(
                    slot_mapping=slots,
                    block_table_start_loc=starts,
                    block_tables=tables,
                    block_copies=copies,
                    num_copies=copies.shape[0] // 2,
                    decode_items=items,
                    decode_tiles=tiles,
                    prefill_tiles=prefill,
                )
                for slots, starts, tables, copies, items, tiles, prefill in zip(
                    *[iter(rest)] * 7, strict=True
                )
            ),
        )

    def _work(self, number: int, batch: Batch) -> tuple[NDArray[np.int32], ...]:
        """The work lists of attention in a KV group."""
        group = self._attended.get(number)
        if group is None:
            return (np.empty(0, np.int32),) * 3
        work = plan_attention(
            batch.query_start_loc, batch.positions, group=group, window=self._windows[number]
        )
        return (work.decode_items.ravel(), work.decode_tiles.ravel(), work.prefill_tiles.ravel())

    def _copy(self, arrays: Iterable[NDArray[np.int32]]) -> list[DeviceArray]:
        """The arrays on the device, each from a multiple of 16 bytes on."""
        arrays = list(arrays)
        starts, size = [], 0
        for array in arrays:
            starts.append(size)
            size += -(-len(array) // 4) * 4
        host = np.zeros(size, np.int32)
        for start, array in zip(starts, arrays, strict=True):
            host[start : start + len(array)] = array
        if self._buffer is None or self._buffer.shape[0] < size:
            self._buffer = self._device.alloc((2 * size,), np.int32, "the step's input")
        self._device.upload(self._buffer[:size], host)
        return [
            self._buffer[start : start + len(array)]
            for start, array in zip(starts, arrays, strict=True)
        ]
