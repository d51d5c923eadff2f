"""LoRA adapters as PEFT saves them: a folder with ``adapter_config.json`` and safetensors.

Read against the names that the base model has in Hugging Face's layout, so that an adapter also
fits the same model in a GGUF file.

Source: Hu et al. 2021 (arXiv 2106.09685); PEFT 0.21's ``LoraConfig``.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._core import Weights
from .architectures import (
    ARCHITECTURES,
    Fields,
    HeadRows,
    RopeFirst,
    RowsFrom,
    Transposed,
    UnpermuteQk,
)
from .checkpoint_files import read_json
from .errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ._core import Program
    from .architectures import Part, WeightMap
    from .model_spec import ModelSpec

LARGEST_RANK = 512
_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": "a", ".lora_B.weight": "b"}
# What would change a result and is not computed, with the values that do not.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "lora_bias": (False, None),
    "trainable_token_indices": (None, [], {}),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterMatrices:
    """What an adapter adds to some rows of one weight: ``scale * b.T @ (a @ x)``.

    Attributes:
        weight: Canonical name.
        first_row: First of the weight's rows.
        a: ``[rank, in_features]`` float32.
        b: ``[rank, rows]`` float32, transposed.
        scale: ``lora_alpha / rank``, or divided by its root (rsLoRA).
    """

    weight: str
    first_row: int
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoraFiles:
    """An adapter as it was read.

    Attributes:
        parts: In the order of the program's weights.
        fingerprint: A hash of its files.
    """

    parts: tuple[AdapterMatrices, ...]
    fingerprint: str


def read_lora(path: Path, spec: ModelSpec, program: Program) -> LoraFiles:
    """Read an adapter and find its place in a model.

    Raises:
        ModelNotFoundError: There is no such folder, or no adapter in it.
        ModelFormatError: A file is damaged, or an adapter's matrices do not fit the model: all that
            do not are in one message.
        UnsupportedModelError: The adapter is of another kind, or does more than is computed here.
    """
    config_path = path / "adapter_config.json"
    if not config_path.is_file():
        raise ModelNotFoundError(
            f"there is no adapter_config.json in {str(path)!r}",
            path=str(path),
            hint="give the folder that PEFT's save_pretrained wrote",
        )
    config = Fields(read_json(config_path), source=str(config_path))
    _refuse_other_kinds(config)
    weights_path = path / "adapter_model.safetensors"
    if not weights_path.is_file():
        raise ModelNotFoundError(
            f"there is no adapter_model.safetensors in {str(path)!r}",
            path=str(path),
            hint="weights in pickle files (.bin) are never read: save them as safetensors",
        )
    weights = Weights.open(weights_path)
    modules = _modules(weights, str(weights_path))
    parts = tuple(_placed(modules, config, spec, program, str(weights_path)))
    return LoraFiles(parts=parts, fingerprint=_hash(config_path, weights_path))


def _refuse_other_kinds(config: Fields) -> None:
    kind = config.text("peft_type", default="LORA")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"{config.source} is of the kind {kind!r}; only LORA adapters are supported"
        )
    for key, harmless in _UNSUPPORTED.items():
        found = config.values.get(key)
        if found not in harmless:
            raise UnsupportedModelError(
                f"{config.source} has {key}={str(found)[:80]!r}, which is not supported",
                hint="merge the adapter into its model with PEFT's merge_and_unload()",
            )


def _modules(weights: Weights, source: str) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Module of the base model → its ``a`` and ``b``."""
    modules: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name in weights.names:
        ending = next((each for each in _PARTS if name.endswith(each)), None)
        if ending is None or not name.startswith(_PREFIX):
            raise UnsupportedModelError(
                f"the tensor {name!r} of {source} is no matrix of a LoRA adapter of a linear layer"
            )
        module = name.removeprefix(_PREFIX).removesuffix(ending)
        modules.setdefault(module, {})[_PARTS[ending]] = weights.array(name)
    if not modules:
        raise ModelFormatError(f"{source} holds no matrices", path=source)
    return modules


def _placed(
    modules: Mapping[str, Mapping[str, NDArray[np.float32]]],
    config: Fields,
    spec: ModelSpec,
    program: Program,
    source: str,
) -> Iterator[AdapterMatrices]:
    """Every module's matrices at the rows that the module has in the program's weights."""
    places = _places(spec, program, [f"{module}.weight" for module in modules])
    problems = []
    for module, pair in modules.items():
        found = places.get(f"{module}.weight")
        if found is None:
            problems.append(f"{module} is no linear layer of this model")
        elif pair.keys() != {"a", "b"}:
            problems.append(f"{module} has only one of its two matrices")
        else:
            scale = _scale(config, module, rank=len(pair["a"]))
            for place in found:
                yield from _cut(module, pair["a"], pair["b"], scale, place, problems)
    if problems:
        listed = "; ".join(problems[:10])
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ModelFormatError(f"{source} does not fit this model: {listed}{more}", path=source)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a module's rows are: all of them, or some in another order."""

    weight: str
    shape: tuple[int, ...]
    first_row: int
    part: Part


def _places(spec: ModelSpec, program: Program, tensors: list[str]) -> dict[str, list[_Place]]:
    """Tensor of the Hugging Face checkpoint → the rows of the program's weights that it gives."""
    family = next(each for each in ARCHITECTURES if each.name == spec.architecture)
    names: WeightMap = family.weights_from_safetensors(spec, {*tensors, *_usual_names(tensors)})
    linear = {op["weight"] for kind, op in program.ops if kind == "linear"}
    places: dict[str, list[_Place]] = {}
    for weight in linear:
        first_row = 0
        for part in names.get(weight, ()):
            place = _Place(weight, program.weights[weight], first_row, part)
            places.setdefault(part.tensor, []).append(place)
            first_row += part.rows
    return places


def _usual_names(tensors: list[str]) -> set[str]:
    """An embedding beside the layers: by it a family knows the prefix of its tensors' names."""
    prefixes = {re.split(r"(?:^|\.)layers\.\d+\.", name)[0] for name in tensors}
    return {f"{prefix}.embed_tokens.weight".lstrip(".") for prefix in prefixes}


def _scale(config: Fields, module: str, *, rank: int) -> float:
    """``alpha / r`` or ``alpha / sqrt(r)``; patterns override both for some modules."""
    alpha = _by_pattern(config, "alpha_pattern", module)
    if alpha is None:
        alpha = config.number("lora_alpha", default=8)
    stated = _by_pattern(config, "rank_pattern", module)
    if stated is None:
        stated = config.number("r", default=8)
    if stated != rank:
        raise config.invalid("r", f"the rank {rank} of {module}", stated)
    return alpha / (math.sqrt(rank) if config.flag("use_rslora", default=False) else rank)


def _by_pattern(config: Fields, key: str, module: str) -> float | None:
    """The value of the first pattern that matches a module's name, as PEFT matches it."""
    section = config.section(key)
    if section is None:
        return None
    for pattern in section.values:
        if not re.fullmatch(r"[\w.-]+", pattern):
            raise UnsupportedModelError(
                f"{config.source} has the expression {pattern[:80]!r} in {key}; supported are names"
            )
        if module == pattern or module.endswith(f".{pattern}"):
            return section.number(pattern)
    return None


def _cut(
    module: str,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    scale: float,
    place: _Place,
    problems: list[str],
) -> Iterator[AdapterMatrices]:
    part = place.part
    stored_rows = part.shape[0] if part.shape and not _is_transposed(part) else part.rows
    columns = place.shape[-1]
    rank = len(a) if a.ndim == 2 else 0
    if not 0 < rank <= LARGEST_RANK or a.shape != (rank, columns) or b.shape != (stored_rows, rank):
        problems.append(
            f"{module} has matrices of {list(a.shape)} and {list(b.shape)}, which do not fit "
            f"[{stored_rows}, {columns}]"
        )
        return
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        problems.append(f"{module} holds NaN or infinity")
        return
    match part.transform:
        case UnpermuteQk() | HeadRows() | RopeFirst() | RowsFrom():
            b = b[part.transform.row_order()]
        case Transposed():
            b = b[part.transform.first :: part.transform.step]
        case None:
            pass
        case _:
            problems.append(f"{module} cannot be adapted")
            return
    yield AdapterMatrices(
        weight=place.weight,
        first_row=place.first_row,
        a=np.ascontiguousarray(a),
        b=np.ascontiguousarray(b.T),
        scale=scale,
    )


def _is_transposed(part: Part) -> bool:
    return isinstance(part.transform, Transposed)


def _hash(*paths: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
