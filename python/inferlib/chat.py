"""Conversations: messages in, the model's prompt out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import RequestError, TemplateError
from .messages import Message, check_conversation, has_calls, plain_message, with_arguments_as_text
from .prompts import EncodedPrompt, encode_text
from .validation import boolean, shown

if TYPE_CHECKING:
    from ._core import ChatTemplate, Tokenizer

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
_END_OF_FINAL_MESSAGE = "end-of-final-message-5f0c8b1d "


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
    tools: Sequence[dict[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    continue_final_message: bool = False,
    max_model_len: int | None = None,
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
    check_conversation(messages)
    boolean("continue_final_message", continue_final_message)
    if continue_final_message and messages[-1]["role"] != "assistant":
        raise RequestError(
            "continue_final_message needs a final message of the assistant",
            field="continue_final_message",
        )
    plain = [plain_message(index, message) for index, message in enumerate(messages)]
    if continue_final_message:
        plain[-1] = _marked(plain[-1])
    text = _render(
        template,
        plain,
        tools=tools,
        add_generation_prompt=not continue_final_message,
        variables=_variables({} if chat_template_kwargs is None else chat_template_kwargs),
    )
    if continue_final_message:
        text = _cut_at_mark(text)
    token_ids = encode_text(text, tokenizer, add_special_tokens=False, max_model_len=max_model_len)
    if not token_ids:
        raise TemplateError("the chat template wrote nothing", field="messages")
    return EncodedPrompt(text=text, token_ids=token_ids)


def unfinished_text(message: Message) -> str:
    """Return the text of a message that is to be continued."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content or () if isinstance(part, Mapping)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return str(texts[-1]) if texts else ""


def _render(
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    *,
    tools: Sequence[dict[str, Any]] | None,
    add_generation_prompt: bool,
    variables: dict[str, Any],
) -> str:
    """The template's text; calls have mappings for arguments, or text if it wants that."""

    def render(messages: list[dict[str, Any]]) -> str:
        return template.render(
            messages,
            tools=None if tools is None else list(tools),
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )

    try:
        return render(messages)
    except TemplateError:
        if not has_calls(messages):
            raise
        try:
            return render(with_arguments_as_text(messages))
        except TemplateError:
            pass
        raise
    except RequestError as error:
        if error.field == "variables":
            error.field = "chat_template_kwargs"
        raise


def _variables(chat_template_kwargs: object) -> dict[str, Any]:
    variables = _mapping("chat_template_kwargs", chat_template_kwargs)
    for name in _RESERVED.intersection(variables):
        raise RequestError(
            f"chat_template_kwargs cannot hold {shown(name)}",
            field="chat_template_kwargs",
            hint="it is an argument of chat()" if name in {"messages", "tools"} else "",
        )
    return variables


def _mapping(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{field} must hold mappings, not {shown(value)}", field=field)
    return dict(value)


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a mark behind its text, to find it again in what the template writes.

    Source: transformers' ``apply_chat_template``, whose results these are.
    """
    content = message.get("content")
    if isinstance(content, str):
        return message | {"content": content + _END_OF_FINAL_MESSAGE}
    if isinstance(content, Sequence):
        parts = list(content)
        for index in reversed(range(len(parts))):
            part = parts[index]
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts[index] = dict(part) | {"text": part["text"] + _END_OF_FINAL_MESSAGE}
                return message | {"content": parts}
    raise RequestError("continue_final_message needs a final message with text", field="messages")


def _cut_at_mark(text: str) -> str:
    """Drop what the template writes after the final message, so that it can go on."""
    place = text.rfind(_END_OF_FINAL_MESSAGE.strip())
    if place < 0:
        raise TemplateError(
            "the chat template does not write the final message as it is",
            field="continue_final_message",
        )
    # If the template strips messages, it would have stripped the end of this one.
    kept = text.startswith(_END_OF_FINAL_MESSAGE, place)
    return text[:place] if kept else text[:place].rstrip()
