"""Conversations: messages in, the model's prompt out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import RequestError, TemplateError
from .prompts import EncodedPrompt, encode_text
from .validation import boolean

if TYPE_CHECKING:
    from ._core import ChatTemplate, Tokenizer

Message = Mapping[str, Any]
"""A message: ``{"role": "user", "content": "…"}``, and whatever else the template reads."""

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})


def is_one_conversation(messages: object) -> bool:
    """Whether this is one list of messages, not a list of such lists.

    Raises:
        RequestError: It is neither.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(
            f"messages must be a list of messages, not {type(messages).__name__}",
            field="messages",
            hint='write [{"role": "user", "content": "…"}]',
        )
    if not messages:
        raise RequestError("there are no messages", field="messages")
    return isinstance(messages[0], Mapping)


def encode_conversation(
    messages: Sequence[Message],
    template: ChatTemplate | TemplateError | None,
    tokenizer: Tokenizer | None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    continue_final_message: bool = False,
) -> EncodedPrompt:
    """Apply the chat template and encode its text.

    The template writes the special tokens, the beginning-of-sequence token among them; none is
    added.

    Raises:
        RequestError: A message is malformed.
        TemplateError: There is no template, or it refuses the messages.
    """
    if tokenizer is None:
        raise RequestError("this model has no tokenizer, so it cannot chat", field="messages")
    if template is None:
        raise TemplateError(
            "this model has no chat template",
            field="chat_template",
            hint="give one to from_pretrained(chat_template=...), or use generate()",
        )
    if isinstance(template, TemplateError):
        raise copy.copy(template) from template
    for index, message in enumerate(messages):
        _check_message(index, message)
    boolean("continue_final_message", continue_final_message)
    if continue_final_message and messages[-1]["role"] != "assistant":
        raise RequestError(
            "continue_final_message needs a final message of the assistant",
            field="continue_final_message",
        )
    variables = _variables(chat_template_kwargs or {})
    try:
        text = template.render(
            [dict(message) for message in messages],
            tools=None if tools is None else [_mapping("tools", tool) for tool in _list(tools)],
            add_generation_prompt=not continue_final_message,
            variables=variables,
        )
    except RequestError as error:
        if error.field == "variables":
            error.field = "chat_template_kwargs"
        raise
    if continue_final_message:
        text = _cut_after_final_message(text, messages[-1])
    token_ids = encode_text(text, tokenizer, add_special_tokens=False)
    if not token_ids:
        raise TemplateError("the chat template wrote nothing", field="messages")
    return EncodedPrompt(text=text, token_ids=token_ids)


def _variables(chat_template_kwargs: object) -> dict[str, Any]:
    variables = _mapping("chat_template_kwargs", chat_template_kwargs)
    for name in _RESERVED.intersection(variables):
        raise RequestError(
            f"chat_template_kwargs cannot hold {name!r}",
            field="chat_template_kwargs",
            hint="it is an argument of chat()" if name in {"messages", "tools"} else "",
        )
    return variables


def _list(tools: object) -> Sequence[object]:
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise RequestError(
            f"tools must be a list of mappings, not {type(tools).__name__}", field="tools"
        )
    return tools


def _mapping(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{field} must hold mappings, not {value!r}", field=field)
    return dict(value)


def _cut_after_final_message(text: str, message: Message) -> str:
    """Drop what the template writes after the final message, so that it can go on."""
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise RequestError(
            "continue_final_message needs a final message with text", field="messages"
        )
    # A template may strip a message's ends; what it drops at the end is dropped here, too.
    content = content if content in text else content.strip()
    start = text.rfind(content)
    if start < 0:
        raise TemplateError(
            "the chat template does not write the final message as it is",
            field="continue_final_message",
        )
    return text[: start + len(content)]


def _check_message(index: int, message: object) -> None:
    if not isinstance(message, Mapping):
        raise RequestError(
            f"message {index} must be a mapping, not {type(message).__name__}", field="messages"
        )
    if not isinstance(message.get("role"), str):
        raise RequestError(f"message {index} has no role", field="messages")
    if "content" not in message and "tool_calls" not in message:
        raise RequestError(f"message {index} has no content", field="messages")
