"""One file per model family: how to read its checkpoints, and where their tensors are.

A family that uses known parts is one short file and its entry in ``ARCHITECTURES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from .architecture import Architecture, GgufHeader
from .bert import BERT
from .deepseek import DEEPSEEK2, DEEPSEEK3
from .fields import Fields
from .gemma import GEMMA3
from .gemma2 import GEMMA, GEMMA2
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX
from .gpt_oss import GPT_OSS
from .granite import GRANITE
from .llama import LLAMA, MISTRAL
from .mixtral import MIXTRAL
from .olmo import OLMO2
from .phi import PHI3
from .qwen import QWEN2, QWEN3
from .qwen_moe import QWEN3_MOE
from .roberta import ROBERTA
from .smollm import SMOLLM3
from .starcoder import STARCODER2
from .tensor_names import (
    AddOne,
    HeadRows,
    Part,
    Recast,
    RopeFirst,
    RowsFrom,
    Transposed,
    TransposedHeads,
    UnpermuteQk,
    WeightMap,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ARCHITECTURES",
    "AddOne",
    "Architecture",
    "Fields",
    "GgufHeader",
    "HeadRows",
    "Part",
    "Recast",
    "RopeFirst",
    "RowsFrom",
    "Transposed",
    "TransposedHeads",
    "UnpermuteQk",
    "WeightMap",
    "architecture_of_config",
    "architecture_of_gguf",
]

ARCHITECTURES = (
    *(LLAMA, MISTRAL, MIXTRAL, SMOLLM3, GRANITE),
    *(QWEN2, QWEN3, QWEN3_MOE),
    *(GEMMA, GEMMA2, GEMMA3),
    *(PHI3, OLMO2),
    *(GPT2, GPT_NEOX, STARCODER2, GPT_OSS),
    *(DEEPSEEK2, DEEPSEEK3),
    *(BERT, ROBERTA),
)


def architecture_of_config(config: Fields) -> Architecture:
    """The family of a ``config.json``, by its ``architectures``, else by its ``model_type``.

    Raises:
        UnsupportedModelError: That architecture is not known; the message names the nearest.
        ModelFormatError: The file names no architecture.
    """
    classes = config.texts("architectures")
    if classes:
        known = {name: family for family in ARCHITECTURES for name in family.classes}
        for name in classes:
            if name in known:
                return known[name]
        raise _unsupported(classes[0], known)
    known = {name: family for family in ARCHITECTURES for name in family.model_types}
    model_type = config.text("model_type")
    if model_type in known:
        return known[model_type]
    raise _unsupported(model_type, known)


def architecture_of_gguf(metadata: Fields) -> Architecture:
    """The family of a GGUF file, by its ``general.architecture``.

    Raises:
        UnsupportedModelError: That architecture is not known; the message names the nearest.
        ModelFormatError: The file names no architecture.
    """
    known = {name: family for family in ARCHITECTURES for name in family.gguf_names}
    name = metadata.text("general.architecture")
    if name in known:
        return known[name]
    raise _unsupported(name, known)


def _unsupported(name: str, known: Iterable[str]) -> UnsupportedModelError:
    from difflib import get_close_matches

    names = sorted(known)
    nearest = get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f"the nearest supported one is {nearest[0]!r}; " if nearest else ""
    return UnsupportedModelError(
        f"the architecture {name!r} is not supported",
        hint=f"{suggestion}supported are {', '.join(names)}",
    )
