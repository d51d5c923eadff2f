"""Checks of single arguments; each failure is a ``RequestError`` that names the field."""

from __future__ import annotations

import difflib
import math
import operator
import os
import reprlib
from collections.abc import Collection, Iterable, Iterator, Sized
from typing import Any, SupportsFloat, SupportsIndex, cast

from .errors import RequestError, UnknownKeywordError

INT32_MAX = 2**31 - 1
MAX_TOKEN_IDS = 2**20
"""Longest list of token ids that an option may be."""
_SHOWN = 80
_MAX_PATH = 4096

_OTHER_NAMES = {
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "n_ctx": "max_model_len",
    "n_predict": "max_tokens",
    "n_threads": "threads",
    "num_return_sequences": "n",
    "prompt_lookup_num_tokens": "speculation",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "sampling_params": "params",
    "sampling_seed": "seed",
    "speculative_config": "speculation",
    "stop_strings": "stop",
    "temp": "temperature",
    "use_tqdm": "progress",
}
"""What other libraries call an argument, for the hint of an unknown keyword."""


def shown(value: object) -> str:
    """Write a value as an error shows it: short, whatever it is, and whatever its ``repr`` does."""
    try:
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{bytes(value[:8])!r}…" if len(value) > 8 else repr(value)
        text = reprlib.repr(value)
    except Exception:  # the caller's
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_keywords(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse a keyword that does not exist, with the nearest one that does as the hint.

    Raises:
        UnknownKeywordError: ``given`` holds a name that is not in ``known``.
    """
    for name in given:
        if name in known:
            continue
        other = _OTHER_NAMES.get(name)
        near = [other] if other in known else difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        raise UnknownKeywordError(f"unknown keyword {shown(name)}", field=name, hint=hint)


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse all but some strings.

    Raises:
        RequestError: ``value`` is not one of ``choices``.
    """
    if not isinstance(value, str) or value not in choices:
        wanted = ", ".join(f'"{entry}"' for entry in choices)
        raise RequestError(f"{field} must be one of {wanted}, not {shown(value)}", field=field)


def boolean(field: str, value: object) -> None:
    """Refuse all but ``True`` and ``False``.

    Raises:
        RequestError: ``value`` is something else.
    """
    if not isinstance(value, bool):
        raise RequestError(f"{field} must be True or False, not {shown(value)}", field=field)


def integer(field: str, value: object, low: int, high: int) -> int:
    """Return a whole number (NumPy's too, ``bool`` not) from ``low`` to ``high``.

    Raises:
        RequestError: It is none, or out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(f"{field} must be a whole number, not {shown(value)}", field=field)
    try:
        number = operator.index(cast("SupportsIndex", value))
    except Exception:  # an array has the method, too; others are the caller's
        raise RequestError(
            f"{field} must be a whole number, not {type(value).__name__}", field=field
        ) from None
    if not low <= number <= high:
        hint = "-1 means nothing here; 0 or None switches an option off" if number == -1 else ""
        raise RequestError(
            f"{field} must be from {low} to {high}, not {shown(number)}", field=field, hint=hint
        )
    return number


def number(field: str, value: object, low: float, high: float) -> float:
    """Return a finite number from ``low`` to ``high``.

    Raises:
        RequestError: It is none, not finite or out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise RequestError(f"{field} must be a number, not {shown(value)}", field=field)
    try:
        result = float(cast("SupportsFloat", value))
    except OverflowError:
        raise RequestError(f"{field} must be from {low:g} to {high:g}", field=field) from None
    except Exception:  # an array has the method, too; others are the caller's
        raise RequestError(
            f"{field} must be a number, not {type(value).__name__}", field=field
        ) from None
    if not math.isfinite(result) or not low <= result <= high:
        raise RequestError(f"{field} must be from {low:g} to {high:g}, not {result}", field=field)
    return result


def items(field: str, value: object, limit: int) -> tuple[Any, ...]:
    """Return the entries of a list (any iterable but text), reading at most ``limit``.

    Raises:
        RequestError: It is no list or longer than ``limit``.
    """
    return tuple(_entries(field, value, limit))


def token_ids(field: str, value: object) -> tuple[int, ...]:
    """Return distinct token ids, ascending.

    Raises:
        RequestError: It is no list of token ids, or longer than ``MAX_TOKEN_IDS``.
    """
    entries = _entries(field, value, MAX_TOKEN_IDS)
    return tuple(sorted({integer(field, entry, 0, INT32_MAX) for entry in entries}))


def _entries(field: str, value: object, limit: int) -> Iterator[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise RequestError(f"{field} must be a list, not {shown(value)}", field=field)
    too_many = RequestError(f"{field} holds more than {limit:,} entries", field=field)
    if isinstance(value, Sized) and len(value) > limit:
        raise too_many
    for place, entry in enumerate(value):
        if place == limit:
            raise too_many
        yield entry


def text(field: str, value: object, *, limit: int | None = None) -> str:
    """Return a string that is text: no lone surrogates, at most ``limit`` bytes of UTF-8.

    Raises:
        RequestError: It is none, or longer.
    """
    if not isinstance(value, str):
        raise RequestError(f"{field} must be a string, not {type(value).__name__}", field=field)
    if limit is not None and len(value) > limit:  # before it is encoded
        raise RequestError(f"{field} is longer than {limit:,} bytes", field=field)
    try:
        num_bytes = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{field} holds a lone surrogate at character {error.start}", field=field
        ) from None
    if limit is not None and num_bytes > limit:
        raise RequestError(f"{field} is longer than {limit:,} bytes", field=field)
    return value


def path(field: str, value: object) -> str:
    """Return a path as the system can take it.

    Raises:
        RequestError: It is no path, is empty, or no system has such a one.
    """
    if not isinstance(value, str | os.PathLike):
        raise RequestError(f"{field} must be a path, not {shown(value)}", field=field)
    written = os.fspath(value)
    if not isinstance(written, str) or not written or "\0" in written or len(written) > _MAX_PATH:
        raise RequestError(f"{field} must be a path, not {shown(written)}", field=field)
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        raise RequestError(f"{field} must be a path, not {shown(written)}", field=field) from None
    return written
