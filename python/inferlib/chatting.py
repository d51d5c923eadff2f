"""The calls that answer a conversation: ``chat``, ``stream_chat`` and their twins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from .call_options import ChatCallOptions, split_options
from .chat import encode_conversation, is_one_conversation
from .in_thread import in_thread
from .model_core import ModelCore
from .stream import AsyncStream, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .chat import Message
    from .completion import Completion
    from .request import Request
    from .sampling_params import SamplingParams


class Chatting(ModelCore):
    """Answers conversations."""

    @overload
    def chat(
        self,
        messages: list[Message] | list[dict[str, str]] | list[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: list[list[Message]] | list[list[dict[str, str]]] | list[list[dict[str, Any]]],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> list[Completion]: ...
    def chat(
        self,
        messages: Sequence[Any],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion | list[Completion]:
        """Answer a conversation, or many as one batch, through the model's chat template.

        Args:
            messages: ``[{"role": "user", "content": "…"}]``, or a list of such lists.
            params: Options; ``None`` is the checkpoint's defaults.
            progress: As for ``generate``.
            **options: As for ``generate``; also ``tools`` (handed to the template),
                ``chat_template_kwargs`` (further names that the template reads) and
                ``continue_final_message`` (the answer goes on with the assistant's last message).

        Raises:
            RequestError: A message or an option is invalid; ``field`` names it.
            TemplateError: There is no chat template, or it refuses the messages.
            InferlibError: A step failed, or the model was closed.
        """
        one, requests = self._chat_requests(messages, params, options)
        completions = self._run(requests, progress=progress)
        return completions[0] if one else completions

    @overload
    async def achat(
        self,
        messages: list[Message] | list[dict[str, str]] | list[dict[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        messages: list[list[Message]] | list[list[dict[str, str]]] | list[list[dict[str, Any]]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> list[Completion]: ...
    async def achat(
        self,
        messages: Sequence[Any],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Completion | list[Completion]:
        """``chat`` without blocking the event loop; cancelling the task cancels it."""
        prepare = partial(self._chat_requests, messages, params, options)
        one, requests = await in_thread(prepare)
        completions = await self._arun(requests)
        return completions[0] if one else completions

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> Stream:
        """Answer one conversation; iterate over the result for its deltas as they come.

        Raises:
            RequestError: A message or an option is invalid, at once.
            TemplateError: There is no chat template, or it refuses the messages.
        """
        return Stream(*self._pending(self._one(self._chat_requests(messages, params, options))))

    def astream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **options: Unpack[ChatCallOptions],
    ) -> AsyncStream:
        """``stream_chat`` for ``async for``; not itself awaited.

        Raises:
            RequestError: A message or an option is invalid, at once.
            TemplateError: There is no chat template, or it refuses the messages.
        """
        return AsyncStream(
            *self._pending(self._one(self._chat_requests(messages, params, options)))
        )

    def _chat_requests(
        self, messages: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[bool, list[Request]]:
        """Whether ``messages`` is one conversation; and a request per conversation."""
        self._engine.check_usable()
        sampling, call, chat = split_options(params, options, ChatCallOptions.__annotations__)
        one = is_one_conversation(messages)
        conversations = cast("Sequence[Any]", [messages] if one else messages)
        encoded = [
            encode_conversation(each, self._parts.checkpoint.chat_template, self.tokenizer, **chat)
            for each in conversations
        ]
        return one, self._build(encoded, sampling, call)
