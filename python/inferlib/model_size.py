"""How long a model's context is and how large its KV cache, beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import BLOCK_SIZE, KvCacheSize, format_bytes
from .errors import OutOfMemoryError, RequestError
from .executors import cpu
from .host_memory import free_bytes

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .config import EngineConfig
    from .devices import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """How much a model takes.

    Attributes:
        max_model_len: Longest sequence in tokens.
        num_blocks: KV blocks, in each group.
        kv_cache_bytes: Memory of all of them.
    """

    max_model_len: int
    num_blocks: int
    kv_cache_bytes: int


def size_of(
    checkpoint: Checkpoint, config: EngineConfig, device: Device | None = None
) -> ModelSize:
    """Decide on the context and the KV cache, and check that they fit beside the weights.

    ``device`` is ``None`` for the CPU.

    Raises:
        OutOfMemoryError: They do not.
        RequestError: ``max_model_len`` is longer than the model can, or ``kv_cache`` too small.
    """
    longest = checkpoint.spec.max_position_embeddings
    whole = checkpoint.program.is_bidirectional
    usual = longest
    if whole:  # a text is one step; and such models are made for less than they have positions
        known = checkpoint.embedding.max_seq_length or longest
        usual = min(longest, known, config.max_num_batched_tokens)
    max_model_len = usual if config.max_model_len is None else config.max_model_len
    if max_model_len > longest:
        raise RequestError(
            f"max_model_len={max_model_len:,} is more than the {longest:,} tokens that "
            f"{checkpoint.name} was made for",
            field="max_model_len",
            hint=f"give at most {longest}, or nothing",
        )
    free = free_bytes() if device is None else device.free_bytes()
    if checkpoint.weight_bytes > free:
        raise OutOfMemoryError(
            f"the weights of {checkpoint.name} take {format_bytes(checkpoint.weight_bytes)} "
            f"but {format_bytes(free)} are free",
            required=checkpoint.weight_bytes,
            available=free,
            hint="use a smaller or more strongly quantized model",
        )
    program, rest = checkpoint.program, free - checkpoint.weight_bytes
    if device is None:
        bytes_per_block = cpu.block_bytes(program, config.precision, config.kv_cache_dtype)
    else:
        from .executors import cuda_memory  # not for those who stay on the CPU

        kind = cuda_memory.kind_for(config, device)
        bytes_per_block = cuda_memory.block_bytes(program, kind)
        limits = cuda_memory.StepLimits.of(config, max_model_len)
        workspace_bytes = cuda_memory.workspace_bytes(program, kind, limits)
        if workspace_bytes > rest:
            raise OutOfMemoryError(
                f"the buffers of a step of {limits.rows:,} tokens take "
                f"{format_bytes(workspace_bytes)} but {format_bytes(max(0, rest))} are free "
                "beside the weights",
                required=workspace_bytes,
                available=max(0, rest),
                hint="give a smaller max_num_batched_tokens or max_model_len",
            )
        rest -= workspace_bytes
    kv_cache = config.kv_cache
    if whole and kv_cache == KvCacheSize():
        # Keys and values live for a step: its tokens, and as many places that short texts waste.
        kv_cache = KvCacheSize(num_tokens=2 * config.max_num_batched_tokens)
    num_blocks = kv_cache.num_blocks(
        block_bytes=bytes_per_block, max_model_len=max_model_len, free_bytes=rest
    )
    if config.max_model_len is None:  # fit the context to the cache
        max_model_len = min(max_model_len, num_blocks * BLOCK_SIZE)
    return ModelSize(
        max_model_len=max_model_len,
        num_blocks=num_blocks,
        kv_cache_bytes=num_blocks * bytes_per_block,
    )
