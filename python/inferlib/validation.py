"""Checks of single arguments; each failure is a ``RequestError`` that names the field."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable
from typing import Any, SupportsFloat, SupportsIndex, cast

from .errors import RequestError, UnknownKeywordError

INT32_MAX = 2**31 - 1

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
        raise UnknownKeywordError(f"unknown keyword {name!r}", field=name, hint=hint)


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse all but some strings.

    Raises:
        RequestError: ``value`` is not one of ``choices``.
    """
    if value not in choices:
        wanted = ", ".join(f'"{entry}"' for entry in choices)
        raise RequestError(f"{field} must be one of {wanted}, not {value!r}", field=field)


def boolean(field: str, value: object) -> None:
    """Refuse all but ``True`` and ``False``.

    Raises:
        RequestError: ``value`` is something else.
    """
    if not isinstance(value, bool):
        raise RequestError(f"{field} must be True or False, not {value!r}", field=field)


def integer(field: str, value: object, low: int, high: int) -> int:
    """Return a whole number (NumPy's too, ``bool`` not) from ``low`` to ``high``.

    Raises:
        RequestError: It is none, or out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(f"{field} must be a whole number, not {value!r}", field=field)
    try:
        number = operator.index(cast("SupportsIndex", value))
    except TypeError:  # an array has the method, too
        raise RequestError(
            f"{field} must be a whole number, not {type(value).__name__}", field=field
        ) from None
    if not low <= number <= high:
        hint = "-1 means nothing here; 0 or None switches an option off" if number == -1 else ""
        raise RequestError(
            f"{field} must be from {low} to {high}, not {number}", field=field, hint=hint
        )
    return number


def number(field: str, value: object, low: float, high: float) -> float:
    """Return a finite number from ``low`` to ``high``.

    Raises:
        RequestError: It is none, not finite or out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise RequestError(f"{field} must be a number, not {value!r}", field=field)
    try:
        result = float(cast("SupportsFloat", value))
    except TypeError:  # an array has the method, too
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
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise RequestError(f"{field} must be a list, not {value!r}", field=field)
    entries = []
    for entry in value:
        entries.append(entry)
        if len(entries) > limit:
            raise RequestError(f"{field} holds more than {limit:,} entries", field=field)
    return tuple(entries)


def token_ids(field: str, value: object) -> tuple[int, ...]:
    """Return distinct token ids, ascending.

    Raises:
        RequestError: It is no list of token ids.
    """
    return tuple(
        sorted({integer(field, entry, 0, INT32_MAX) for entry in items(field, value, INT32_MAX)})
    )
