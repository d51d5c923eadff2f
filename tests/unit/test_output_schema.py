"""What callers give as ``schema``, and what texts are read as."""

from __future__ import annotations

import pickle

import pytest

from inferlib.errors import RequestError
from inferlib.output_schema import OutputSchema
from inferlib.sampling_params import SamplingParams


class Point:
    """As pydantic's models look from outside."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    @classmethod
    def model_json_schema(cls):
        return {"type": "object", "properties": {"x": {"type": "integer"}}}

    @classmethod
    def model_validate(cls, value):
        if "x" not in value:
            raise ValueError("x is missing")
        return cls(value["x"], value.get("y"))


def test_a_dict_json_and_a_boolean_are_schemas():
    assert OutputSchema.of({"type": "string", "enum": ("é",)}).json == (
        '{"type": "string", "enum": ["é"]}'
    )
    assert OutputSchema.of('{"type": "string"}').to_dict() == {"type": "string"}
    assert OutputSchema.of(bool(1)).json == "true"
    assert OutputSchema.of('{"type"').to_dict() == '{"type"'  # the compiler will refuse it


def test_a_model_gives_its_schema_and_makes_instances():
    schema = OutputSchema.of(Point)
    assert schema.to_dict() == Point.model_json_schema()
    parsed = schema.parse('{"x":3}')
    assert isinstance(parsed, Point)
    assert parsed.x == 3
    assert schema.parse('{"y":3}') is None


def test_half_a_text_holds_nothing():
    assert OutputSchema.of({}).parse('{"x":3') is None
    assert OutputSchema.of({}).parse("") is None
    assert OutputSchema.of({}).parse("[1]") == [1]


@pytest.mark.parametrize("schema", [3, complex, [1], b"{}", {"x": object()}, {"x": float("nan")}])
def test_what_describes_no_json_is_refused(schema):
    with pytest.raises(RequestError) as caught:
        SamplingParams(schema=schema)
    assert caught.value.field == "schema"


def test_a_schema_that_contains_itself_is_refused():
    schema: dict[str, object] = {}
    schema["items"] = schema
    with pytest.raises(RequestError, match="schema"):
        OutputSchema.of(schema)


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}, {"a": 1}),
    ],
)
def test_response_formats_of_openai(response_format, schema):
    found = OutputSchema.of_response_format(response_format)
    assert (found and found.to_dict()) == schema


@pytest.mark.parametrize(
    "response_format", ["json", {}, {"type": "xml"}, {"type": "json_schema"}, {"type": ["text"]}]
)
def test_other_response_formats_are_refused(response_format):
    with pytest.raises(RequestError) as caught:
        OutputSchema.of_response_format(response_format)
    assert caught.value.field == "response_format"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"regex": 3}, "regex"),
        ({"grammar": b"start: /a/"}, "grammar"),
        ({"choices": "yes"}, "choices"),
        ({"choices": ["yes", 1]}, "choices"),
        ({"choices": 3}, "choices"),
        ({"schema": {}, "regex": "a"}, "regex"),
        ({"choices": ["a"], "grammar": "start: /a/"}, "grammar"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_bad_structure_is_refused_by_name(options, field):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**options)
    assert caught.value.field == field


def test_params_with_a_structure_survive_their_dict_and_pickle():
    for options in ({"schema": {"type": "string"}}, {"choices": ["a", "b"]}, {"regex": "a+"}):
        params = SamplingParams(**options)
        assert SamplingParams(**params.to_dict()) == params
        assert pickle.loads(pickle.dumps(params)) == params
        assert hash(params) == hash(SamplingParams(**options))
    assert SamplingParams(schema={"type": "string"}).to_dict()["schema"] == {"type": "string"}
