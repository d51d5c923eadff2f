"""From a name or path to all that a model is made of: spec, program, weights, tokenizer, defaults.

Only headers and vectors are read: matrices stay in their mapped files, as names for the executor to
fetch, unless they are quantized here or have to be stored otherwise (``quantized``). Every problem
of a checkpoint is found here, before any other memory is taken.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._core import Weights
from .architectures import Fields, GgufHeader, architecture_of_config, architecture_of_gguf
from .checkpoint_files import TextFiles, read_json, read_optional_json, text_of_folder, text_of_gguf
from .embedding_config import EmbeddingConfig, read_embedding_config
from .errors import ModelNotFoundError, RequestError
from .hub import find_hub_model, parse_hub_name
from .model_packages import MODEL_PACKAGES, find_packaged_model
from .quantized import (
    CheckpointPlan,
    QuantizationDetails,
    quality_text,
    quantize_matrices,
    unpack_checkpoint,
)
from .tensor_sources import (
    MatrixSource,
    VectorSource,
    check_tensors,
    matrix_sources,
    vector_sources,
)
from .transformer import record
from .validation import path as check_path
from .validation import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from ._core import Program
    from .architectures import Architecture
    from .config import Quantization
    from .model_spec import ModelSpec

_logger = logging.getLogger(__package__)

# What divides rotary frequencies in GGUF: read into the spec.
_ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# And tables that old checkpoints hold and that are computed here.
_NEVER_WEIGHTS = (".rotary_emb.inv_freq", *_ROPE_FACTORS)
# Copies of the embedding in checkpoints of models whose logits use the embedding itself.
_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "output.weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class LoadedModel:
    """All that a model is made of.

    Attributes:
        path: What was opened.
        spec: The model's description.
        program: Its forward pass.
        files: What the checkpoint was read from.
        weights: The opened checkpoint.
        matrices: In the program's order.
        vectors: In the program's order.
        text: Tokenizer, chat templates and special tokens.
        generation_config: ``generation_config.json``, empty if there is none.
        eos_token_ids: Tokens that end a text according to ``generation_config.json``,
            ``config.json`` or GGUF metadata, ascending. The tokenizer knows more by name.
        embedding: How its vectors are made, as far as the checkpoint says.
        quantization: What ``quantize`` did; ``None`` without it.
        row_scales: Whether activations may have one scale per row where weights have.
    """

    path: Path
    spec: ModelSpec
    program: Program
    files: tuple[str, ...]
    weights: Weights
    matrices: tuple[MatrixSource, ...]
    vectors: tuple[VectorSource, ...]
    text: TextFiles
    generation_config: Mapping[str, object]
    eos_token_ids: tuple[int, ...]
    embedding: EmbeddingConfig
    quantization: QuantizationDetails | None = None
    row_scales: bool = False

    def __repr__(self) -> str:
        return f"<LoadedModel {self.spec.architecture} {str(self.path)!r}>"


def load(
    name_or_path: str | os.PathLike[str], *, mmap: bool = True, quantize: Quantization | None = None
) -> LoadedModel:
    """Open a model.

    Args:
        name_or_path: A folder with ``config.json`` and safetensors, a ``.gguf`` or ``.safetensors``
            file, the alias of an installed model package such as ``"smollm2"``, or a name of
            Hugging Face's hub: ``"org/name"`` or ``"org/name/file.gguf"``, either with
            ``"@revision"``. What exists on disk comes before any other.
        mmap: Whether to map the files or to read them into memory.
        quantize: What the float matrices of safetensors become; ``None`` leaves them.

    Raises:
        ModelNotFoundError: There is no such path, alias or installed package, or the hub does not
            give the model.
        ModelFormatError: A file is damaged, or tensors do not fit the configuration.
        UnsupportedModelError: The architecture or the type of a tensor is not supported.
    """
    path = _resolve(name_or_path)
    weights = Weights.open(path, mmap=mmap)
    if weights.format == "gguf":
        if quantize is not None:
            raise RequestError(
                f"{path.name} is a GGUF file, whose types are its own",
                field="quantize",
                hint="give a folder of safetensors, or leave quantize out",
            )
        return _load_gguf(path, weights)
    return _load_safetensors(path, weights, quantize)


def _resolve(name_or_path: str | os.PathLike[str]) -> Path:
    path = Path(check_path("name_or_path", name_or_path))
    if isinstance(name_or_path, str) and not _exists(path):
        packaged = find_packaged_model(name_or_path)
        if packaged is not None:
            return packaged
        hub_name = parse_hub_name(name_or_path)
        if hub_name is not None:
            return find_hub_model(hub_name)
        if path.name == name_or_path and not path.suffix:
            raise ModelNotFoundError(
                f"there is no file or folder {shown(name_or_path)} here, and no model of that name",
                hint=f"give a path, or one of the names {', '.join(MODEL_PACKAGES)}",
            )
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for this system
        return False


def _load_gguf(path: Path, weights: Weights) -> LoadedModel:
    files = tuple(weights.files)
    metadata = Fields(weights.metadata(), source=str(path))
    family = architecture_of_gguf(metadata)
    shapes = _shapes(weights)
    factors = {
        name: tuple(weights.array(name).ravel().tolist())
        for name in _ROPE_FACTORS
        if name in shapes
    }
    spec = family.spec_from_gguf(GgufHeader(metadata=metadata, shapes=shapes, rope_factors=factors))
    program = record(spec)
    weight_map = family.weights_from_gguf(spec)
    unused = unused_tensors(shapes, family, spec)
    check_tensors(program.weights, weight_map, shapes, unused=unused, source=str(path))
    eos_keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return LoadedModel(
        path=path,
        spec=spec,
        program=program,
        files=files,
        weights=weights,
        matrices=matrix_sources(program.weights, weight_map),
        vectors=vector_sources(program.weights, weight_map, weights),
        text=text_of_gguf(weights),
        generation_config={},
        eos_token_ids=_sorted(token for key in eos_keys for token in metadata.token_ids(key)),
        embedding=EmbeddingConfig(),
    )


def _load_safetensors(path: Path, weights: Weights, quantize: Quantization | None) -> LoadedModel:
    files = tuple(weights.files)
    folder = Path(files[0]).parent
    config = _read_config(folder / "config.json")
    # The older name is that of the first compressed-tensors.
    quantization = config.section("quantization_config") or config.section("compression_config")
    plan = CheckpointPlan.of(weights) if quantize is not None else None
    if quantization is not None:
        plan = unpack_checkpoint(weights, quantization)
    family = architecture_of_config(config)
    shapes = _shapes(weights if plan is None else plan)
    spec = family.spec_from_config(config)
    program = record(spec)
    weight_map = family.weights_from_safetensors(spec, shapes)
    unused = unused_tensors(shapes, family, spec)
    check_tensors(program.weights, weight_map, shapes, unused=unused, source=str(path))
    generation_path = folder / "generation_config.json"
    generation = Fields(read_optional_json(generation_path), source=str(generation_path))
    sources = (config, generation)
    matrices = matrix_sources(program.weights, weight_map)
    details = None
    if plan is not None:
        used = {part.tensor for name in program.weights for part in weight_map[name]}
        weights, details = _prepared(plan, quantize, _products(matrices), used)
    return LoadedModel(
        path=path,
        spec=spec,
        program=program,
        files=files,
        weights=weights,
        matrices=matrices,
        vectors=vector_sources(program.weights, weight_map, weights),
        text=text_of_folder(folder),
        generation_config=generation.values,
        eos_token_ids=_sorted(
            token for source in sources for token in source.token_ids("eos_token_id")
        ),
        embedding=read_embedding_config(folder),
        quantization=details,
        row_scales=quantize == "int8",
    )


def _prepared(
    plan: CheckpointPlan, quantize: Quantization | None, products: set[str], used: set[str]
) -> tuple[Weights, QuantizationDetails | None]:
    """The tensors in memory, quantized if that is wanted."""
    if quantize is None:
        return plan.written(used), None
    plan, quality = quantize_matrices(plan, quantize.upper(), products)
    weights, details = plan.written(used), quality.details()
    _logger.info("%s: %s", plan.source.parent.name, quality_text(details))
    return weights, details


def _products(matrices: Iterable[MatrixSource]) -> set[str]:
    """Tensors of matrices that are stored as they are multiplied; small tables are not."""
    tables = ("position_embedding.weight", "segment_embedding.weight")
    return {
        tensor
        for matrix in matrices
        if matrix.recast is None and matrix.name not in tables
        for tensor, _ in matrix.parts
    }


def _read_config(path: Path) -> Fields:
    if not path.is_file():
        raise ModelNotFoundError(
            f"{path.parent} has no config.json",
            hint="it lies beside the weights in every Hugging Face checkpoint",
        )
    return Fields(read_json(path), source=str(path))


def _shapes(weights: Weights | CheckpointPlan) -> dict[str, tuple[int, ...]]:
    return {name: weights.info(name)[1] for name in weights.names}


def unused_tensors(shapes: Iterable[str], family: Architecture, spec: ModelSpec) -> set[str]:
    """Tensors that a checkpoint may hold though the model does not read them."""
    without_head = spec.tied_embeddings or not spec.lm_head
    ignored = (*family.ignored, *_HEADS) if without_head else family.ignored
    endings = (*family.ignored_endings, *_NEVER_WEIGHTS)
    return {name for name in shapes if name.startswith(ignored) or name.endswith(endings)}


def _sorted(token_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(token_ids)))
