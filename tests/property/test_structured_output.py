"""Structured output of a real model: what was described, and the same whatever runs beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from typing import Literal, TypedDict

import pytest
from tests.real_models import real_model

import inferlib
from inferlib.errors import GrammarError, RequestError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
PROMPT = "Ada Lovelace, 36, wrote the first program. As JSON: "
REGEX = r"[A-Z][a-z]{2,8} (is|was) [0-9]{1,3}\."
LARK = 'start: item ("," item)*\nitem: /[a-z]{1,4}/ "=" /[0-9]/'


@pytest.fixture(scope="module")
def model():
    with inferlib.Model.from_pretrained(real_model("smollm2"), kv_cache="8k tokens") as model:
        yield model


def is_person(value):
    return (
        set(value) <= {"name", "age", "tags"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 20
        and 0 <= value["age"] <= 150
        and all(tag in "ab" for tag in value.get("tags", []))
    )


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "top_k": 50}])
def test_a_schema_is_satisfied(model, options):
    completion = model.generate(PROMPT, schema=PERSON, max_tokens=120, **options)
    assert completion.finish_reason == "stop"
    assert is_person(completion.parsed)
    assert completion.text == json.dumps(
        completion.parsed, separators=(",", ":"), ensure_ascii="\\u" in completion.text
    )


def test_text_ends_where_nothing_may_follow(model):
    completion = model.generate("Yes or no? Answer:", choices=["yes", "no"], temperature=0)
    assert completion.text in ("yes", "no")
    assert completion.finish_reason == "stop"
    assert completion.stop_reason is None
    assert "".join(map(str, model.stream("Answer:", regex="[ab]{4}", seed=3))) == (
        model.generate("Answer:", regex="[ab]{4}", seed=3).text
    )


def test_expressions_and_grammars_are_matched(model):
    for seed in range(4):
        text = model.generate("He", regex=REGEX, seed=seed, temperature=2.0).text
        assert re.fullmatch(REGEX, text)
        text = model.generate("x", grammar=LARK, seed=seed, max_tokens=40).text
        assert re.fullmatch(r"[a-z]{1,4}=[0-9](,[a-z]{1,4}=[0-9])*", text)


def test_each_of_several_sequences_has_its_own_state(model):
    completion = model.generate("Pick:", choices=["red", "green", "blue"], n=6, seed=5)
    assert {output.text for output in completion.outputs} <= {"red", "green", "blue"}
    assert len({output.text for output in completion.outputs}) > 1
    assert [output.finish_reason for output in completion.outputs] == ["stop"] * 6


def test_results_do_not_depend_on_batch_mates_chunks_or_drafts(model):
    requests = [
        {"prompt": PROMPT, "schema": PERSON, "seed": 1},
        {"prompt": "He", "regex": REGEX, "seed": 2},
        {"prompt": "Once upon a time", "seed": 3},
        {
            "prompt": '{"name":"Bob"}{"name":"Bob"}{"na',
            "regex": r'(me":"(Bob|Rob|Ada)"\}\{"na){4}',
            "seed": 4,
        },
        {
            "prompt": '{"name":"Bob"}' * 4 + '{"na',
            "regex": r'[a-zA-Z":{} ]{60,80}',
            "temperature": 0,
        },
    ]
    common = {"max_tokens": 60, "logprobs": 2}
    alone = [model.generate(**each, **common, speculation="off") for each in requests]
    handles = [model.submit(**each, **common) for each in requests]
    together = [handle.result() for handle in handles]
    for expected, found in zip(alone, together, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs
        assert found.finish_reason == expected.finish_reason
    assert together[3].usage.forced_tokens > 0
    drafted = model.generate(**requests[4], **common)
    assert drafted.token_ids == alone[4].token_ids
    assert drafted.usage.accepted_tokens > 0


def test_a_structure_is_closed_before_its_tokens_run_out(model):
    shortest = 12
    for seed, max_tokens in enumerate(range(shortest, 44)):
        completion = model.generate(
            PROMPT, schema=PERSON, max_tokens=max_tokens, seed=seed, temperature=1.5, logprobs=0
        )
        assert completion.finish_reason in ("stop", "length")
        assert len(completion.token_ids) == len(completion.logprobs) <= max_tokens
        assert is_person(completion.parsed), completion.text
    assert model.generate("x", schema={"type": "string"}, max_tokens=9, seed=1).parsed is not None


def test_what_cannot_fit_is_refused_or_ends_unclosed(model):
    with pytest.raises(RequestError) as caught:
        model.generate(PROMPT, schema=PERSON, max_tokens=2)
    assert caught.value.field == "max_tokens"
    # Nobody knows at once how few tokens a text of it can have.
    hard = {"type": "array", "items": {"enum": ["aa", "bb"]}, "minItems": 30}
    completion = model.generate("x", schema=hard, max_tokens=12, seed=1)
    assert completion.finish_reason == "length"
    assert completion.parsed is None
    # What else forbids tokens may forbid those that close: then nothing is closed.
    completion = model.generate(
        "x", schema={"type": "string"}, bad_words=["zz"], max_tokens=4, seed=3
    )
    assert completion.finish_reason in ("length", "stop")


def test_certain_tokens_take_no_steps_and_change_nothing(model):
    pairs = [{"first name": "Ada", "last name": "Lovelace", "country of birth": "England"}]
    requests = [
        {"schema": PERSON, "seed": 1},
        {"schema": PERSON, "temperature": 0},
        {"schema": PERSON, "seed": 2, "n": 3},
        {"schema": {"enum": pairs}, "seed": 3},
        {"schema": {"type": "array", "items": {"const": pairs[0]}, "maxItems": 2}, "seed": 4},
        {"regex": r"The answer, which is what you wanted to know, is [0-9]{2}\.", "seed": 5},
        {"choices": ["a very long choice", "another very long choice"], "seed": 6},
    ]
    for request in requests:
        common = {**request, "max_tokens": 60, "logprobs": 2}
        alone = model.generate(PROMPT, speculation="off", **common)
        told = model.generate(PROMPT, **common)
        for expected, found in zip(alone.outputs, told.outputs, strict=True):
            assert found.token_ids == expected.token_ids
            assert found.logprobs == expected.logprobs
            assert found.finish_reason == expected.finish_reason
        assert alone.usage.forced_tokens == 0
        assert told.usage.forced_tokens > 0
        # The last token of a text may be one of them, and nothing comes behind it.
        num_saved = told.usage.forced_tokens - told.params.n
        assert told.run["num_steps"] <= alone.run["num_steps"] - num_saved
    handles = [model.submit(PROMPT, **each, max_tokens=60, logprobs=2) for each in requests]
    for request, handle in zip(requests, handles, strict=True):
        alone = model.generate(PROMPT, **request, max_tokens=60, logprobs=2, speculation="off")
        together = handle.result()
        assert [each.token_ids for each in together.outputs] == [
            each.token_ids for each in alone.outputs
        ]


def test_a_structure_is_closed_at_its_deadline(model):
    endless = {"regex": "[a-z ,.]+§", "temperature": 0, "max_tokens": 4000}
    started = time.monotonic()
    completion = model.generate(PROMPT, deadline=1.5, **endless)
    assert completion.finish_reason == "deadline"
    assert re.fullmatch("[a-z ,.]+§", completion.text)
    assert time.monotonic() - started < 60
    handle = model.submit(PROMPT, deadline=0.0, **endless)
    completion = handle.result()  # nothing was there to be closed
    assert completion.finish_reason == "deadline"
    assert completion.text == ""
    assert not any(model._engine._companions.num_known().values())


def test_a_structure_that_takes_too_much_work_says_so(model):
    healthy = model.submit("Once", max_tokens=30, seed=1)
    much = "(?:(?:a{1000}){1000}){1000}"
    with pytest.raises(RequestError, match="more than 32000 letters"):
        model.generate("x", regex=much)
    with pytest.raises(RequestError, match="more than 20000 letters"):
        model.generate("x", grammar=f"start: /{much}/")
    with pytest.raises(RequestError, match="multiples of 214743647"):
        model.generate("x", schema={"type": "integer", "multipleOf": 214743647})
    much = "(?:(?:a{1,1000}){1,1000}){900}b"
    hard = model.generate("x", grammar=f"start: /{much}/", max_tokens=4000, seed=1)
    assert hard.finish_reason == "error"
    assert "the structure of the output cannot be continued" in hard.error
    assert healthy.result().token_ids == model.generate("Once", max_tokens=30, seed=1).token_ids
    assert model.generate("x", max_tokens=1, seed=1).error is None


@dataclasses.dataclass
class Inventor:
    name: str
    born: int
    language: Literal["en", "fr"] | None = None


class Sum(TypedDict):
    left: int
    right: int


def test_types_are_schemas_and_results_are_instances(model):
    completion = model.generate(PROMPT, schema=Inventor, max_tokens=40, seed=1)
    assert isinstance(completion.parsed, Inventor)
    completion = model.generate("1 + 2 as JSON: ", schema=list[Sum], max_tokens=40, seed=1)
    assert all(set(each) == {"left", "right"} for each in completion.parsed)


def test_stop_strings_and_penalties_work_beside_a_structure(model):
    completion = model.generate(
        "x", regex="[ab]{30}", seed=1, stop="ab", repetition_penalty=1.3, logit_bias={64: 1.0}
    )
    assert re.fullmatch("[ab]*", completion.text)
    assert completion.stop_reason in ("ab", None)


def test_a_bad_description_fails_alone_and_by_name(model):
    running = model.submit("Once", max_tokens=20, seed=1)
    for options, field in (
        ({"schema": {"type": "text"}}, "schema"),
        ({"schema": "{"}, "schema"),
        ({"schema": {"$ref": "https://example.com/x"}}, "schema"),
        ({"regex": "("}, "regex"),
        ({"grammar": "start: nowhere"}, "grammar"),
        ({"choices": []}, "choices"),
    ):
        with pytest.raises(GrammarError) as caught:
            model.generate("x", **options)
        assert caught.value.field == field
    assert running.result().token_ids == model.generate("Once", max_tokens=20, seed=1).token_ids


def test_chat_takes_openais_response_format(model):
    messages = [{"role": "user", "content": "Who are you? Answer in JSON."}]
    response_format = {"type": "json_schema", "json_schema": {"schema": PERSON}}
    completion = model.chat(messages, response_format=response_format, max_tokens=120, seed=1)
    assert is_person(completion.parsed)
    with pytest.raises(RequestError) as caught:
        model.chat(messages, response_format=response_format, schema=PERSON)
    assert caught.value.field == "response_format"


def test_sequences_and_cancelled_requests_leave_no_state(model):
    with model.prefill(PROMPT) as sequence:
        first = sequence.generate(schema=PERSON, max_tokens=120, seed=1)
        assert is_person(first.parsed)
    handle = model.submit(PROMPT, schema=PERSON, max_tokens=120)
    handle.cancel()
    handle.result()
    assert not any(model._engine._companions.num_known().values())


def test_an_event_loop_may_ask_for_a_structure(model):
    asked = [model.agenerate("Pick:", choices=["red", "green"], seed=seed) for seed in range(3)]

    async def together():
        return await asyncio.gather(*asked)

    assert {each.text for each in asyncio.run(together())} <= {"red", "green"}
