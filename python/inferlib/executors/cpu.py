"""The CPU's executor: made from a program, then given its weights."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from .._core import CpuExecutor
from ..config import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .._core import Program
    from ..config import EngineConfig
    from .base import WeightReceiver

_logger = logging.getLogger(__package__)

TIER_VARIABLE = "INFERLIB_CPU"
"""Forces a kernel tier (``"avx2"``), for tests; read when an executor is made."""


def block_bytes(program: Program, precision: str, kv_cache_dtype: str = "auto") -> int:
    """Bytes of one KV block, all groups together; every group gets the same number of blocks."""
    return sum(CpuExecutor.bytes_per_block(program, precision, kv_cache_dtype))


def make_executor(
    program: Program,
    config: EngineConfig,
    num_blocks: int,
    load_weights: Callable[[WeightReceiver, Path | None], None],
) -> CpuExecutor:
    """Reserve the KV cache and load the weights.

    Raises:
        RequestError: ``INFERLIB_CPU`` names a tier that does not exist or cannot run here, or the
            packed cache cannot be read or written.
        OutOfMemoryError: The system refuses the memory.
        ModelError: A weight is missing or does not fit the program.
    """
    executor = CpuExecutor(
        program,
        num_blocks=[num_blocks] * len(program.kv_groups),
        precision=config.precision,
        kv_cache_dtype=config.kv_cache_dtype,
        threads=config.threads,
        tier=os.environ.get(TIER_VARIABLE),
        max_num_batched_tokens=config.max_num_batched_tokens,
    )
    try:
        load_weights(executor, config.packed_cache)
        executor.seal()
        for message in fallback_messages(executor.info()):
            _logger.info("%s", message)
    except BaseException:
        executor.close()
        raise
    return executor


def fallback_messages(info: dict[str, Any]) -> Iterator[str]:
    """Say what the weights cost whose tensor type has no packed layout, a sentence per type."""
    by_type: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for weight in info["fallback_weights"]:
        by_type.setdefault((weight["type"], weight["held_as"]), []).append(weight)
    for (name, held_as), weights in by_type.items():
        held = sum(weight["bytes"] for weight in weights)
        file = sum(weight["file_bytes"] for weight in weights)
        yield (
            f"{len(weights)} weights are {name}, a type without a packed layout: held as "
            f"{held_as}, exactly, in {format_bytes(held)} instead of the file's "
            f"{format_bytes(file)}, which every step reads; another quantization avoids that"
        )
