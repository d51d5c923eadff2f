"""Messages in OpenAI's form, as templates read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RequestError
from .tool_calls import ToolCall

Message = Mapping[str, Any]
"""``{"role": "user", "content": "…"}``, and whatever else the template reads.

An assistant's message may have ``tool_calls`` (OpenAI's form, arguments as JSON text or as a
mapping; or ``ToolCall`` objects) and ``reasoning_content``; a tool's result is ``{"role": "tool",
"tool_call_id": …, "content": "…"}``."""


def check_conversation(messages: object) -> None:
    """Refuse what is no list of messages.

    Raises:
        RequestError: It is none, or is empty, or one of its messages is none.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise RequestError(
            f"a conversation must be a list of messages, not {type(messages).__name__}",
            field="messages",
        )
    if not messages:
        raise RequestError("there are no messages", field="messages")
    for index, message in enumerate(messages):
        check_message(index, message)


def check_message(index: int, message: object) -> None:
    """Refuse what is no message.

    Raises:
        RequestError: It is none; the text says which.
    """
    if not isinstance(message, Mapping):
        raise RequestError(
            f"message {index} must be a mapping, not {type(message).__name__}", field="messages"
        )
    if not isinstance(message.get("role"), str):
        raise RequestError(f"message {index} has no role", field="messages")
    if "content" not in message and "tool_calls" not in message:
        raise RequestError(f"message {index} has no content", field="messages")


def plain_message(index: int, message: Message) -> dict[str, Any]:
    """Return a message with its calls as templates expect them: arguments are mappings.

    A key ``tool_calls`` with nothing in it goes away: many templates only ask whether it is there.

    Raises:
        RequestError: A call has no name, or arguments that are no object.
    """
    plain = dict(message)
    if "tool_calls" not in plain:
        return plain
    calls = plain.pop("tool_calls")
    if not calls:
        return plain
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
        raise RequestError(
            f"tool_calls of message {index} must be a list, not {type(calls).__name__}",
            field="messages",
        )
    # The order of keys stays: templates may write whole messages.
    return {
        key: [_plain_call(index, call) for call in calls] if key == "tool_calls" else value
        for key, value in message.items()
    }


def with_arguments_as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose calls have JSON text for arguments: some templates write them as is."""
    return [
        {
            key: [_text_call(call) for call in value] if key == "tool_calls" else value
            for key, value in message.items()
        }
        for message in messages
    ]


def has_calls(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether somebody called a tool."""
    return any("tool_calls" in message for message in messages)


def _plain_call(index: int, call: object) -> dict[str, Any]:
    if isinstance(call, ToolCall):
        return {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": dict(call.arguments)},
        }
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise RequestError(
            f"a tool call of message {index} must be a mapping or a ToolCall", field="messages"
        )
    if not isinstance(function.get("name"), str):
        raise RequestError(f"a tool call of message {index} has no name", field="messages")
    plain = dict(function)
    if "arguments" in plain:
        plain["arguments"] = _arguments(index, plain["arguments"])
    return dict(call) | {"function": plain} if "function" in call else plain


def _arguments(index: int, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        arguments = json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"the arguments of a tool call of message {index} are no JSON: {error}",
            field="messages",
        ) from None
    if not isinstance(arguments, dict):
        raise RequestError(
            f"the arguments of a tool call of message {index} must be an object, not {value!r:.40}",
            field="messages",
        )
    return arguments


def _text_call(call: Mapping[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return dict(call) | {"function": _text_call(call["function"])}
    arguments = call.get("arguments", {})
    text = (
        json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else arguments
    )
    return dict(call) | {"arguments": text}
