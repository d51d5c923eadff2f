"""Whatever people ask for: more than 200 schemas, and only valid instances of them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from tests.real_models import real_model
from tests.schema_families import all_schemas

import inferlib

SCHEMAS = all_schemas()
MAX_TOKENS = 96


@pytest.fixture(scope="module")
def model():
    with inferlib.Model.from_pretrained(real_model("smollm2"), kv_cache="40k tokens") as model:
        yield model


def test_they_are_many():
    assert len(SCHEMAS) >= 200
    assert len({json.dumps(schema, sort_keys=True) for _, schema in SCHEMAS}) >= 200


@pytest.mark.parametrize(("seed", "temperature"), [(1, 1.0), (2, 2.0)])
def test_each_gives_only_valid_instances(model, seed, temperature):
    """All at once, so that they run in one batch; at temperature 2 text is closed by force."""
    handles = [
        model.submit(
            "An example as JSON: ",
            schema=schema,
            max_tokens=MAX_TOKENS,
            seed=seed,
            temperature=temperature,
        )
        for _, schema in SCHEMAS
    ]
    problems = []
    for (name, schema), handle in zip(SCHEMAS, handles, strict=True):
        completion = handle.result()
        if completion.finish_reason not in ("stop", "length"):
            problems.append((name, completion.finish_reason, completion.error))
            continue
        try:
            value = json.loads(completion.text)
        except ValueError:
            problems.append((name, "not whole", completion.text))
            continue
        errors = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
        problems += [(name, error.message, completion.text) for error in errors]
    assert problems == []
    assert not any(model._engine._companions.num_known().values())
