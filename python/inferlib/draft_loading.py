"""From what callers give as ``draft_model`` to a ``DraftModel``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .config import EngineConfig
from .devices import Device
from .errors import ModelError, RequestError
from .model_core import ModelCore
from .validation import path, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .assembly import ModelParts
    from .config import DraftModelChoice
    from .draft_model import DraftModel


@contextmanager
def opened_draft_model(
    draft_model: DraftModelChoice | None, config: EngineConfig
) -> Iterator[DraftModel | None]:
    """Open what a model is to be assembled with; if that fails, what was loaded is closed.

    Args:
        draft_model: As ``Model.from_pretrained`` takes it.
        config: How the model itself is to run; a draft model that is loaded here runs on the same
            device, with the same threads and numerics, and a KV cache of its own.

    Raises:
        RequestError: It cannot be a draft model, or does not fit ``config``; ``field`` says which.
        ModelError: Something is wrong with its files.
        OutOfMemoryError: It does not fit.
    """
    if draft_model is None:
        if config.speculation == "draft_model":
            raise RequestError(
                'speculation="draft_model" needs a draft_model',
                field="speculation",
                hint="give draft_model a smaller model of the same vocabulary",
            )
        yield None
        return
    if not config.asks_draft_model:
        raise RequestError(
            f'speculation="{config.speculation}" never asks a draft model',
            field="draft_model",
            hint='give speculation="auto" or "draft_model", or no draft_model',
        )
    opened = _open(draft_model, config)
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


def _open(draft_model: DraftModelChoice, config: EngineConfig) -> DraftModel:
    from .draft_model import DraftModel  # not for those who have none

    owner = None
    if isinstance(draft_model, ModelCore):
        owner, parts = draft_model, draft_model._parts  # noqa: SLF001  # of this package
    else:
        parts = _load(draft_model, config)
    return DraftModel(
        name=parts.checkpoint.name,
        source=parts.checkpoint.source,
        engine=parts.engine,
        builder=parts.builder,
        num_tokens_per_turn=parts.config.max_num_batched_tokens,
        owner=owner,
    )


def _load(draft_model: object, config: EngineConfig) -> ModelParts:
    from .assembly import assemble_from_files  # half of the time of `import inferlib`

    try:
        name_or_path = path("draft_model", draft_model)
    except RequestError:
        raise RequestError(
            f"draft_model must be a path, a name or a Model, not {shown(draft_model)}",
            field="draft_model",
        ) from None
    if isinstance(config.device, Device):
        raise RequestError(
            "a Device cannot be shared with a draft model that is loaded with it",
            field="draft_model",
            hint="load the draft model on a device of its own, and give the Model",
        )
    own = EngineConfig(
        device=config.device,
        precision=config.precision,
        kv_cache_dtype=config.kv_cache_dtype,
        threads=config.threads,
        max_num_batched_tokens=config.max_num_batched_tokens,
        enable_prefix_caching=config.enable_prefix_caching,
        packed_cache=config.packed_cache,
        speculation="off",
        mmap=config.mmap,
    )
    try:
        return assemble_from_files(name_or_path, own, chat_template=None)
    except ModelError as error:
        error.args = (f"draft_model: {error.args[0]}",)
        raise
    except RequestError as error:
        error.field = "draft_model"
        raise
