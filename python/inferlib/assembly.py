"""Put a model together: spec, program and weights become an executor, a scheduler and an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import ChatTemplate, Tokenizer
    from .config import EngineConfig
    from .engine import Engine
    from .model_spec import ModelSpec
    from .request_builder import RequestBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What a ``Model`` is made of.

    Attributes:
        name: For people.
        source: What it was loaded from; ``None`` if it was made in code.
        config: How it runs.
        spec: What it is.
        engine: Runs its requests.
        builder: Makes them.
        tokenizer: ``None`` if the checkpoint has none.
        chat_template: ``None`` if the checkpoint has none and none was given.
        given_chat_template: The one that was given.
        kv_cache_bytes: Memory reserved for keys and values.
    """

    name: str
    source: str | None
    config: EngineConfig
    spec: ModelSpec
    engine: Engine
    builder: RequestBuilder
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    given_chat_template: str | None
    kv_cache_bytes: int


def assemble_from_files(
    name_or_path: object, config: EngineConfig, *, chat_template: str | None
) -> ModelParts:
    """TODO"""
    raise NotImplementedError
