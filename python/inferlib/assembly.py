"""Put a model together: a checkpoint becomes an executor, a scheduler and an engine."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ._core import CpuExecutor, GrammarStates, Scheduler, TextStreams
from .checkpoint import read_checkpoint
from .config import BLOCK_SIZE, format_bytes
from .device_choice import open_device
from .engine import Engine
from .errors import OutOfMemoryError, RequestError, UnsupportedModelError
from .executors import cpu
from .loading import load
from .model_size import size_of
from .origin import Origin
from .request import SEQUENCES_PER_REQUEST
from .request_builder import RequestBuilder
from .scheduler_options import policy_options, speculation_options

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ._core import Program
    from .checkpoint import Checkpoint
    from .config import EngineConfig
    from .devices import Device
    from .draft_model import DraftModel
    from .executors.base import Executor, WeightReceiver
    from .model_size import ModelSize

_logger = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What a ``Model`` is made of.

    Attributes:
        checkpoint: What it is.
        config: How it runs.
        given_chat_template: The one that replaced the checkpoint's.
        engine: Runs its requests.
        builder: Makes them.
        kv_cache_bytes: Memory reserved for keys and values.
        draft_model: What stands beside it; ``None``: nothing.
    """

    checkpoint: Checkpoint
    config: EngineConfig
    given_chat_template: str | None
    engine: Engine
    builder: RequestBuilder
    kv_cache_bytes: int
    draft_model: DraftModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """What ``inferlib.testing`` puts in the place of a model's parts.

    Attributes:
        wrap_executor: Returns what runs instead of the executor that it is given.
        wrap_scheduler: The same for the scheduler.
        clock: Seconds, for deadlines and timings.
    """

    wrap_executor: Callable[[Executor], Executor] = lambda executor: executor
    wrap_scheduler: Callable[[Scheduler], Scheduler] = lambda scheduler: scheduler
    clock: Callable[[], float] = time.monotonic


def assemble_from_files(
    name_or_path: str | os.PathLike[str],
    config: EngineConfig,
    *,
    chat_template: str | None,
    draft_model: DraftModel | None = None,
) -> ModelParts:
    """Load a checkpoint and make it ready to run.

    Args:
        name_or_path: See ``loading.load``.
        config: How it is to run.
        chat_template: Replaces the checkpoint's.
        draft_model: Is to stand beside it; it is closed with the model.

    Raises:
        ModelError: Something is wrong with the files.
        OutOfMemoryError: Weights or KV cache do not fit.
        TemplateError: ``chat_template`` is malformed.
        RequestError: A setting does not fit the model; ``field`` names it.
    """
    loaded = load(name_or_path, mmap=config.mmap, quantize=config.quantize)
    checkpoint = read_checkpoint(loaded, chat_template=chat_template, quantize=config.quantize)
    return assemble(checkpoint, config, chat_template=chat_template, draft_model=draft_model)


def assemble(
    checkpoint: Checkpoint,
    config: EngineConfig,
    *,
    chat_template: str | None = None,
    stand_ins: StandIns = StandIns(),
    draft_model: DraftModel | None = None,
) -> ModelParts:
    """Reserve memory, load the weights, and connect scheduler, executor and engine.

    Raises:
        OutOfMemoryError: Weights or KV cache do not fit.
        RequestError: A setting does not fit the model; ``field`` names it.
    """
    if draft_model is not None:
        _check_draft_model(draft_model, checkpoint)
    device = open_device(config)
    try:
        size, executor = _make_executor(checkpoint, config, device)
    except (UnsupportedModelError, OutOfMemoryError) as error:
        if config.device != "auto" or device is None:
            raise
        _logger.warning('device="auto" is the CPU for %s: %s', checkpoint.name, error)
        size, executor = _make_executor(checkpoint, config, None)
    executor = stand_ins.wrap_executor(executor)
    # The model keeps the checkpoint for what it says, not the opened files and their vocabulary.
    checkpoint = replace(checkpoint, load_weights=_already_loaded)
    drafts = draft_model is not None
    scheduler = _make_scheduler(checkpoint, config, size, executor, has_draft_model=drafts)
    tokenizer = checkpoint.tokenizer
    engine = Engine(
        stand_ins.wrap_scheduler(scheduler),
        executor,
        None if tokenizer is None else TextStreams(tokenizer),
        grammars=GrammarStates(
            checkpoint.spec.vocab_size, SEQUENCES_PER_REQUEST, config.limits.structure_memory
        ),
        dedicated=config.driver == "thread",
        clock=stand_ins.clock,
        draft_model=draft_model,
    )
    _logger.info(
        "%s: weights about %s; KV cache at most %s for %d tokens; context %d",
        checkpoint.name,
        format_bytes(checkpoint.weight_bytes),
        format_bytes(size.kv_cache_bytes),
        size.num_blocks * BLOCK_SIZE,
        size.max_model_len,
    )
    return ModelParts(
        checkpoint=checkpoint,
        config=config,
        given_chat_template=chat_template,
        engine=engine,
        builder=_make_builder(checkpoint, config, size, executor, has_draft_model=drafts),
        kv_cache_bytes=size.kv_cache_bytes,
        draft_model=draft_model,
    )


def _check_draft_model(draft_model: DraftModel, checkpoint: Checkpoint) -> None:
    if not checkpoint.program.has_lm_head:
        raise RequestError(
            f"{checkpoint.name} generates nothing that could be drafted", field="draft_model"
        )
    draft_model.check(checkpoint.tokenizer, checkpoint.spec.vocab_size)


def _make_executor(
    checkpoint: Checkpoint, config: EngineConfig, device: Device | None
) -> tuple[ModelSize, Executor]:
    """Reserve memory and load the weights; a failure closes the device."""
    program, load_weights = checkpoint.program, checkpoint.load_weights
    if device is None:
        size = size_of(checkpoint, config)
        return size, cpu.make_executor(program, config, size.num_blocks, load_weights)
    from .executors import cuda  # not for those who stay on the CPU

    try:
        size = size_of(checkpoint, config, device)
    except BaseException:
        device.close()
        raise
    return size, cuda.make_executor(
        program,
        config,
        device,
        size.num_blocks,
        load_weights,
        max_model_len=size.max_model_len,
    )


def _already_loaded(executor: WeightReceiver, packed_cache: Path | None) -> None:
    raise AssertionError(executor, packed_cache)


def _make_scheduler(
    checkpoint: Checkpoint,
    config: EngineConfig,
    size: ModelSize,
    executor: Executor,
    *,
    has_draft_model: bool,
) -> Scheduler:
    scheduler = Scheduler(
        groups=[(size.num_blocks, group.window) for group in checkpoint.program.kv_groups],
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=size.max_model_len,
        vocab_size=checkpoint.spec.vocab_size,
        enable_prefix_caching=config.enable_prefix_caching,
        max_waiting=config.limits.waiting_requests,
        max_waiting_tokens=config.limits.waiting_tokens,
        whole_prompts=checkpoint.program.is_bidirectional,
        **speculation_options(config, executor.info(), has_draft_model=has_draft_model),
        **policy_options(config.scheduling_policy),
    )
    if config.decision_log is not None:
        scheduler.log_decisions(config.decision_log)
    return scheduler


def _make_builder(
    checkpoint: Checkpoint,
    config: EngineConfig,
    size: ModelSize,
    executor: Executor,
    *,
    has_draft_model: bool,
) -> RequestBuilder:
    vocab_size = checkpoint.spec.vocab_size
    return RequestBuilder(
        tokenizer=checkpoint.tokenizer,
        generation_config=checkpoint.generation_config,
        eos_token_ids=tuple(sorted(i for i in checkpoint.eos_token_ids if i < vocab_size)),
        vocab_size=vocab_size,
        max_model_len=size.max_model_len,
        kv_cache_tokens=size.num_blocks * BLOCK_SIZE,
        origin=_origin(checkpoint, config, executor.info()),
        limits=config.limits,
        generates=checkpoint.program.has_lm_head,
        has_draft_model=has_draft_model,
        capture_points=_capture_points(checkpoint.program, executor),
    )


def _capture_points(program: Program, executor: Executor) -> dict[str, tuple[int, str]]:
    """What an executor hands out: each point's number, and what its rows count."""
    if not isinstance(executor, CpuExecutor):
        return {}
    points = [op for kind, op in program.ops if kind == "capture"]
    buffers = program.buffers
    return {op["name"]: (number, buffers[op["x"]][0]) for number, op in enumerate(points)}


def _origin(checkpoint: Checkpoint, config: EngineConfig, executor: Mapping[str, Any]) -> Origin:
    return Origin(
        model=checkpoint.name,
        device=str(executor.get("device", "cpu")),
        tier=executor.get("tier"),
        precision=config.precision,
        kv_cache_dtype=str(executor.get("kv_cache_dtype", config.kv_cache_dtype)),
        hash_weights=checkpoint.hash_weights,
    )
