"""Structured output as callers describe it: a JSON schema, and what the text is read as."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from .errors import RequestError
from .type_schemas import from_json, is_type, schema_of_type
from .validation import shown, text

_HINT = (
    "give a JSON schema as a dict or as JSON, or a type: a pydantic model, a dataclass, a typed "
    "dictionary, list[…]"
)


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """A JSON schema.

    Attributes:
        json: The schema, as JSON.
        validate: Makes the caller's type of what the JSON holds; ``None`` leaves it as it is.
    """

    json: str
    validate: Callable[[object], object] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, schema: object) -> OutputSchema:
        """Read what callers give.

        Args:
            schema: A mapping, JSON, a boolean, a class with ``model_json_schema`` and
                ``model_validate`` (pydantic's), or another type: see ``type_schemas``.

        Raises:
            RequestError: It is none of these, or cannot be written as JSON.
        """
        if isinstance(schema, OutputSchema):
            return schema
        if isinstance(schema, str):
            return cls(text("schema", schema))
        if hasattr(schema, "model_json_schema") and hasattr(schema, "model_validate"):
            return cls(_dump(schema.model_json_schema()), validate=schema.model_validate)
        if isinstance(schema, bool | Mapping):
            return cls(_dump(schema))
        if is_type(schema):
            return cls(_dump(schema_of_type(schema)), validate=partial(from_json, schema))
        raise RequestError(
            f"schema is a {type(schema).__name__}, which describes no JSON",
            field="schema",
            hint=_HINT,
        )

    @classmethod
    def of_response_format(cls, response_format: object) -> OutputSchema | None:
        """Read OpenAI's ``response_format``; ``None`` for free text.

        Raises:
            RequestError: It is not of a known type.
        """
        if isinstance(response_format, Mapping):
            kind = response_format.get("type")
            if kind == "text":
                return None
            if kind == "json_object":
                return cls(_dump({"type": "object"}))
            described = response_format.get("json_schema")
            if kind == "json_schema" and isinstance(described, Mapping) and "schema" in described:
                return cls.of(described["schema"])
        raise RequestError(
            f"response_format={shown(response_format)} is not of a known type",
            field="response_format",
            hint='{"type": "json_schema", "json_schema": {"schema": {…}}}, '
            '{"type": "json_object"} or {"type": "text"}',
        )

    def parse(self, text: str) -> object:
        """Return what a text that was generated under this schema holds.

        ``None`` if the text is not whole, because ``max_tokens`` ended it, or if the caller's type
        refuses it.
        """
        try:
            value: object = json.loads(text)
            return value if self.validate is None else self.validate(value)
        except ValueError:  # pydantic's errors are ones
            return None

    def to_dict(self) -> object:
        """Return the schema as JSON-like values, or as it was given if it is no JSON."""
        try:
            value: object = json.loads(self.json)
        except ValueError:
            return self.json
        return value


def _dump(schema: object) -> str:
    try:
        written = json.dumps(schema, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"schema cannot be written as JSON: {shown(error)}", field="schema", hint=_HINT
        ) from error
    return text("schema", written)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | frozenset | set):
        return list(cast("tuple[object, ...]", value))
    raise TypeError(f"{type(value).__name__} is no JSON")
