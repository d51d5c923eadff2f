"""A model before it has memory: what it is, its forward pass, and who gives it weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ._core import ChatTemplate, Tokenizer
from .embedding_config import EmbeddingConfig
from .errors import ModelFormatError, RequestError, TemplateError
from .origin import hash_files
from .sampling_params import SamplingParams
from .stored_weights import StoredWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Program
    from .checkpoint_files import TextFiles
    from .config import Quantization
    from .executors.base import WeightReceiver
    from .loading import LoadedModel
    from .model_spec import ModelSpec
    from .quantized import QuantizationDetails

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
    files = loaded.text
    tokenizer = _tokenizer(files)
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
        load_weights=partial(_load_weights, loaded),
        weight_bytes=loaded.weights.total_bytes,
        tokenizer=tokenizer,
        chat_template=_chat_template(files, chat_template),
        tool_chat_template=None if chat_template else _compiled(files.tool_chat_template, files),
        generation_config=loaded.generation_config,
        eos_token_ids={*loaded.eos_token_ids, *end_ids},
        hash_weights=hash_files(loaded.files, repr(loaded.spec) + (quantize or "")),
        chat_template_text=_template_text(files) if chat_template is None else chat_template,
        embedding=loaded.embedding,
        quantization=loaded.quantization,
        read_weight=StoredWeights(loaded).read,
    )


def _load_weights(loaded: LoadedModel, executor: WeightReceiver, packed_cache: Path | None) -> None:
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
        loaded.weights, matrices, packed_cache=packed_cache, row_scales=loaded.row_scales
    )
    if replaced is not None:
        _logger.warning("a file of the packed cache was replaced: %s", replaced)
    if packed_cache is not None:
        _logger.info("%s: packed weights %s in %s", loaded.path.name, origin, packed_cache)


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
