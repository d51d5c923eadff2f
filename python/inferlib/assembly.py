"""Put a model together: a checkpoint becomes an executor, a scheduler and an engine."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from ._core import ChatTemplate, CpuExecutor, Scheduler, TextStreams, Tokenizer
from .config import BLOCK_SIZE, KvCacheSize, PromptLookup, format_bytes
from .device_choice import open_device
from .embedding_config import EmbeddingConfig
from .engine import Engine
from .errors import (
    ModelFormatError,
    OutOfMemoryError,
    RequestError,
    TemplateError,
    UnsupportedModelError,
)
from .executors import cpu
from .host_memory import free_bytes
from .loading import load
from .origin import Origin, hash_files
from .request_builder import RequestBuilder
from .sampling_params import SamplingParams
from .stored_weights import StoredWeights

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Program
    from .checkpoint_files import TextFiles
    from .config import EngineConfig, Quantization
    from .devices import Device
    from .draft_model import DraftModel
    from .executors.base import Executor, WeightReceiver
    from .loading import LoadedModel
    from .model_spec import ModelSpec
    from .quantized import QuantizationDetails
    from .scheduling import SchedulingPolicy

_logger = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model before it has memory: read from files, or made in code.

    Attributes:
        name: For people.
        source: What it was loaded from; ``None`` if it was made in code.
        spec: What it is.
        program: Its forward pass.
        load_weights: Gives an executor every weight of the program; the path is that of the packed
            cache, ``None`` without one.
        weight_bytes: Roughly what the weights take.
        tokenizer: ``None`` if there is none.
        chat_template: ``None`` if there is none; the error if it is malformed.
        generation_config: Defaults of sampling options; may be empty.
        eos_token_ids: Tokens that end a sequence.
        hash_weights: Hashes what the model is made of; called when somebody asks, if ever.
        tool_chat_template: Used instead if there are tools; ``None`` if there is no such one.
        chat_template_text: Source of the templates: it says how the model marks its outputs.
        embedding: How its vectors are made, as far as it says.
        quantization: What quantizing it at load did; ``None`` if it was not.
        read_weight: Reads one of the program's weights again, float32 of the shape that the program
            says; ``None`` if they are not to be had any more.
    """

    name: str
    source: str | None
    spec: ModelSpec
    program: Program
    load_weights: Callable[[WeightReceiver, Path | None], None]
    weight_bytes: int
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | TemplateError | None
    generation_config: Mapping[str, Any]
    eos_token_ids: Iterable[int]
    hash_weights: Callable[[], str]
    tool_chat_template: ChatTemplate | TemplateError | None = None
    chat_template_text: str | None = None
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    quantization: QuantizationDetails | None = None
    read_weight: Callable[[str], NDArray[np.float32]] | None = None


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


def read_checkpoint(
    loaded: LoadedModel,
    *,
    chat_template: str | None = None,
    quantize: Quantization | None = None,
) -> Checkpoint:
    """Make tokenizer and chat template of opened files; the weights stay where they are.

    Raises:
        ModelFormatError: The tokenizer is damaged or is another model's.
        TemplateError: The given ``chat_template`` is malformed.
    """

    def load_weights(executor: WeightReceiver, packed_cache: Path | None) -> None:
        for vector in loaded.vectors:
            executor.load_vector(vector.name, vector.values)
        matrices = []
        for matrix in loaded.matrices:
            if matrix.recast is None:
                matrices.append((matrix.name, list(matrix.parts)))
            else:
                values = matrix.values(loaded.weights)
                executor.load_array(matrix.name, values.reshape(-1, values.shape[-1]))
        origin, replaced = executor.load_matrices(
            loaded.weights, matrices, packed_cache=packed_cache
        )
        if replaced is not None:
            _logger.warning("a file of the packed cache was replaced: %s", replaced)
        if packed_cache is not None:
            _logger.info("%s: packed weights %s in %s", loaded.path.name, origin, packed_cache)

    tokenizer = _tokenizer(loaded.text)
    vocab_size = loaded.spec.vocab_size
    if tokenizer is not None and tokenizer.vocab_size > vocab_size:
        raise ModelFormatError(
            f"the tokenizer of {loaded.path} has {tokenizer.vocab_size:,} tokens "
            f"but the model only {vocab_size:,}",
            hint="they belong to different models",
        )
    try:
        SamplingParams().resolve(loaded.generation_config)
    except RequestError as error:
        raise ModelFormatError(
            f"generation_config.json of {loaded.path} is invalid: {error}"
        ) from error
    end_ids = tokenizer.end_ids if tokenizer else ()
    return Checkpoint(
        name=loaded.path.name,
        source=str(loaded.path),
        spec=loaded.spec,
        program=loaded.program,
        load_weights=load_weights,
        weight_bytes=loaded.weights.total_bytes,
        tokenizer=tokenizer,
        chat_template=_chat_template(loaded.text, chat_template),
        tool_chat_template=None if chat_template else _tool_chat_template(loaded.text),
        generation_config=loaded.generation_config,
        eos_token_ids={*loaded.eos_token_ids, *end_ids},
        hash_weights=hash_files(loaded.files, repr(loaded.spec) + (quantize or "")),
        chat_template_text=_template_text(loaded.text) if chat_template is None else chat_template,
        embedding=loaded.embedding,
        quantization=loaded.quantization,
        read_weight=StoredWeights(loaded).read,
    )


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
    spec, tokenizer = checkpoint.spec, checkpoint.tokenizer
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
    scheduler = Scheduler(
        groups=[(size.num_blocks, group.window) for group in checkpoint.program.kv_groups],
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=size.max_model_len,
        vocab_size=spec.vocab_size,
        enable_prefix_caching=config.enable_prefix_caching,
        max_waiting=config.limits.waiting_requests,
        max_waiting_tokens=config.limits.waiting_tokens,
        whole_prompts=checkpoint.program.is_bidirectional,
        **_speculation_options(config, executor.info(), draft_model),
        **_policy_options(config.scheduling_policy),
    )
    if config.decision_log is not None:
        scheduler.log_decisions(config.decision_log)
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
        engine=Engine(
            stand_ins.wrap_scheduler(scheduler),
            executor,
            None if tokenizer is None else TextStreams(tokenizer),
            vocab_size=spec.vocab_size,
            dedicated=config.driver == "thread",
            clock=stand_ins.clock,
            draft_model=draft_model,
        ),
        builder=RequestBuilder(
            tokenizer=tokenizer,
            generation_config=checkpoint.generation_config,
            eos_token_ids=tuple(sorted(i for i in checkpoint.eos_token_ids if i < spec.vocab_size)),
            vocab_size=spec.vocab_size,
            max_model_len=size.max_model_len,
            kv_cache_tokens=size.num_blocks * BLOCK_SIZE,
            origin=_origin(checkpoint, config, executor.info()),
            limits=config.limits,
            generates=checkpoint.program.has_lm_head,
            has_draft_model=draft_model is not None,
            capture_points=_capture_points(checkpoint.program, executor),
        ),
        kv_cache_bytes=size.kv_cache_bytes,
        draft_model=draft_model,
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


class _SpeculationOptions(TypedDict, total=False):
    num_speculative_tokens: int
    prompt_lookup_max: int
    prompt_lookup_min: int
    num_model_tokens: int
    rows_per_pass: int


def _check_draft_model(draft_model: DraftModel, checkpoint: Checkpoint) -> None:
    if not checkpoint.program.has_lm_head:
        raise RequestError(
            f"{checkpoint.name} generates nothing that could be drafted", field="draft_model"
        )
    draft_model.check(checkpoint.tokenizer, checkpoint.spec.vocab_size)


def _speculation_options(
    config: EngineConfig, executor: Mapping[str, Any], draft_model: DraftModel | None
) -> _SpeculationOptions:
    """Options of the scheduler for drafting; what is not there has the scheduler's default."""
    lookup = config.prompt_lookup
    options = _SpeculationOptions()
    if lookup is None and draft_model is None:
        return options
    how = lookup or PromptLookup()
    if lookup is not None:
        options["num_speculative_tokens"] = lookup.num_speculative_tokens
        options["prompt_lookup_max"] = lookup.prompt_lookup_max
        options["prompt_lookup_min"] = lookup.prompt_lookup_min
    if draft_model is not None:
        options["num_model_tokens"] = how.num_speculative_tokens
    rows_per_pass = how.rows_per_pass or executor.get("rows_per_pass")
    if rows_per_pass is not None:
        options["rows_per_pass"] = rows_per_pass
    return options


class _PolicyOptions(TypedDict):
    policy: str
    steps_per_class: int
    input_weight: int
    output_weight: int
    patience_seconds: float
    background_tokens: int


def _policy_options(policy: SchedulingPolicy) -> _PolicyOptions:
    return _PolicyOptions(
        policy=policy.name,
        steps_per_class=policy.steps_per_class,
        input_weight=policy.input_weight,
        output_weight=policy.output_weight,
        patience_seconds=policy.patience_seconds,
        background_tokens=policy.background_tokens,
    )


def _tokenizer(files: TextFiles) -> Tokenizer | None:
    if files.tokenizer_json is not None:
        return Tokenizer.from_json(files.tokenizer_json, files.tokenizer_config)
    if files.gguf_vocabulary is not None:
        return Tokenizer.from_gguf(files.gguf_vocabulary)
    return None


def _chat_template(files: TextFiles, given: str | None) -> ChatTemplate | TemplateError | None:
    """A malformed template of a checkpoint is an error of ``chat`` only; a given one at once."""
    if given is not None:
        if not isinstance(given, str):
            raise RequestError(
                f"chat_template must be the text of a template, not {type(given).__name__}",
                field="chat_template",
            )
        return ChatTemplate(given, dict(files.special_tokens))
    return _compiled(files.chat_template, files)


def _tool_chat_template(files: TextFiles) -> ChatTemplate | TemplateError | None:
    return _compiled(files.tool_chat_template, files)


def _compiled(source: str | None, files: TextFiles) -> ChatTemplate | TemplateError | None:
    if source is None:
        return None
    try:
        return ChatTemplate(source, dict(files.special_tokens))
    except TemplateError as error:
        return error


def _template_text(files: TextFiles) -> str | None:
    """All templates that may be used, one after another."""
    texts = [text for text in (files.chat_template, files.tool_chat_template) if text is not None]
    return "\n".join(texts) if texts else None
