"""A step's arrays on the device: one buffer of 32-bit words that is filled by one copy per step.

Where an array lies is a function of the step's shape alone, so that a graph that was captured for a
shape finds its input there. The ids that a step draws replace the ids that it read, so the step
behind it can be launched before the host has seen them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutorError
from .cuda_attention import NO_WORK, plan_attention
from .cuda_layout import InputLayout, StepShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..devices import Device, DeviceArray
    from .cuda_attention import AttentionWork
    from .cuda_memory import StepLimits
    from .cuda_step import HostStep

# Items and tiles that have nothing to do: a segment behind all positions, a row behind all rows.
_IDLE_ITEM = np.array([0, 0, 1 << 20], np.int32)
_IDLE_TILE = np.array([0, 1 << 20, 0, 0], np.int32)
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInputs:
    """Of one KV group, on the device.

    Attributes:
        slot_mapping: ``[num_tokens]``.
        block_table_start_loc: ``[num_seqs + 1]``.
        block_tables: All sequences' blocks, one after the other.
        block_copies: Source, target, source, target …
        num_copies: Pairs in it.
        decode_rounds: Items and tiles of attention, flattened, round after round; see
            ``AttentionWork``.
        prefill_tiles: The same.
    """

    slot_mapping: DeviceArray
    block_table_start_loc: DeviceArray
    block_tables: DeviceArray
    block_copies: DeviceArray
    num_copies: int
    decode_rounds: tuple[tuple[DeviceArray, DeviceArray], ...]
    prefill_tiles: DeviceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawInputs:
    """How the sampled rows are drawn, on the device, in the order of ``sample_f32``."""

    temperature: DeviceArray
    top_k: DeviceArray
    top_p: DeviceArray
    min_p: DeviceArray
    seeds: DeviceArray
    sequence_indices: DeviceArray
    positions: DeviceArray

    def arrays(self, start: int, end: int) -> tuple[DeviceArray, ...]:
        """Those of some rows."""
        return (
            *(each[start:end] for each in (self.temperature, self.top_k, self.top_p, self.min_p)),
            self.seeds[2 * start : 2 * end],
            *(self.sequence_indices[start:end], self.positions[start:end]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What one step reads, on the device.

    Attributes:
        num_tokens: Rows, spare ones of a bucket included, and so below.
        num_sampled: Rows whose logits are wanted.
        token_ids: ``[num_tokens]``, and so ``positions`` and ``sequences`` (index in the batch).
            The first ``num_sampled`` become the drawn ids.
        failed: ``[num_tokens]``: which of those failed.
        drawn: Both, ids first; as many words, and a few to spare.
        query_start_loc: ``[num_seqs + 1]``.
        logits_indices: ``[num_sampled]``.
        draws: Of the sampled rows.
        groups: One per KV group.
    """

    num_tokens: int
    num_sampled: int
    token_ids: DeviceArray
    failed: DeviceArray
    drawn: DeviceArray
    positions: DeviceArray
    sequences: DeviceArray
    query_start_loc: DeviceArray
    logits_indices: DeviceArray
    draws: DrawInputs
    groups: tuple[GroupInputs, ...]

    def from_sampled_row(self, start: int) -> StepInputs:
        """The same step, as if its first sampled row were ``start``."""
        return replace(self, logits_indices=self.logits_indices[start:])


class InputBuffer:
    """Makes ``StepInputs``.

    Args:
        device: Where to.
        limits: What no step exceeds.
        windows: Of each KV group.
        attended: KV group → query heads per KV head, for groups whose attention needs work lists.
        max_items: Of each KV group: work items that attention does at once.
        scratch_block: A KV block of nobody, for the spare rows of a bucket.
    """

    def __init__(
        self,
        device: Device,
        limits: StepLimits,
        *,
        windows: Sequence[int | None],
        attended: Mapping[int, int],
        max_items: Sequence[int],
        scratch_block: int,
    ) -> None:
        self._device = device
        self._windows = windows
        self._attended = attended
        self._max_items = max_items
        self._scratch_block = scratch_block
        largest = StepShape.largest(limits, [attended.get(i) for i in range(len(windows))])
        self._size = InputLayout(largest).size + 4 + len(windows) * limits.seqs * limits.blocks
        self._host = np.zeros(self._size, np.int32)
        self._buffer = device.alloc((self._size,), np.int32, "the step's input")
        self._of_bucket: dict[StepShape, StepInputs] = {}

    def work(self, step: HostStep) -> tuple[AttentionWork, ...]:
        """The work lists of attention, of each KV group; empty for groups that need none."""
        return tuple(
            plan_attention(
                step.query_start_loc,
                step.positions,
                group=self._attended[number],
                window=window,
                max_items=self._max_items[number],
            )
            if number in self._attended
            else NO_WORK
            for number, window in enumerate(self._windows)
        )

    def stage(
        self, step: HostStep, work: Sequence[AttentionWork], bucket: StepShape | None = None
    ) -> StepInputs:
        """Copy a step to the device.

        Args:
            step: If it has no token ids, those that lie there are used.
            work: Of this step.
            bucket: Its shape, with spare rows and items; ``None``: as large as the step.
        """
        shape = bucket or StepShape.of(step, work)
        layout = InputLayout(shape)
        size = self._fill(layout, shape, step, work)
        first = layout["positions"].start if step.token_ids is None else 0
        self._device.upload(self._buffer[first:size], self._host[first:size])
        if bucket is None:
            return self._inputs(layout, shape, work)
        if bucket not in self._of_bucket:
            self._of_bucket[bucket] = self._inputs(layout, shape, work)
        return self._of_bucket[bucket]

    def _fill(
        self, layout: InputLayout, shape: StepShape, step: HostStep, work: Sequence[AttentionWork]
    ) -> int:
        """Write a step to the host's copy; the words that were filled."""
        host, spare = self._host, shape.rows - step.num_tokens

        def put(name: str, values: NDArray[Any], padding: NDArray[Any] | int = 0) -> None:
            place = layout[name]
            end = place.start + len(values)
            host[place.start : end] = values
            host[end : place.stop] = padding

        if step.token_ids is not None:
            put("token_ids", step.token_ids)
        put("failed", np.empty(0, np.int32))
        put("positions", step.positions)
        seqs = np.arange(step.num_seqs, dtype=np.int32)
        sequences = np.repeat(seqs, np.diff(step.query_start_loc))
        put("sequences", sequences, step.num_seqs + np.arange(spare, dtype=np.int32))
        ends = np.arange(1, shape.seqs - step.num_seqs + 1)
        put("query_start_loc", step.query_start_loc, step.num_tokens + np.minimum(ends, spare))
        put("logits_indices", step.logits_indices)
        draws = step.draws
        put("temperature", draws.temperature.view(np.int32))
        put("top_k", draws.top_k)
        put("top_p", draws.top_p.view(np.int32))
        put("min_p", draws.min_p.view(np.int32))
        put("seeds", draws.seeds.view(np.int32))
        put("sequence_indices", draws.sequence_indices)
        put("draw_positions", draws.positions)
        host[layout.size] = self._scratch_block  # the table of spare rows
        end = layout.size + 1
        slots = self._scratch_block * _BLOCK_SIZE + np.arange(spare, dtype=np.int32) % _BLOCK_SIZE
        for number, (group, its_work) in enumerate(zip(step.groups, work, strict=True)):
            count = shape.groups[number]
            put(f"slot_mapping {number}", group.slot_mapping, slots)
            starts = group.block_table_start_loc[:-1] + np.int32(end - layout.size)
            put(f"block_table_start_loc {number}", starts)
            put(f"block_copies {number}", group.block_copies)
            items, tiles = its_work.decode_items, its_work.decode_tiles
            idle = np.tile(_IDLE_ITEM, count.items - len(items))
            put(f"decode_items {number}", items.ravel(), idle)
            put(
                f"decode_tiles {number}",
                tiles.ravel(),
                np.tile(_IDLE_TILE, count.tiles - len(tiles)),
            )
            put(f"prefill_tiles {number}", its_work.prefill_tiles.ravel())
            if end + len(group.block_tables) > self._size:
                raise ExecutorError("the block tables of a step are longer than its sequences")
            host[end : end + len(group.block_tables)] = group.block_tables
            end += len(group.block_tables)
        return end

    def _inputs(
        self, layout: InputLayout, shape: StepShape, work: Sequence[AttentionWork]
    ) -> StepInputs:
        def at(name: str) -> DeviceArray:
            return self._buffer[layout[name]]

        floats, tables = np.float32, self._buffer[layout.size :]
        groups = []
        for number, count in enumerate(shape.groups):
            items, tiles = at(f"decode_items {number}"), at(f"decode_tiles {number}")
            rounds = work[number].rounds
            if len(rounds) == 1:  # with what a bucket has to spare
                rounds = ((0, count.items, 0, count.tiles),)
            groups.append(
                GroupInputs(
                    slot_mapping=at(f"slot_mapping {number}"),
                    block_table_start_loc=at(f"block_table_start_loc {number}"),
                    block_tables=tables,
                    block_copies=at(f"block_copies {number}"),
                    num_copies=count.copies,
                    decode_rounds=tuple(
                        (items[3 * first : 3 * end], tiles[4 * first_tile : 4 * end_tile])
                        for first, end, first_tile, end_tile in rounds
                    ),
                    prefill_tiles=at(f"prefill_tiles {number}"),
                )
            )
        return StepInputs(
            num_tokens=shape.rows,
            num_sampled=shape.sampled,
            token_ids=at("token_ids"),
            failed=at("failed"),
            drawn=self._buffer[: 2 * layout["failed"].start],
            positions=at("positions"),
            sequences=at("sequences"),
            query_start_loc=at("query_start_loc"),
            logits_indices=at("logits_indices"),
            draws=DrawInputs(
                temperature=at("temperature").view(floats),
                top_k=at("top_k"),
                top_p=at("top_p").view(floats),
                min_p=at("min_p").view(floats),
                seeds=at("seeds").view(np.uint32),
                sequence_indices=at("sequence_indices"),
                positions=at("draw_positions"),
            ),
            groups=tuple(groups),
        )
