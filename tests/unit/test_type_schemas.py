"""Schemas of Python types, and instances of them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import pytest

from inferlib.errors import RequestError
from inferlib.output_schema import OutputSchema
from inferlib.type_schemas import from_json, schema_of_type


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Place(TypedDict):
    city: str
    zip: NotRequired[int]


@dataclasses.dataclass
class Person:
    name: Annotated[str, "as in the passport"]
    age: int
    place: Place
    friends: list[Person] = dataclasses.field(default_factory=list)
    colour: Colour | None = None
    span: tuple[int, float] = (0, 1.0)
    code: int = dataclasses.field(default=7, init=False)

    def __post_init__(self):
        if self.age < 0:
            raise ValueError("nobody is that young")


ADA = {
    "name": "Ada",
    "age": 36,
    "place": {"city": "London"},
    "friends": [{"name": "Bob", "age": 1, "place": {"city": "Ely", "zip": 7}}],
    "colour": "red",
    "span": [1, 2],
}


def test_a_dataclass_that_contains_itself_is_described_and_filled():
    schema = schema_of_type(Person)
    assert set(schema["$defs"]) == {"Person", "Place"}
    person = schema["$defs"]["Person"]
    assert person["required"] == ["name", "age", "place"]
    assert list(person["properties"]) == ["name", "age", "place", "friends", "colour", "span"]
    assert person["properties"]["friends"] == {"type": "array", "items": {"$ref": "#/$defs/Person"}}
    assert person["properties"]["name"]["description"] == "as in the passport"
    jsonschema.validate(ADA, schema)
    ada = from_json(Person, ADA)
    assert ada == Person(
        name="Ada",
        age=36,
        place={"city": "London"},
        friends=[Person(name="Bob", age=1, place={"city": "Ely", "zip": 7})],
        colour=Colour.RED,
        span=(1, 2.0),
    )
    assert isinstance(ada.span[1], float)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int | str, "3", "3"),
        (int | float, 3, 3),
        (float, 3, 3.0),
        (list[int], [1, 2], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, Colour], {"a": "green"}, {"a": Colour.GREEN}),
        (Literal["a", 1, True], 1, 1),
        (None, None, None),
        (Any, {"a": [None]}, {"a": [None]}),
        (list[Place | None], [None, {"city": "x"}], [None, {"city": "x"}]),
    ],
)
def test_values_become_instances_and_satisfy_the_schema(hint, value, expected):
    jsonschema.validate(value, schema_of_type(hint))
    found = from_json(hint, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True),
        (int, 1.0),
        (bool, 1),
        (str, None),
        (list[int], {"a": 1}),
        (list[int], ["a"]),
        (tuple[int, int], [1]),
        (dict[str, int], [1]),
        (Literal[1], True),
        (Colour, "blue"),
        (Place, {"zip": 1}),
        (Place, {"city": "x", "more": 1}),
        (Person, {**ADA, "age": -1}),
        (int | str, None),
    ],
)
def test_what_is_of_another_type_is_refused(hint, value):
    with pytest.raises(ValueError, match=r"."):
        from_json(hint, value)


@pytest.mark.parametrize(
    "hint", [bytes, dict[int, str], list[complex], object, Literal[b"x"], set[int]]
)
def test_what_json_cannot_express_is_refused_by_name(hint):
    with pytest.raises(RequestError) as caught:
        schema_of_type(hint)
    assert caught.value.field == "schema"


def test_types_are_schemas_of_requests():
    schema = OutputSchema.of(list[Place])
    assert schema.parse('[{"city":"x"}]') == [{"city": "x"}]
    assert schema.parse('[{"town":"x"}]') is None
    assert schema.parse('[{"city":') is None
    assert OutputSchema.of(Person).parse('{"name":"A","age":1,"place":{"city":"x"}}') == Person(
        name="A", age=1, place={"city": "x"}
    )


def test_two_classes_of_one_name_are_two_definitions():
    def made(kind):
        return dataclasses.make_dataclass("Same", [("x", kind)])

    schema = schema_of_type(tuple[made(int), made(str)])
    assert set(schema["$defs"]) == {"Same", "Same_"}
