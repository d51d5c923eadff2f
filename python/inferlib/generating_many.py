"""The calls for long runs: ``generate_many``, ``chat_many`` and their twins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, get_args

import numpy as np

from .call_options import CallOptions, ChatCallOptions, split_options
from .chatting import Chatting
from .checkpoint_log import CheckpointLog
from .errors import RequestError
from .item_results import AsyncItemResults, ItemResults, OnError, Source
from .logits_processing import checked_processors
from .prompts import is_one_prompt
from .tools import tools_as_json
from .validation import INT32_MAX, boolean, choice, integer, shown
from .validation import path as check_path

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .messages import Message
    from .prompts import Prompt
    from .request import Request
    from .sampling_params import SamplingParams


class GeneratingMany(Chatting):
    """Works through more prompts than fit in memory."""

    def generate_many(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ordered: bool = True,
        on_error: OnError = "return",
        max_pending: int | None = None,
        **options: Unpack[CallOptions],
    ) -> ItemResults:
        """Continue each prompt of an iterable; iterate over the result for what became of them.

        Prompts are pulled as they are needed, so that any number takes bounded memory. Steps run
        while the next result is waited for.

        Args:
            prompts: Text or lists of token ids.
            params: Options of all; ``None`` is the checkpoint's defaults.
            checkpoint: A file in which results are kept as they come. A second run with the same
                prompts, options and model reads those that are there and computes the others;
                Ctrl-C, an error or a crash loses only what was running. Opening it hashes the
                model's weights, once per model.
            ordered: Results come in the order of the prompts; ``False``: as they are ready.
            on_error: ``"return"``: a prompt that is invalid or fails has an error for a result;
                ``"raise"``: it ends the run.
            max_pending: How many prompts may be known at a time; ``None``: twice ``max_num_seqs``.
            **options: As for ``generate``.

        Returns:
            An iterator over ``ItemResult``; closing it cancels what runs.

        Raises:
            RequestError: An option is invalid, or cannot go into a checkpoint, at once.
            CheckpointError: The file cannot be used, at once; ``CheckpointMismatchError`` if it
                belongs to other options or another model.
        """
        make = partial(self._prompt_source, prompts, params, options)
        source = self._source(
            make, checkpoint, ordered=ordered, on_error=on_error, max_pending=max_pending
        )
        return ItemResults(self._engine, source, self._token_text, self)

    def agenerate_many(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ordered: bool = True,
        on_error: OnError = "return",
        max_pending: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncItemResults:
        """``generate_many`` for ``async for``; not itself awaited."""
        make = partial(self._prompt_source, prompts, params, options)
        source = self._source(
            make, checkpoint, ordered=ordered, on_error=on_error, max_pending=max_pending
        )
        return AsyncItemResults(self._engine, source, self._token_text, self)

    def chat_many(
        self,
        conversations: Iterable[Sequence[Message]],
        params: SamplingParams | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ordered: bool = True,
        on_error: OnError = "return",
        max_pending: int | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> ItemResults:
        """Answer each conversation of an iterable: ``chat`` as ``generate_many`` does it.

        Args:
            conversations: Lists of messages, as for ``chat``.
            params: Options of all; ``None`` is the checkpoint's defaults.
            checkpoint: As for ``generate_many``; it belongs to the chat template, too.
            ordered: As for ``generate_many``.
            on_error: As for ``generate_many``.
            max_pending: As for ``generate_many``.
            **options: As for ``chat``.

        Returns:
            An iterator over ``ItemResult``; closing it cancels what runs.

        Raises:
            RequestError: As for ``generate_many``.
            CheckpointError: As for ``generate_many``.
        """
        make = partial(self._conversation_source, conversations, params, options)
        source = self._source(
            make, checkpoint, ordered=ordered, on_error=on_error, max_pending=max_pending
        )
        return ItemResults(self._engine, source, self._token_text, self)

    def achat_many(
        self,
        conversations: Iterable[Sequence[Message]],
        params: SamplingParams | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ordered: bool = True,
        on_error: OnError = "return",
        max_pending: int | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> AsyncItemResults:
        """``chat_many`` for ``async for``; not itself awaited."""
        make = partial(self._conversation_source, conversations, params, options)
        source = self._source(
            make, checkpoint, ordered=ordered, on_error=on_error, max_pending=max_pending
        )
        return AsyncItemResults(self._engine, source, self._token_text, self)

    def _prompt_source(
        self, prompts: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Items, what makes a request of one, and what results depend on."""
        sampling, call, _ = split_options(params, options, CallOptions.__annotations__)

        def request(prompt: object) -> Request:
            if not is_one_prompt(prompt):
                raise RequestError("an item must be one prompt, not a list", field="prompt")
            encoded = self._encoded(prompt)
            return self._parts.builder.build(encoded, sampling, **call)

        depends = {
            "call": "generate",
            "params": self._stated(sampling),
            **self._stated_adapter(call),
            **_stated_processors(call),
        }
        return prompts, request, depends

    def _conversation_source(
        self, conversations: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[Any, Any, dict[str, Any]]:
        sampling, call, chat = split_options(params, options, ChatCallOptions.__annotations__)
        if chat.get("tools") is not None:
            chat["tools"] = tools_as_json(chat["tools"])

        def request(messages: Any) -> Request:  # noqa: ANN401 (checked there)
            return self._one_chat_request(messages, sampling, call, chat)

        depends = {
            "call": "chat",
            "params": self._stated(sampling),
            **self._stated_adapter(call),
            **_stated_processors(call),
            "chat": {name: _stored(name, value) for name, value in chat.items()},
            "chat_template": _hash(self._parts.checkpoint.chat_template_text or ""),
        }
        return conversations, request, depends

    def _stated(self, params: SamplingParams) -> dict[str, Any]:
        """Options with the checkpoint's defaults, but no seed that nobody gave."""
        resolved = params.resolve(self._parts.builder.generation_config, seed=0)
        return resolved.to_dict() | {"seed": params.seed}

    def _stated_adapter(self, call: Mapping[str, Any]) -> dict[str, str]:
        """The adapter's weights, not its name; nothing if there is none."""
        name = call.get("adapter")
        if name is None:
            return {}
        return {"adapter": self._parts.builder.adapters.find(name).fingerprint}

    def _source(
        self,
        make: partial[tuple[Any, Any, dict[str, Any]]],
        checkpoint: str | os.PathLike[str] | None,
        *,
        ordered: bool,
        on_error: OnError,
        max_pending: int | None,
    ) -> Source:
        self._engine.check_usable()
        boolean("ordered", ordered)
        choice("on_error", on_error, get_args(OnError))
        if max_pending is None:
            max_pending = 2 * self._parts.config.max_num_seqs
        max_pending = integer("max_pending", max_pending, 1, INT32_MAX)
        items, request, depends = make()
        if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
            raise RequestError(
                f"this call takes an iterable of items, not {type(items).__name__}", field="prompts"
            )
        origin = self._parts.builder.origin
        log = None
        has_processors = depends.pop("logits_processors", False)
        if checkpoint is not None and has_processors:
            raise RequestError(
                "results of callables cannot be told from those of others, so they go into no "
                "checkpoint",
                field="logits_processors",
                hint="leave out checkpoint or logits_processors",
            )
        if checkpoint is not None:
            model = None if origin is None else origin.fingerprint()
            log = CheckpointLog(check_path("checkpoint", checkpoint), {**depends, "model": model})
        return Source(
            items=iter(items),
            key=_hash,
            request=request,
            checkpoint=log,
            ordered=ordered,
            on_error=on_error,
            max_pending=max_pending,
            origin=origin,
        )


def _stated_processors(call: Mapping[str, Any]) -> dict[str, bool]:
    """Whether results depend on callables; nothing if they do not."""
    has_processors = bool(checked_processors(call.get("logits_processors")))
    return {"logits_processors": True} if has_processors else {}


def _hash(item: object) -> str:
    """A short hash of an item, the same in every process."""
    if isinstance(item, str):
        text = f"text {item}"
    elif isinstance(item, np.ndarray):
        text = f"json {item.tolist()}"
    elif isinstance(item, list | tuple):
        try:
            text = f"json {json.dumps(item, default=repr)}"
        except (RecursionError, TypeError, ValueError):  # nothing that can run
            text = f"else {shown(item)}"
    else:
        text = f"else {shown(item)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _stored(name: str, value: object) -> object:
    """An option as a file holds it."""
    try:
        stored: object = json.loads(json.dumps(value, default=repr))
    except (RecursionError, TypeError, ValueError) as error:
        raise RequestError(
            f"{name} cannot be written as JSON: {shown(error)}", field=name
        ) from None
    return stored
