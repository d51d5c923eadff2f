"""Arguments that are written without quotes: their types come from the tool's schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def typed_value(text: str, schema: Mapping[str, Any] | None) -> object:
    """Return what an argument's text stands for; text if the schema allows that, or nothing fits.

    ``true`` and ``True``, ``null`` and ``None`` are the same: templates write both.
    """
    types = _types(schema or {})
    word = text.strip()
    if "null" in types and word in ("null", "None"):
        return None
    if not types or "string" in types:
        return text
    if "boolean" in types and word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        value = json.loads(word, strict=False)
    except (ValueError, RecursionError):
        return text
    return value if any(_is_a(value, name) for name in types) else text


def _types(schema: Mapping[str, Any]) -> set[str]:
    """JSON types that a schema allows; none if it does not say."""
    stated = schema.get("type")
    types = {stated} if isinstance(stated, str) else set()
    if isinstance(stated, list | tuple):
        types |= {name for name in stated if isinstance(name, str)}
    for key in ("anyOf", "oneOf"):
        for choice in schema.get(key) or ():
            if isinstance(choice, dict):
                types |= _types(choice)
    return types | {"null"} if schema.get("nullable") and types else types


def _is_a(value: object, name: str) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    kinds: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float),
        "array": (list,),
        "object": (dict,),
    }
    return isinstance(value, kinds.get(name, ()))
