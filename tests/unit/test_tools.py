"""Tools from Python functions, and what of them templates are told."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from inferlib.errors import RequestError
from inferlib.tools import describe_function, tool_schemas, tools_as_json


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclass
class Place:
    city: str
    country: str = "DE"
    tags: list[str] = field(default_factory=list)


class Span(TypedDict):
    start: int
    end: NotRequired[int]


def get_weather(
    city: str,
    days: int = 1,
    unit: Literal["C", "F"] = "C",
    hours: list[float] | None = None,
    *,
    exact: bool = False,
) -> str:
    """Tell the weather
    of a city.

    More about it.

    Args:
        city: The city,
            or a part of it.
        days (int): How many: from 1.
        exact: With decimals.

    Returns:
        city: this is no parameter.
    """
    return f"{city}{days}{unit}{hours}{exact}"


def test_a_function_is_described_by_its_hints_and_docstring():
    assert describe_function(get_weather) == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city, or a part of it."},
                    "days": {"type": "integer", "description": "How many: from 1."},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                    "hours": {"type": "array", "items": {"type": "number"}, "nullable": True},
                    "exact": {"type": "boolean", "description": "With decimals."},
                },
                "required": ["city"],
            },
        },
    }


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (float, {"type": "number"}),
        (list, {"type": "array"}),
        (list[Any], {"type": "array"}),
        (
            tuple[int, str],
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        ),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (dict, {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict[str, Any], {"type": "object"}),
        (Any, {}),
        (None, {"type": "null"}),
        (int | str, {"type": ["integer", "string"]}),
        (
            int | list[int],
            {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        ),
        (int | None, {"type": "integer", "nullable": True}),
        (Literal[1, "a"], {"type": ["integer", "string"], "enum": [1, "a"]}),
        (Unit, {"type": "string", "enum": ["celsius", "fahrenheit"]}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        (
            Place,
            {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "country": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        ),
        (
            Span,
            {
                "type": "object",
                "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}},
                "required": ["start"],
            },
        ),
    ],
)
def test_types(hint, schema):
    def tool(value):
        pass

    tool.__annotations__ = {"value": hint}
    found = describe_function(tool)["function"]["parameters"]["properties"]["value"]
    assert found == schema


def test_methods_and_callable_objects():
    class Shop:
        def buy(self, thing: str) -> None:
            """Buy."""

        def __call__(self, thing: str) -> None:
            """Sell."""

    assert describe_function(Shop().buy)["function"]["parameters"]["required"] == ["thing"]
    assert describe_function(Shop())["function"]["name"] == "Shop"


def no_hint(value):
    pass


def odd(value: complex) -> None:
    pass


def many(*values: int) -> None:
    pass


def unknown(value: Missing) -> None:  # noqa: F821
    pass


@pytest.mark.parametrize(
    ("function", "words"),
    [(no_hint, "no type hint"), (odd, "complex"), (many, r"\*values"), (unknown, "Missing")],
)
def test_what_cannot_be_described_names_tool_and_parameter(function, words):
    with pytest.raises(RequestError, match=words) as raised:
        tools_as_json([function])
    assert raised.value.field == "tools"
    assert function.__name__ in str(raised.value)


@pytest.mark.parametrize("tools", ["search", {"name": "search"}, 7, [1], ["search"], [None]])
def test_what_are_no_tools(tools):
    with pytest.raises(RequestError, match="tools") as raised:
        tools_as_json(tools)
    assert raised.value.field == "tools"


def test_schemas_by_tool_and_parameter():
    described = tools_as_json(
        [get_weather, {"name": "bare", "parameters": {"properties": {"a": {}}}}]
    )
    odd_ones = [{"function": 7}, {"function": {"name": 7}}, {"name": "x", "parameters": None}]
    schemas = tool_schemas([*described, *odd_ones])
    assert schemas["get_weather"]["days"]["type"] == "integer"
    assert schemas["bare"] == {"a": {}}
    assert schemas["x"] == {}
