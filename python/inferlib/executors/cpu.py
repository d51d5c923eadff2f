"""The CPU's executor: made from a program, then given its weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._core import CpuExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import Program
    from ..config import EngineConfig

TIER_VARIABLE = "INFERLIB_CPU"
"""Forces a kernel tier (``"avx2"``), for tests; read when an executor is made."""


def block_bytes(program: Program, precision: str) -> int:
    """Bytes of one KV block, all groups together; every group gets the same number of blocks."""
    return sum(CpuExecutor.bytes_per_block(program, precision))


def make_executor(
    program: Program,
    config: EngineConfig,
    num_blocks: int,
    load_weights: Callable[[CpuExecutor], None],
) -> CpuExecutor:
    """Reserve the KV cache and load the weights.

    Raises:
        RequestError: ``INFERLIB_CPU`` names a tier that does not exist or cannot run here.
        OutOfMemoryError: The system refuses the memory.
        ModelError: A weight is missing or does not fit the program.
    """
    executor = CpuExecutor(
        program,
        num_blocks=[num_blocks] * len(program.kv_groups),
        precision=config.precision,
        threads=config.threads,
        tier=os.environ.get(TIER_VARIABLE),
        max_num_batched_tokens=config.max_num_batched_tokens,
    )
    try:
        load_weights(executor)
        executor.seal()
    except BaseException:
        executor.close()
        raise
    return executor
