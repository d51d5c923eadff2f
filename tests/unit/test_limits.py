"""Limits of a model: lower than any request's own, refused by the option's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import inferlib
from inferlib import Limits
from inferlib.testing import ScriptedModel, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
BEYOND = {
    "n": {"n": 3},
    "stop": {"stop": ["a", "b", "c"]},
    "bad_words": {"bad_words": ["a", "b", "c"]},
    "logprobs": {"logprobs": 3},
    "choices": {"choices": ["a", "b", "c"]},
    "structure_bytes": {"regex": "abc"},
    "prompt_bytes": {"prompt": "äb"},
}


def field_of(name: str) -> str:
    return {"structure_bytes": "regex", "prompt_bytes": "prompt"}.get(name, name)


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_beyond_is_refused_by_name(name):
    call = {"prompt": "x", "max_tokens": 4} | BEYOND[name]
    with ScriptedModel(lambda _: "abc", limits=Limits(**{name: 2})) as model:
        with pytest.raises(inferlib.RequestError, match=r"limit of 2|longer than 2") as raised:
            model.generate(**call)
        assert raised.value.field == field_of(name)
    with ScriptedModel(lambda _: "abc", limits=Limits(**{name: 3})) as model:
        assert model.generate(**call).outputs


def test_prompt_logprobs_and_schemas_are_counted_too():
    limits = Limits(logprobs=2, structure_bytes=20)
    with tiny_model(limits=limits) as model:
        for field, given in {
            "prompt_logprobs": {"prompt_logprobs": 3},
            "schema": {"schema": {"type": "object", "properties": {}}},
            "choices": {"choices": ["a" * 11, "b" * 10]},
        }.items():
            with pytest.raises(inferlib.RequestError) as raised:
                model.generate("x", **given)
            assert raised.value.field == field


def test_a_full_queue_refuses_and_takes_more_later():
    limits = Limits(waiting_requests=3, waiting_tokens=100)
    with ScriptedModel(lambda _: "abc", limits=limits) as model:
        handles = [model.submit("x") for _ in range(3)]
        with pytest.raises(inferlib.OverloadedError) as raised:
            model.submit("x")
        assert raised.value.retryable
        assert [handle.result().text for handle in handles] == ["abc"] * 3
        model.submit("x" * 60).cancel()
        handle = model.submit("x" * 60)
        with pytest.raises(inferlib.OverloadedError):
            model.submit("x" * 60)
        assert handle.result().text == "abc"


def test_limits_can_only_be_lowered():
    for field in dataclasses.fields(Limits):
        for value in (-1, 1.5, "many", 2**40):
            with pytest.raises(inferlib.RequestError) as raised:
                Limits(**{field.name: value})
            assert raised.value.field == field.name
    with pytest.raises(inferlib.RequestError, match="limits must be Limits"):
        tiny_model(limits={"n": 3})


def test_the_page_names_every_limit_and_its_default():
    page = PAGE.read_text(encoding="utf8")
    for field in dataclasses.fields(Limits):
        default = "none" if field.default is None else f"{field.default:,}"
        assert f"| `{field.name}` | {default} |" in page


def test_automata_of_structures_take_so_much_and_the_largest_ones_end_first():
    calls = [{"regex": "[ab]{5}"}, {"choices": ["abc" * 300]}, {"schema": {"type": "integer"}}]
    common = {"prompt": "x", "max_tokens": 1000, "temperature": 0.0}
    with tiny_model() as model:
        alone = [model.generate(**common, **call) for call in calls]
    with tiny_model(limits=Limits(structure_memory=400_000)) as model:
        handles = [model.submit(**common, **call) for call in calls]
        first, large, last = [handle.result() for handle in handles]
        assert (first.text, last.text) == (alone[0].text, alone[2].text)
        assert large.finish_reason == "error"
        assert "more than 400000 bytes" in large.error
        assert not any(model._engine._companions.num_known().values())


def test_what_is_kept_of_large_descriptions_is_bounded(monkeypatch):
    monkeypatch.setattr("inferlib.grammar_compiler.MAX_KEPT_BYTES", 1 << 20)
    with tiny_model() as model:
        kept = model._parts.builder.grammars._kept
        for letter in "abcdefgh":
            model.generate("x", max_tokens=1000, choices=[f"{letter}xy" * 300])
        sizes = [grammar.num_bytes for grammar in kept.values()]
        assert 2 <= len(sizes) < 8
        assert sum(sizes) <= 1 << 20
