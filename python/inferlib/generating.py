"""The calls that continue a prompt: ``generate``, ``stream``, ``submit`` and their twins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Unpack, overload

from .in_thread import in_thread
from .model_core import ModelCore
from .sampling_checks import STRUCTURES
from .stream import AsyncStream, Handle, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .call_options import CallOptions
    from .completion import Completion
    from .prompts import MixedPrompts, Prompt, Prompts
    from .sampling_params import SamplingParams

LONG_TEXT_CHARACTERS = 100_000
"""Longer prompts are encoded in a thread by the asynchronous calls."""


class Generating(ModelCore):
    """Continues prompts."""

    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: MixedPrompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Prompts | MixedPrompts,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """Continue one prompt, or many as one batch.

        Args:
            prompt: Text or a list of token ids; or a list of these, also mixed.
            params: Options; ``None`` is the checkpoint's defaults.
            progress: Show a progress bar. ``None``: for a long list in a terminal or notebook.
            **options: As in ``SamplingParams``, replacing those of ``params``. Besides,
                ``cache_salt``: cached prefixes are shared only with requests of the same salt.
                ``priority``: smaller runs first; ``"background"`` runs where others leave room.
                ``tenant``: for whom it is, where ``scheduling_policy="fair"`` shares out.
                ``deadline``: seconds after which it ends with what there is.
                ``speculation``: who drafts tokens, ``"off"`` for nobody; no result depends on it.
                ``adapter``: a name that ``load_adapter`` returned; ``None`` is the model alone.
                ``logits_processors``: callables ``(token_ids, logits) -> logits or None``.
                ``inferlib.call_options`` describes them in full.

        Returns:
            One ``Completion`` for one prompt, a list for a list (empty for an empty one).

        Raises:
            RequestError: A prompt or an option is invalid; ``field`` names it.
            PromptTooLongError: A prompt does not fit the context or the KV cache.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            InferlibError: A step failed, or the model was closed.
        """
        one, requests = self._requests(prompt, params, options)
        completions = self._run(requests, progress=progress)
        return completions[0] if one else completions

    @overload
    async def agenerate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompt: MixedPrompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Completion]: ...
    async def agenerate(
        self,
        prompt: Prompt | Prompts | MixedPrompts,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """``generate`` without blocking the event loop; cancelling the task cancels it."""
        prepare = partial(self._requests, prompt, params, options)
        takes_long = _is_long(prompt) or _has_structure(params, options)
        one, requests = await in_thread(prepare) if takes_long else prepare()
        completions = await self._arun(requests)
        return completions[0] if one else completions

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream:
        """Continue one prompt; iterate over the result for its deltas as they come.

        The arguments are those of ``generate``, but for one prompt.

        Raises:
            RequestError: The prompt or an option is invalid, at once.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            ClosedError: The model is closed.
        """
        return Stream(*self._pending(self._one_request(prompt, params, options)))

    def astream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncStream:
        """``stream`` for ``async for``; not itself awaited.

        Raises:
            RequestError: The prompt or an option is invalid, at once.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            ClosedError: The model is closed.
        """
        return AsyncStream(*self._pending(self._one_request(prompt, params, options)))

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **options: Unpack[CallOptions],
    ) -> Handle:
        """Queue one prompt and return at once; the handle has ``result()`` and can be awaited.

        The arguments are those of ``generate``, but for one prompt. Unless the model was loaded
        with ``driver="thread"``, it advances only while somebody waits for it or another request.

        Raises:
            RequestError: The prompt or an option is invalid.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            ClosedError: The model is closed.
        """
        return Handle(*self._pending(self._one_request(prompt, params, options)))


def _has_structure(params: SamplingParams | None, options: Mapping[str, object]) -> bool:
    """Whether a description of the output may have to be compiled, which can take a second."""
    given = (options.get(name, getattr(params, name, None)) for name in STRUCTURES)
    return any(structure is not None for structure in given)


def _is_long(prompt: object) -> bool:
    """Whether encoding takes so long that it would hold up an event loop."""
    if isinstance(prompt, str):
        return len(prompt) > LONG_TEXT_CHARACTERS
    if not isinstance(prompt, list | tuple):
        return False
    return sum(len(each) for each in prompt if isinstance(each, str)) > LONG_TEXT_CHARACTERS
