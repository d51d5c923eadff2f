"""What an embedding checkpoint says about its vectors: the files of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from .checkpoint_files import read_json, read_json_list, read_optional_json
from .errors import ModelFormatError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .pooling import Pooling

_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    # Longer by the root of the number of tokens: the same direction.
    "pooling_mode_mean_sqrt_len_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """How a checkpoint's vectors are made; neutral where it says nothing.

    Attributes:
        pooling: ``None`` if it does not say.
        normalize: Whether vectors have length 1.
        max_seq_length: Longest text in tokens; ``None`` if it does not say.
        prompts: What is put in front of texts, by name (``"query"``).
        default_prompt_name: The one that is used unless another is asked for.
    """

    pooling: Pooling | None = None
    normalize: bool = False
    max_seq_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def read_embedding_config(folder: Path) -> EmbeddingConfig:
    """Read ``modules.json`` and the files that it names, if they are there.

    Raises:
        ModelFormatError: One of them is malformed.
        UnsupportedModelError: A module or a kind of pooling is not supported.
    """
    path = folder / "modules.json"
    prompts, default = _prompts(folder / "config_sentence_transformers.json")
    if not path.is_file():
        return EmbeddingConfig(prompts=prompts, default_prompt_name=default)
    pooling: Pooling | None = None
    normalize = False
    max_seq_length: int | None = None
    for module in read_json_list(path):
        kind = str(module.get("type", "")).rpartition(".")[2]
        subfolder = folder / str(module.get("path", ""))
        if not subfolder.resolve().is_relative_to(folder.resolve()):
            raise ModelFormatError(f"a path of {path} leads out of its folder")
        match kind:
            case "Transformer":
                max_seq_length = _max_seq_length(subfolder / "sentence_bert_config.json")
            case "Pooling":
                pooling = _pooling(subfolder / "config.json")
            case "Normalize":
                normalize = True
            case _:
                raise UnsupportedModelError(
                    f"{path} names a module of the type {kind!r}",
                    hint="supported are Transformer, Pooling and Normalize",
                )
    return EmbeddingConfig(
        pooling=pooling,
        normalize=normalize,
        max_seq_length=max_seq_length,
        prompts=prompts,
        default_prompt_name=default,
    )


def _pooling(path: Path) -> Pooling:
    config = read_json(path)
    named = config.get("pooling_mode")
    if isinstance(named, str) and named in _NAMES:
        return _NAMES[named]
    modes = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
    if len(modes) == 1 and modes[0] in _MODES:
        return _MODES[modes[0]]
    asked = ", ".join(modes) or "no pooling"
    raise UnsupportedModelError(
        f"{path} asks for {asked}", hint="supported is one of cls, mean, max and last token"
    )


def _max_seq_length(path: Path) -> int | None:
    length = read_optional_json(path).get("max_seq_length")
    if length is None:
        return None
    if isinstance(length, int) and not isinstance(length, bool) and length > 0:
        return length
    raise ModelFormatError(f"'max_seq_length' of {path} must be a positive integer, not {length!r}")


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    config = read_optional_json(path)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    texts = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    if not texts or not (default is None or default in cast("dict[str, str]", prompts)):
        raise ModelFormatError(
            f"'prompts' of {path} must be texts by name, with 'default_prompt_name' among them"
        )
    return cast("dict[str, str]", prompts), default
