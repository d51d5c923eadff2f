"""JSON schemas of Python types, and instances of these types from JSON.

``str``, ``int``, ``float``, ``bool``, ``None``, ``list[…]``, ``tuple[…]``, ``dict[str, …]``,
``Literal``, enumerations, dataclasses, typed dictionaries, unions, ``Annotated`` and ``Any``.
Records are definitions that are referred to, so types may contain themselves.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from .errors import RequestError

_SIMPLE: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
_UNIONS = (Union, types.UnionType)


def is_type(value: object) -> bool:
    """Whether this is a type that may be described: a class, or ``list[int]`` and the like."""
    return isinstance(value, type) or get_origin(value) is not None


def schema_of_type(hint: object) -> dict[str, Any]:
    """Return the JSON schema of a type.

    Records have exactly the fields of their class; those with a default may be left out.

    Raises:
        RequestError: JSON cannot express it; ``field`` is ``"schema"``.
    """
    definitions: dict[str, Any] = {}
    schema = _Describer(definitions).describe(hint)
    return schema | {"$defs": definitions} if definitions else schema


def from_json(hint: object, value: object) -> Any:  # noqa: ANN401  # whatever the type is
    """Return JSON values as an instance of a type; typed dictionaries stay dictionaries.

    Raises:
        ValueError: They are not of this type, or the class refuses them.
    """
    try:
        return _instance(hint, value)
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from error


class _Describer:
    """Describes types, records once.

    Args:
        definitions: Where records go, by name.
    """

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._names: dict[type, str] = {}

    def describe(self, hint: object) -> dict[str, Any]:
        """Return the schema of a type."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return {}
        if hint is None:
            return {"type": "null"}
        if origin is Annotated:
            schema = self.describe(arguments[0])
            words = [note for note in arguments[1:] if isinstance(note, str)]
            return schema | {"description": words[0]} if words and "$ref" not in schema else schema
        if origin in (Required, NotRequired):
            return self.describe(arguments[0])
        if origin is Literal:
            return _enumeration(list(arguments), hint)
        if origin in _UNIONS:
            return {"anyOf": [self.describe(entry) for entry in arguments]}
        if origin in (list, tuple, dict) or hint in (list, tuple, dict):
            return self._container(origin or hint, arguments, hint)
        if isinstance(hint, type):
            return self._class(hint)
        raise _inexpressible(hint)

    def _container(
        self, origin: object, arguments: tuple[object, ...], hint: object
    ) -> dict[str, Any]:
        if origin is dict:
            if arguments and arguments[0] is not str:
                raise _inexpressible(hint)
            values = self.describe(arguments[1]) if arguments else {}
            return {"type": "object", "additionalProperties": values or True}
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            count = len(arguments)
            return {
                "type": "array",
                "prefixItems": [self.describe(entry) for entry in arguments],
                "items": False,
                "minItems": count,
                "maxItems": count,
            }
        return {"type": "array", "items": self.describe(arguments[0]) if arguments else {}}

    def _class(self, hint: type) -> dict[str, Any]:
        if issubclass(hint, enum.Enum):
            return _enumeration([member.value for member in hint], hint)
        if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
            if hint not in self._names:
                name = hint.__name__
                while name in self._definitions:
                    name += "_"
                self._names[hint] = name
                self._definitions[name] = {}
                self._definitions[name] = self._record(hint)
            return {"$ref": f"#/$defs/{self._names[hint]}"}
        if hint in _SIMPLE:
            return {"type": _SIMPLE[hint]}
        raise _inexpressible(hint)

    def _record(self, hint: type) -> dict[str, Any]:
        entries, required = _fields(hint)
        return {
            "type": "object",
            "properties": {name: self.describe(entry) for name, entry in entries.items()},
            "required": required,
            "additionalProperties": False,
        }


def _fields(hint: type) -> tuple[dict[str, object], list[str]]:
    """Types of a record's fields by name, and the names without a default."""
    try:
        hints = typing.get_type_hints(hint, include_extras=True)
    except (NameError, TypeError) as error:
        raise RequestError(
            f"the types of {hint.__name__} are not known: {error}", field="schema"
        ) from error
    if not dataclasses.is_dataclass(hint):
        known = hint.__required_keys__  # type: ignore[attr-defined]
        # The interpreter overlooks `NotRequired` in annotations that are strings.
        required = [
            name
            for name, entry in hints.items()
            if name in known and get_origin(entry) is not NotRequired
        ]
        return dict(hints), required
    entries = [entry for entry in dataclasses.fields(hint) if entry.init]
    required = [
        entry.name
        for entry in entries
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    return {entry.name: hints[entry.name] for entry in entries}, required


def _enumeration(values: list[Any], hint: object) -> dict[str, Any]:
    if not values or any(type(value) not in _SIMPLE for value in values):
        raise _inexpressible(hint)
    return {"enum": values}


def _inexpressible(hint: object) -> RequestError:
    name = getattr(hint, "__name__", repr(hint))
    return RequestError(
        f"schema has the type {name}, which JSON cannot express",
        field="schema",
        hint="use str, int, float, bool, None, list, tuple, dict[str, …], Literal, Enum, "
        "dataclasses and typed dictionaries, or give a JSON schema",
    )


def _instance(hint: object, value: object) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Annotated, Required, NotRequired):
        return _instance(arguments[0], value)
    if origin is Literal:
        return _one_of(arguments, value)
    if origin in _UNIONS:
        return _first_that_fits(arguments, value)
    if origin in (list, tuple, dict) or hint in (list, tuple, dict):
        return _filled(origin or hint, arguments, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        return _filled_record(hint, value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is (type(None) if hint is None else hint):
        return value
    raise ValueError(f"{value!r} is no {hint}")


def _one_of(values: tuple[object, ...], value: object) -> object:
    for each in values:
        if type(each) is type(value) and each == value:
            return each
    raise ValueError(f"{value!r} is none of {values}")


def _first_that_fits(hints: tuple[object, ...], value: object) -> object:
    # An integer is a float, too, if nothing says that it may be an integer.
    for hint in sorted(hints, key=lambda each: each is float):
        try:
            return from_json(hint, value)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is none of {hints}")


def _filled(origin: object, arguments: tuple[object, ...], value: object) -> object:
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no mapping")
        entry = arguments[1] if arguments else Any
        return {key: _instance(entry, each) for key, each in value.items()}
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return tuple(_instance(hint, each) for hint, each in zip(arguments, value, strict=True))
    filled = [_instance(arguments[0] if arguments else Any, each) for each in value]
    return tuple(filled) if origin is tuple else filled


def _filled_record(hint: type, value: object) -> object:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    entries, required = _fields(hint)
    if not set(required) <= value.keys() <= entries.keys():
        raise ValueError(f"{sorted(value)} are not the fields of {hint.__name__}")
    filled = {name: _instance(entries[name], each) for name, each in value.items()}
    return hint(**filled)
