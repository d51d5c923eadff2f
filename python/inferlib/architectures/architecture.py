"""What a family module provides, and what it is given to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ..model_spec import ModelSpec
    from .fields import Fields
    from .tensor_names import WeightMap


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says about its model.

    Attributes:
        metadata: Key-value pairs.
        shapes: Tensor name → shape, outermost dimension first.
        rope_factors: Those tensors that divide rotary frequencies, by name.
    """

    metadata: Fields
    shapes: Mapping[str, tuple[int, ...]]
    rope_factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """``general.architecture``: the prefix of the model's keys."""
        return self.metadata.text("general.architecture")

    def key(self, name: str) -> str:
        """A key of the model: ``<architecture>.<name>``."""
        return f"{self.architecture}.{name}"

    def window(self) -> int | None:
        """``attention.sliding_window``; absent or 0 means none."""
        key = self.key("attention.sliding_window")
        return self.metadata.optional_size(key) if self.metadata.values.get(key) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One model family: how to read its description and where its tensors are.

    Attributes:
        name: The family's name.
        classes: Entries of ``architectures`` in ``config.json``.
        model_types: ``model_type`` in ``config.json``, for files that name no class.
        gguf_names: ``general.architecture`` in GGUF.
        spec_from_config: Reads ``config.json``.
        spec_from_gguf: Reads GGUF metadata.
        weights_from_safetensors: Maps canonical weights to the tensors of that name set.
        weights_from_gguf: Maps canonical weights to GGUF tensors.
        ignored: Beginnings of the names of tensors that the model does not use (a vision tower).
        ignored_endings: Endings of such names (masks that old checkpoints hold).
    """

    name: str
    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    gguf_names: tuple[str, ...]
    spec_from_config: Callable[[Fields], ModelSpec]
    spec_from_gguf: Callable[[GgufHeader], ModelSpec]
    weights_from_safetensors: Callable[[ModelSpec, Collection[str]], WeightMap]
    weights_from_gguf: Callable[[ModelSpec], WeightMap]
    ignored: tuple[str, ...] = ()
    ignored_endings: tuple[str, ...] = ()
