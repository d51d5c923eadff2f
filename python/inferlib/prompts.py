"""Prompts as callers write them: text, token ids, or a list of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import PromptTooLongError, RequestError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from ._core import Tokenizer

    Prompt = str | list[int] | NDArray[np.integer[Any]]
    Prompts = list[str] | list[list[int]] | list[NDArray[np.integer[Any]]]
    MixedPrompts = list[str | list[int]]

_KINDS_HINT = "a prompt is a string or a list of token ids; several prompts are a list of these"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """What a model reads.

    Attributes:
        text: As it was given; ``None`` if token ids were.
        token_ids: Not empty.
    """

    text: str | None
    token_ids: list[int]


def is_one_prompt(prompt: object) -> bool:
    """Whether this is one prompt (text or token ids), not a list of prompts.

    Raises:
        RequestError: It is neither.
    """
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, np.ndarray):
        return prompt.ndim == 1
    if not isinstance(prompt, list | tuple):
        hint = _KINDS_HINT
        if hasattr(prompt, "__iter__") and not isinstance(prompt, bytes | dict):
            hint = "wrap it in list(...)"
        raise RequestError(f"a {type(prompt).__name__} is no prompt", field="prompt", hint=hint)
    return bool(prompt) and not isinstance(prompt[0], str | list | tuple | np.ndarray)


def encode_prompt(
    prompt: object,
    tokenizer: Tokenizer | None,
    *,
    max_model_len: int | None = None,
    add_special_tokens: bool = True,
) -> EncodedPrompt:
    """Turn one prompt into token ids.

    Args:
        prompt: Text or token ids.
        tokenizer: ``None`` if the checkpoint has none; then only token ids will do.
        max_model_len: A longer prompt is refused before it takes more memory; ``None``: later.
        add_special_tokens: Put the beginning-of-sequence token in front of text if the model
            wants it, unless the text begins with it already.

    Raises:
        RequestError: It is empty, no prompt, or cannot be encoded.
        PromptTooLongError: It has more tokens than ``max_model_len``.
    """
    if not isinstance(prompt, str):
        return EncodedPrompt(text=None, token_ids=_token_ids(prompt, max_model_len))
    if tokenizer is None:
        raise RequestError(
            "this model has no tokenizer, so it cannot read text",
            field="prompt",
            hint="give a list of token ids",
        )
    token_ids = encode_text(
        prompt, tokenizer, max_model_len=max_model_len, add_special_tokens=add_special_tokens
    )
    if not token_ids:
        raise RequestError("the prompt is empty", field="prompt", hint="give at least one token")
    return EncodedPrompt(text=prompt, token_ids=token_ids)


def too_long(num_tokens: int, max_model_len: int) -> PromptTooLongError:
    """Return the error about a prompt that leaves no room in the context."""
    return PromptTooLongError(
        f"this prompt has {num_tokens:,} tokens but the context holds {max_model_len:,}",
        field="prompt",
        hint="shorten it to leave room for at least one token, or raise max_model_len",
    )


def encode_text(
    text: str,
    tokenizer: Tokenizer,
    *,
    add_special_tokens: bool,
    max_model_len: int | None = None,
) -> list[int]:
    """Encode ``text``; a beginning-of-sequence token that it begins with is not doubled.

    Raises:
        RequestError: The text holds a lone surrogate or is too long.
        PromptTooLongError: It has more tokens than ``max_model_len``.
    """
    try:
        array = tokenizer.encode(text, add_special=add_special_tokens)
    except RequestError as error:
        error.field = "prompt"  # the tokenizer calls it its text
        raise
    if max_model_len is not None and len(array) > max_model_len + 1:  # one may go below
        raise too_long(len(array), max_model_len)
    token_ids: list[int] = array.tolist()
    bos = tokenizer.bos_id
    if add_special_tokens and tokenizer.add_bos and token_ids[:2] == [bos, bos]:
        del token_ids[0]
    return token_ids


def _token_ids(prompt: object, max_model_len: int | None) -> list[int]:
    if isinstance(prompt, list | tuple) and not prompt:
        raise RequestError("the prompt is empty", field="prompt", hint="give at least one token")
    if not isinstance(prompt, list | tuple | np.ndarray):
        raise RequestError(
            f"a {type(prompt).__name__} is no prompt", field="prompt", hint=_KINDS_HINT
        )
    if max_model_len is not None and len(prompt) > max_model_len:
        raise too_long(len(prompt), max_model_len)
    try:
        array = np.asarray(prompt)
    except (ValueError, OverflowError):  # ragged, or beyond 64 bits
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise RequestError(
            "a prompt of token ids must hold whole numbers only", field="prompt", hint=_KINDS_HINT
        )
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= 2**31:
        raise RequestError(f"{lowest if lowest < 0 else highest} is no token id", field="prompt")
    token_ids: list[int] = array.tolist()
    return token_ids
