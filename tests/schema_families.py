"""JSON schemas of the kinds that people ask for: written families, multiplied by their sizes.

They stand for forms, extraction results, tool arguments, configuration and API bodies: nested
objects, enumerations, arrays with bounds, strings with patterns and formats, numbers with bounds,
``anyOf``, references and recursion, constants, optional members, keys in other scripts, and what
pydantic writes for its models.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]

FORMATS = ("date", "time", "date-time", "email", "uuid", "ipv4", "hostname", "uri")
PATTERNS = (
    "^[A-Z]{3}-[0-9]{4}$",
    "^(low|medium|high)$",
    "^#[0-9a-f]{6}$",
    "^[a-z][a-z0-9_]{0,15}$",
    r"^\d{3}\.\d{3}\.\d{3}-\d{2}$",
    "^[^@ ]{1,8}@[a-z]{1,8}[.](com|org)$",
    "^v?[0-9]+[.][0-9]+[.][0-9]+$",
    "^[ぁ-ん]{2,6}$",
)
KEYS = (
    "naïve",
    "ключ",
    "名前",
    "clé d'accès",
    "a b",
    'quo"te',
    "back\\slash",
    "tab\tkey",
    "ñ",
    "🙂",
)


def record(properties: Schema, *optional: str, **more: object) -> Schema:
    """An object with these members and no others; all but ``optional`` are required."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        **more,
    }


def text(most: int = 12, least: int = 0) -> Schema:
    """A short string."""
    return {"type": "string", "minLength": least, "maxLength": most}


def nested() -> Iterator[Schema]:
    for depth, width in itertools.product(range(1, 6), range(1, 4)):
        schema: Schema = {"type": "boolean"}
        for level in range(depth):
            schema = record({f"level{level}_{index}": schema for index in range(width)})
            width = 1
        yield schema


def enumerations() -> Iterator[Schema]:
    yield {"enum": ["red", "green", "blue"]}
    yield {"enum": [1, 2, 3]}
    yield {"enum": [None, True, "x", 2.5]}
    yield {"enum": [f"country {index}" for index in range(200)]}
    yield {"enum": ["a", "ab", "abc", "abcd"]}
    yield {"enum": list(KEYS)}
    yield {"enum": [{"kind": "a", "n": 1}, {"kind": "b", "n": [1, 2]}]}
    for count in (1, 2, 5, 20):
        yield record({"status": {"enum": [f"s{index}" for index in range(count)]}})
        yield {
            "type": "array",
            "items": {"enum": [f"t{index}" for index in range(count)]},
            "maxItems": 3,
        }


def arrays() -> Iterator[Schema]:
    items: list[Schema] = [
        {"type": "integer", "minimum": 0, "maximum": 99},
        text(6),
        {"type": "boolean"},
    ]
    for item, (least, most) in itertools.product(items, [(0, 0), (0, 2), (1, 1), (2, 4), (5, 5)]):
        yield {"type": "array", "items": item, "minItems": least, "maxItems": most}
    yield {
        "type": "array",
        "prefixItems": [{"type": "integer"}, text()],
        "items": False,
        "minItems": 2,
    }
    yield {
        "type": "array",
        "prefixItems": [{"const": "x"}],
        "items": {"type": "null"},
        "maxItems": 4,
    }
    yield {
        "type": "array",
        "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "maxItems": 2,
    }
    yield {
        "type": "array",
        "items": record({"x": {"type": "number"}, "y": {"type": "number"}}),
        "maxItems": 2,
    }


def strings() -> Iterator[Schema]:
    for least, most in [(0, 0), (0, 1), (1, 1), (3, 8), (20, 20), (0, 40)]:
        yield text(most, least)
    for pattern in PATTERNS:
        yield {"type": "string", "pattern": pattern}
        yield record({"code": {"type": "string", "pattern": pattern}, "note": text()})
    for name in FORMATS:
        yield {"type": "string", "format": name}
        yield record({"when": {"type": "string", "format": name}, "n": {"type": "integer"}}, "n")


def numbers() -> Iterator[Schema]:
    for low, high in [(0, 9), (1, 1), (-5, 5), (100, 999), (-1000, -900), (0, 2**31)]:
        yield {"type": "integer", "minimum": low, "maximum": high}
        yield {"type": "number", "minimum": low, "maximum": high}
    yield {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}
    yield {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    yield {"type": "number", "minimum": 0.25, "maximum": 0.75}
    yield {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}
    yield record({"price": {"type": "number", "minimum": 0}, "count": {"type": "integer"}})


def alternatives() -> Iterator[Schema]:
    yield {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "integer"}]}
    yield {"anyOf": [{"type": "null"}, record({"a": {"type": "integer"}})]}
    yield {"type": ["string", "null"], "maxLength": 8}
    yield {"type": ["integer", "boolean", "null"]}
    yield record({"value": {"anyOf": [text(), {"type": "array", "items": text(), "maxItems": 2}]}})
    for count in (2, 3, 6):
        kinds = [
            record({"kind": {"const": f"k{index}"}, f"value{index}": {"type": "integer"}})
            for index in range(count)
        ]
        yield {"anyOf": kinds}
        yield {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": 2}
    yield {"allOf": [record({"a": {"type": "integer"}, "b": text()})]}
    yield {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]}


def references() -> Iterator[Schema]:
    point = record({"x": {"type": "integer"}, "y": {"type": "integer"}})
    for count in (1, 2, 4):
        names = [f"p{index}" for index in range(count)]
        yield record(
            {name: {"$ref": "#/$defs/point"} for name in names}, **{"$defs": {"point": point}}
        )
    tree = record(
        {
            "value": {"type": "integer"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
        },
        "children",
    )
    yield {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}
    link = record(
        {"name": text(5), "next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}}
    )
    yield {"$ref": "#/$defs/link", "$defs": {"link": link}}
    expression = {
        "anyOf": [
            {"type": "integer"},
            record(
                {
                    "op": {"enum": ["+", "-"]},
                    "left": {"$ref": "#/$defs/e"},
                    "right": {"$ref": "#/$defs/e"},
                }
            ),
        ]
    }
    yield {"$ref": "#/$defs/e", "$defs": {"e": expression}}
    yield {
        "$ref": "#/definitions/a",
        "definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"const": 3}},
    }


def constants_and_options() -> Iterator[Schema]:
    for value in ("x", 3, None, True, [1, "a"], {"k": [None]}, "naïve 🙂"):
        yield {"const": value}
        yield record({"version": {"const": value}, "body": text()})
    for count in (1, 2, 4, 8):
        members = {
            f"m{index}": {"type": "integer", "maximum": 9, "minimum": 0} for index in range(count)
        }
        yield record(members, *members)
        yield record(members, *list(members)[1:])
    yield {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}
    yield {"type": "object"}
    yield {"type": "array"}
    yield {}


def keys() -> Iterator[Schema]:
    for key in KEYS:
        yield record({key: {"type": "boolean"}, "more": {"type": "integer"}}, "more")


def pydantic_like() -> Iterator[Schema]:
    """As ``model_json_schema()`` writes: titles, defaults, definitions, ``anyOf`` with null."""

    def optional(schema: Schema) -> Schema:
        return {"anyOf": [schema, {"type": "null"}], "default": None}

    address = {
        "properties": {
            "street": {"title": "Street", "type": "string", "maxLength": 20},
            "zip": {"title": "Zip", "type": "string", "pattern": "^[0-9]{5}$"},
        },
        "required": ["street", "zip"],
        "title": "Address",
        "type": "object",
    }
    role = {"enum": ["admin", "user"], "title": "Role", "type": "string"}
    for with_role, with_tags, with_score in itertools.product([False, True], repeat=3):
        properties: Schema = {
            "name": {"title": "Name", "type": "string", "maxLength": 16},
            "address": {"$ref": "#/$defs/Address"},
        }
        if with_role:
            properties["role"] = {"$ref": "#/$defs/Role", "default": "user"}
        if with_tags:
            properties["tags"] = {"items": text(6), "maxItems": 3, "title": "Tags", "type": "array"}
        if with_score:
            properties["score"] = optional({"type": "number", "minimum": 0, "maximum": 1}) | {
                "title": "Score"
            }
        yield {
            "$defs": {"Address": address, "Role": role},
            "properties": properties,
            "required": ["name", "address"],
            "title": "User",
            "type": "object",
            "additionalProperties": False,
        }


def tool_arguments() -> Iterator[Schema]:
    kinds: list[Schema] = [
        text(),
        {"type": "integer"},
        {"type": "boolean"},
        {"enum": ["metric", "imperial"]},
    ]
    for first, second in itertools.permutations(kinds, 2):
        yield record({"query": text(20, 1), "first": first, "second": second}, "second")
    for count in (1, 3, 6):
        yield record({f"field_{index}": kinds[index % 4] for index in range(count)})


def combined() -> Iterator[Schema]:
    """One member of each of three kinds: a report, an order, an event."""
    whats: list[Schema] = [
        text(10),
        {"enum": ["open", "closed"]},
        {"type": "string", "format": "date"},
    ]
    sizes: list[Schema] = [
        {"type": "integer", "minimum": 1, "maximum": 10},
        {"type": "number", "minimum": -1, "maximum": 1},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    ]
    lists: list[Schema] = [
        {"type": "array", "items": text(5), "maxItems": 2},
        {
            "type": "array",
            "items": record({"id": {"type": "integer"}, "ok": {"type": "boolean"}}),
            "maxItems": 2,
        },
        {
            "type": "array",
            "items": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "minItems": 1,
            "maxItems": 3,
        },
    ]
    for what, size, entries in itertools.product(whats, sizes, lists):
        yield record({"what": what, "size": size, "entries": entries, "note": text(8)}, "note")


FAMILIES = (
    nested,
    enumerations,
    arrays,
    strings,
    numbers,
    alternatives,
    references,
    constants_and_options,
    keys,
    pydantic_like,
    tool_arguments,
    combined,
)


def all_schemas() -> list[tuple[str, Schema]]:
    """Every schema with a name that says where it is from."""
    return [
        (f"{family.__name__}-{index}", schema)
        for family in FAMILIES
        for index, schema in enumerate(family())
    ]
