"""The calls that answer a conversation: ``chat``, ``stream_chat`` and their twins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from .call_options import ChatCallOptions, split_options
from .chat import encode_conversation, is_one_conversation, unfinished_text
from .errors import RequestError
from .in_thread import in_thread
from .model_core import ModelCore, not_one
from .stream import AsyncStream, Stream
from .tools import tools_as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .completion import Completion
    from .messages import Message
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
            **options: As for ``generate``; also ``tools`` (OpenAI's JSON, or functions with type
                hints), ``chat_template_kwargs`` (further names that the template reads),
                ``continue_final_message`` (the answer goes on with the assistant's last message),
                ``response_format`` (OpenAI's, in the place of ``schema``), ``tool_syntax`` and
                ``reasoning_syntax`` (instead of what the template says), ``thinking_budget`` (most
                tokens of reasoning).

        Returns:
            ``completion.tool_calls``, ``completion.reasoning`` and, without both,
            ``completion.text``; ``completion.to_message()`` continues the conversation.

        Raises:
            RequestError: A message or an option is invalid; ``field`` names it.
            TemplateError: There is no chat template, or it refuses the messages.
            PromptTooLongError: A conversation does not fit the context or the KV cache.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
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

        The arguments are those of ``chat``, but for one conversation.

        Raises:
            RequestError: A message or an option is invalid, at once.
            TemplateError: There is no chat template, or it refuses the messages.
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            ClosedError: The model is closed.
        """
        return Stream(*self._pending(self._one_conversation(messages, params, options)))

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
            OverloadedError: More requests wait than the model's ``Limits`` allow.
            ClosedError: The model is closed.
        """
        return AsyncStream(*self._pending(self._one_conversation(messages, params, options)))

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """Return the text that ``chat`` would give the model for one conversation.

        Args:
            messages: The conversation.
            tools: As for ``chat``.
            chat_template_kwargs: Further variables for the template.
            continue_final_message: End where the last message does, so that the model goes on with
                it, instead of where an answer begins.

        Raises:
            RequestError: A message is malformed.
            TemplateError: There is no chat template, or it refuses the messages.
        """
        if not is_one_conversation(messages):
            raise RequestError("give one conversation, not a list", field="messages")
        checkpoint = self._parts.checkpoint
        own = checkpoint.tool_chat_template if tools is not None else None
        encoded = encode_conversation(
            messages,
            checkpoint.chat_template if own is None else own,
            self.tokenizer,
            tools=None if tools is None else tools_as_json(tools),
            chat_template_kwargs=chat_template_kwargs,
            continue_final_message=continue_final_message,
        )
        return encoded.text or ""

    def _chat_requests(
        self, messages: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> tuple[bool, list[Request]]:
        """Whether ``messages`` is one conversation; and a request per conversation."""
        self._engine.check_usable()
        sampling, call, chat = split_options(params, options, ChatCallOptions.__annotations__)
        one = is_one_conversation(messages)
        conversations = cast("Sequence[Any]", [messages] if one else messages)
        if chat.get("tools") is not None:
            chat["tools"] = tools_as_json(chat["tools"])
        return one, [self._chat_request(each, sampling, call, chat) for each in conversations]

    def _one_conversation(
        self, messages: object, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> Request:
        self._engine.check_usable()
        if not is_one_conversation(messages):
            raise not_one("messages")
        return self._chat_requests(messages, params, options)[1][0]

    def _one_chat_request(
        self,
        messages: object,
        params: SamplingParams,
        call: Mapping[str, Any],
        chat: Mapping[str, Any],
    ) -> Request:
        """The request of one conversation, of which nothing is known yet."""
        if not is_one_conversation(messages):
            raise RequestError("an item must be one conversation, not a list", field="messages")
        return self._chat_request(cast("Sequence[Any]", messages), params, call, chat)

    def _chat_request(
        self,
        messages: Sequence[Any],
        params: SamplingParams,
        call: Mapping[str, Any],
        chat: Mapping[str, Any],
    ) -> Request:
        syntaxes = {name: chat[name] for name in _SYNTAXES if name in chat}
        checkpoint = self._parts.checkpoint
        own = checkpoint.tool_chat_template if chat.get("tools") is not None else None
        encoded = encode_conversation(
            messages,
            checkpoint.chat_template if own is None else own,
            self.tokenizer,
            max_model_len=self.max_model_len,
            **{name: value for name, value in chat.items() if name not in _OF_OUTPUTS},
        )
        continues = chat.get("continue_final_message", False)
        unfinished = unfinished_text(messages[-1]) if continues else None
        reading = self._output_reader.reading(
            encoded.text or "",
            tools=chat.get("tools"),
            unfinished=unfinished,
            skip_special_tokens=params.skip_special_tokens,
            **syntaxes,
        )
        thinking = self._thinking_budget(chat.get("thinking_budget"), reading, unfinished)
        return self._parts.builder.build(encoded, params, output=reading, thinking=thinking, **call)


_SYNTAXES = ("tool_syntax", "reasoning_syntax")
_OF_OUTPUTS = (*_SYNTAXES, "thinking_budget")
