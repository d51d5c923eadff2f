"""Tools that a model may call: OpenAI's JSON, or Python functions described by their type hints."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
)

from .errors import RequestError
from .validation import shown

Tool = Mapping[str, Any] | Callable[..., Any]
"""``{"type": "function", "function": {"name": …, "parameters": …}}``, or a function."""

_SIMPLE: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    tuple: "array",
    dict: "object",
    type(None): "null",
}


def tool_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the schemas of the parameters of tools that are JSON, by tool and parameter."""
    schemas: dict[str, dict[str, Any]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            continue
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        schemas[function["name"]] = dict(properties) if isinstance(properties, Mapping) else {}
    return schemas


def tools_as_json(tools: object) -> list[dict[str, Any]]:
    """Return tools as templates read them; functions are described.

    Raises:
        RequestError: ``tools`` is no list, or one of them is neither JSON nor a function that can
            be described; ``field`` is ``"tools"``.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise RequestError(
            f"tools must be a list of mappings or functions, not {type(tools).__name__}",
            field="tools",
        )
    described = []
    for tool in tools:
        if isinstance(tool, Mapping):
            described.append(dict(tool))
        elif callable(tool):
            described.append(describe_function(tool))
        else:
            raise RequestError(
                f"tools must hold mappings or functions, not {shown(tool)}", field="tools"
            )
    return described


def describe_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a function as a tool, from its name, its type hints and its docstring.

    The docstring's first paragraph says what the tool does, its ``Args:`` (Google's style) what the
    parameters are, unless ``Annotated[int, "…"]`` says it. Parameters without a default are
    required. Types: ``str``, ``int``, ``float``, ``bool``, ``list[…]``, ``tuple[…]``,
    ``dict[str, …]``, ``Literal``, enumerations, dataclasses, typed dictionaries, ``… | None``
    (``"nullable"``), unions and ``Any``.

    Raises:
        RequestError: A parameter has no type hint, or one that JSON cannot express.

    Source: transformers' ``get_json_schema``, for which chat templates were written: the same keys
    in the same order.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        signature = inspect.signature(function)
        target = function if hasattr(function, "__annotations__") else type(function).__call__
        hints = typing.get_type_hints(target, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise RequestError(
            f"the tool {name} cannot be described: {error}",
            field="tools",
            hint="give its JSON schema instead",
        ) from error
    summary, described = _read_docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RequestError(
                f"the tool {name} takes *{parameter.name}: a model cannot know what that is",
                field="tools",
            )
        if parameter.name not in hints:
            raise RequestError(
                f"the parameter {parameter.name!r} of the tool {name} has no type hint",
                field="tools",
            )
        where = f"the parameter {parameter.name!r} of the tool {name}"
        schema = _schema_of(hints[parameter.name], where)
        if "description" not in schema and parameter.name in described:
            schema["description"] = described[parameter.name]
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    body = {"name": name, "description": summary, "parameters": parameters}
    return {"type": "function", "function": body}


def _schema_of(hint: object, where: str) -> dict[str, Any]:
    """The JSON schema of a type hint."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint is None:
        return {"type": "null"}
    if origin is Annotated:
        schema = _schema_of(arguments[0], where)
        words = [note for note in arguments[1:] if isinstance(note, str)]
        return schema | {"description": words[0]} if words else schema
    if origin in (Required, NotRequired):
        return _schema_of(arguments[0], where)
    if origin is Literal:
        return _enumeration(list(arguments))
    if origin in (Union, types.UnionType):
        return _union(arguments, where)
    if origin in (list, tuple, dict):
        return _container(origin, arguments, where)
    if isinstance(hint, type):
        return _schema_of_class(hint, where)
    raise _inexpressible(hint, where)


def _schema_of_class(hint: type, where: str) -> dict[str, Any]:
    if issubclass(hint, enum.Enum):
        return _enumeration([member.value for member in hint])
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return _record(hint, where)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    raise _inexpressible(hint, where)


def _inexpressible(hint: object, where: str) -> RequestError:
    return RequestError(
        f"{where} has the type {shown(hint)}, which JSON cannot express",
        field="tools",
        hint="give the tool's JSON schema instead",
    )


def _enumeration(values: list[Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(_SIMPLE.get(type(value), "string") for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(arguments: tuple[object, ...], where: str) -> dict[str, Any]:
    choices = [_schema_of(entry, where) for entry in arguments if entry is not type(None)]
    if len(choices) == 1:
        schema = choices[0]
    elif all(choice.keys() == {"type"} and isinstance(choice["type"], str) for choice in choices):
        schema = {"type": sorted(choice["type"] for choice in choices)}
    else:
        schema = {"anyOf": choices}
    return schema | {"nullable": True} if type(None) in arguments else schema


def _container(origin: object, arguments: tuple[object, ...], where: str) -> dict[str, Any]:
    if origin is dict:
        schema: dict[str, Any] = {"type": "object"}
        if len(arguments) == 2 and (values := _schema_of(arguments[1], where)):
            schema["additionalProperties"] = values
        return schema
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return {"type": "array", "prefixItems": [_schema_of(entry, where) for entry in arguments]}
    items = _schema_of(arguments[0], where)
    return {"type": "array", "items": items} if items else {"type": "array"}


def _record(hint: type, where: str) -> dict[str, Any]:
    """A dataclass or a typed dictionary."""
    hints = typing.get_type_hints(hint, include_extras=True)
    if dataclasses.is_dataclass(hint):
        required = [
            entry.name
            for entry in dataclasses.fields(hint)
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        ]
    else:
        known = hint.__required_keys__  # type: ignore[attr-defined]
        required = [
            name
            for name, entry in hints.items()
            # The interpreter overlooks `NotRequired` in annotations that are strings.
            if name in known and get_origin(entry) is not NotRequired
        ]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema_of(entry, where) for name, entry in hints.items()},
    }
    return schema | {"required": required} if required else schema


_SECTION = re.compile(r"(?:Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):")
_PARAMETER = re.compile(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph, and the descriptions of parameters."""
    lines = text.splitlines()
    summary: list[str] = []
    for line in lines:
        if not line.strip() or _SECTION.fullmatch(line.strip()):
            break
        summary.append(line.strip())
    described: dict[str, str] = {}
    section, current, depth = "", "", 0
    for line in lines:
        word, indent = line.strip(), len(line) - len(line.lstrip())
        if indent == 0 and _SECTION.fullmatch(word):
            section, current = word.rstrip(":"), ""
            continue
        if section not in ("Args", "Arguments", "Parameters") or not word:
            continue
        if indent == 0:
            section = ""
            continue
        depth = depth if current else indent
        match = _PARAMETER.fullmatch(word) if indent <= depth else None
        if match is not None:
            current = match[1]
            described[current] = match[2]
        elif current:
            described[current] = f"{described[current]} {word}".strip()
    return " ".join(summary), described
