"""Calls that are JSON objects, as most families write them, each with its own key names."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from .syntax import CallsRead, MalformedCallError, WrittenCall

if TYPE_CHECKING:
    from collections.abc import Mapping

_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings
_BETWEEN = re.compile(r"[\s,;]*")
_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_IDS = ("id", "tool_call_id")


def read_json_calls(body: str, *, must_have_arguments: bool = False) -> CallsRead:
    """Read objects that stand one after another (``;``, ``,`` or white space between) or in a list.

    Args:
        body: Text that begins with the first of them.
        must_have_arguments: An object that only has a name is no call.

    Raises:
        MalformedCallError: It does not begin with JSON, or that is no call.
    """
    calls: list[WrittenCall] = []
    start = _skip(body, 0)
    while start < len(body):
        try:
            found, end = _calls_at(body, start, must_have_arguments=must_have_arguments)
        except MalformedCallError:
            if not calls:
                raise
            return CallsRead(calls, body[start:])
        calls += found
        start = _skip(body, end)
    if not calls:
        raise MalformedCallError("no_json", "there is no call between the markers")
    return CallsRead(calls, "")


def _calls_at(body: str, start: int, *, must_have_arguments: bool) -> tuple[list[WrittenCall], int]:
    """Read the object or the list at ``start``; return its end, too."""
    if body[start] != "[":
        value, end = decode_json(body, start)
        written = body[start:end]
        return [_call_of(value, written, must_have_arguments=must_have_arguments)], end
    calls: list[WrittenCall] = []
    place = _skip(body, start + 1)
    while place < len(body) and body[place] != "]":
        value, end = decode_json(body, place)
        written = body[place:end]
        calls.append(_call_of(value, written, must_have_arguments=must_have_arguments))
        place = _skip(body, end)
    if not calls:
        raise MalformedCallError("no_json", "the list of calls is empty")
    return calls, min(place + 1, len(body))  # a list that lacks only its bracket will do


def read_arguments(text: str) -> dict[str, Any]:
    """Read the JSON object that is the arguments of a call whose name stands elsewhere.

    Raises:
        MalformedCallError: It is no JSON object.
    """
    if not text.strip():
        return {}
    value, end = decode_json(text, _skip(text, 0))
    if text[end:].strip():
        raise MalformedCallError("no_json", "there is more than JSON between the markers")
    return arguments_of(value)


def decode_json(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start``, and its end.

    Raises:
        MalformedCallError: There is none, or it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        in_string = error.msg.startswith("Unterminated string")
        if in_string or error.pos >= len(text.rstrip()):
            raise MalformedCallError(
                "unfinished", f"the JSON breaks off: {error}", breaks_off=in_string
            ) from None
        raise MalformedCallError("no_json", f"this is no JSON: {error}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; deep lists
        raise MalformedCallError("no_json", f"the JSON cannot be read: {error}") from None


def arguments_of(value: object) -> dict[str, Any]:
    """Return arguments as a dictionary; some models quote the whole object.

    Raises:
        MalformedCallError: They are no object.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        value, end = decode_json(value, 0) if value else ({}, 0)
        del end
    if not isinstance(value, dict):
        raise MalformedCallError(
            "no_arguments", f"the arguments must be an object, not {type(value).__name__}"
        )
    return value


def _call_of(value: object, text: str, *, must_have_arguments: bool) -> WrittenCall:
    if not isinstance(value, dict):
        raise MalformedCallError("no_json", f"a call must be an object, not {value!r:.40}")
    call_id = _first(value, _IDS)
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name = inner if isinstance(inner, str) else _first(value, _NAMES)
    if not isinstance(name, str) or not name:
        raise MalformedCallError("no_name", "the call names no tool")
    if must_have_arguments and not any(key in value for key in _ARGUMENTS):
        raise MalformedCallError("no_arguments", "the call has no arguments")
    arguments = arguments_of(_first(value, _ARGUMENTS))
    return WrittenCall(name, arguments, call_id if isinstance(call_id, str) else None, text)


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _skip(text: str, start: int) -> int:
    match = _BETWEEN.match(text, start)
    return start if match is None else match.end()
