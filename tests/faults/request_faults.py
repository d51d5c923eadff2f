"""Faults of requests: what can never run is refused at once, by the field's name."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.catalogue import GREEDY, NAN_TOKEN, Stage, fault

import inferlib

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    # name, field, what is given besides a prompt of "x"
    ("an empty prompt", "prompt", {"prompt": ""}),
    ("a prompt that is no text", "prompt", {"prompt": b"bytes"}),
    ("a list of prompts with one that is none", "prompt", {"prompt": ["fine", None]}),
    ("token ids beyond the vocabulary", "prompt", {"prompt": [1, 258]}),
    ("a negative token id", "prompt", {"prompt": [1, -1]}),
    ("token ids of 80 bits", "prompt", {"prompt": [2**80]}),
    ("a lone surrogate", "prompt", {"prompt": "\ud800"}),
    ("`max_tokens=0`", "max_tokens", {"max_tokens": 0}),
    ("a negative `max_tokens`", "max_tokens", {"max_tokens": -5}),
    ("`max_tokens` beyond the context", "max_tokens", {"max_tokens": 10**9}),
    ("`max_tokens` beyond 64 bits", "max_tokens", {"max_tokens": 10**30}),
    ("`n` of a million", "n", {"n": 10**6}),
    ("a temperature that is NaN", "temperature", {"temperature": float("nan")}),
    ("an infinite temperature", "temperature", {"temperature": float("inf")}),
    ("a negative temperature", "temperature", {"temperature": -1.0}),
    ("`top_p=0`", "top_p", {"top_p": 0}),
    ("`top_p` above 1", "top_p", {"top_p": 1.5}),
    ("a negative `top_k`", "top_k", {"top_k": -1}),
    ("a seed out of range", "seed", {"seed": 2**64}),
    ("an empty stop string", "stop", {"stop": ["fine", ""]}),
    ("100,000 stop strings", "stop", {"stop": ["s"] * 100_000}),
    ("a stop string of 1 MB", "stop", {"stop": "s" * 2**20}),
    ("an infinite list of stop tokens", "stop_token_ids", {"stop_token_ids": 3.5}),
    ("a bias for a token that does not exist", "logit_bias", {"logit_bias": {10**6: 1.0}}),
    ("a bias that is NaN", "logit_bias", {"logit_bias": {1: float("nan")}}),
    ("no token allowed", "allowed_token_ids", {"allowed_token_ids": []}),
    ("more logprobs than allowed", "logprobs", {"logprobs": 10**6}),
    ("a `min_tokens` above `max_tokens`", "min_tokens", {"min_tokens": 9, "max_tokens": 3}),
    ("an unknown keyword", "temprature", {"temprature": 1}),
    ("a deadline that is NaN", "deadline", {"deadline": float("nan")}),
    ("a priority that is text", "priority", {"priority": "high"}),
    ("two structures at once", "choices", {"regex": "a", "choices": ["b"]}),
]
UNUSABLE: list[tuple[str, str, dict[str, Any]]] = [
    ("a keyword of JSON schema that cannot be enforced", "schema", {"schema": {"not": {}}}),
    ("a schema that is no JSON", "schema", {"schema": "{"}),
    (
        "a schema nested 100,000 deep",
        "schema",
        {"schema": '{"items":' * 10**5 + "{}" + "}" * 10**5},
    ),
    (
        "an object of 5,000 fields that may be left out",
        "schema",
        {"schema": {"properties": {f"field{number}": {} for number in range(5000)}}},
    ),
    (
        "500 expressions for the names of fields",
        "schema",
        {"schema": {"patternProperties": {f"^p{number}[a-z]+$": {} for number in range(500)}}},
    ),
    ("a constant of 900 KB", "schema", {"schema": {"const": "x" * 900_000}}),
    ("a remote `$ref`", "schema", {"schema": {"$ref": "https://example.com/schema.json"}}),
    ("a schema that nothing satisfies", "schema", {"schema": {"enum": []}}),
    ("an expression with an open bracket", "regex", {"regex": "(a"}),
    ("an expression with look-around", "regex", {"regex": "(?=a)b"}),
    ("an expression of 5,000 brackets", "regex", {"regex": "(" * 5000 + ")" * 5000}),
    ("a million letters in nine", "regex", {"regex": "a{999}{999}"}),
    ("a grammar without a start", "grammar", {"grammar": 'other: "a"'}),
    (
        "a chain of 5,000 rules",
        "grammar",
        {"grammar": "".join(f"a{i}: a{i + 1}\n" for i in range(5000)) + 'start: a0\na5000: "x"'},
    ),
    ("a grammar with a syntax error", "grammar", {"grammar": "start: ("}),
    ("choices that are empty", "choices", {"choices": []}),
]


def refusal(error: str, field: str, given: dict[str, Any]) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        call = {"prompt": "x", "max_tokens": 4, **given}
        for way in (stage.model.generate, stage.model.submit, stage.model.stream):
            with pytest.raises(getattr(inferlib, error)) as raised:
                way(**call)
            assert raised.value.field == field, raised.value
            assert len(str(raised.value)) < 2000

    return play


for name, field, given in REFUSED:
    fault("request", name, f"`RequestError`, field `{field}`")(
        refusal("RequestError", field, given)
    )
for name, field, given in UNUSABLE:
    fault("request", name, f"`GrammarError`, field `{field}`")(
        refusal("GrammarError", field, given)
    )


@fault("request", "a prompt longer than the context", "`PromptTooLongError`")
def longer_than_the_context(stage: Stage) -> None:
    stage.refused(inferlib.PromptTooLongError, lambda: stage.model.generate("x" * 600), "prompt")


@fault("request", "100 MB of text", "`RequestError`, field `prompt`")
def a_hundred_megabytes(stage: Stage) -> None:
    text = "x" * (100 << 20)
    with pytest.raises(inferlib.RequestError) as raised:
        stage.model.generate(text)
    assert raised.value.field == "prompt"


@fault("request", "a prompt of special tokens only, or of NUL bytes", "an answer")
def odd_prompts(stage: Stage) -> None:
    for prompt in ([256], [257, 257], "\0" * 20):
        assert len(stage.model.generate(prompt, max_tokens=3, **GREEDY).token_ids) == 3


@fault("request", "a grammar whose text must go on for ever", '`finish_reason="length"`')
def without_an_end(stage: Stage) -> None:
    completion = stage.model.generate("x", grammar="start: /a0*/ /0/", max_tokens=6)
    assert (completion.finish_reason, completion.text) == ("length", "a00000")


@fault("request", "logits that are not numbers", '`finish_reason="error"`, nothing cached')
def not_a_number(stage: Stage) -> None:
    prompt = [7] * 40 + [NAN_TOKEN] * 40
    for _ in range(2):
        completion = stage.model.generate(prompt, max_tokens=5)
        assert (completion.finish_reason, completion.token_ids) == ("error", [])
        assert completion.num_cached_tokens == 0


@fault(
    "request", "logits that are not numbers, `n=3`, with log-probabilities, streamed", "the same"
)
def not_a_number_in_all_ways(stage: Stage) -> None:
    options: dict[str, Any] = {"max_tokens": 5, "logprobs": 3, "prompt_logprobs": 2}
    completion = stage.model.generate([NAN_TOKEN, 1, 2], n=3, **options)
    assert [each.finish_reason for each in completion.outputs] == ["error"] * 3
    with stage.model.stream([1, NAN_TOKEN], max_tokens=5) as stream:
        assert [delta.finish_reason for delta in stream] == ["error"]


def _raises(_token_ids: Any, _logits: Any) -> None:
    raise ZeroDivisionError("on purpose")


@fault(
    "request",
    "a logits processor that raises, or returns NaN",
    "`LogitsProcessorError`, field `logits_processors`",
)
def failing_processors(stage: Stage) -> None:
    for processor in (_raises, lambda _tokens, logits: logits * float("nan")):
        stage.refused(
            inferlib.LogitsProcessorError,
            lambda given=processor: stage.model.generate("x", logits_processors=[given]),
            "logits_processors",
        )


@fault("request", "a caller that raises while it reads a stream", "its own exception")
def a_reader_that_raises(stage: Stage) -> None:
    def read() -> None:
        for _ in stage.model.stream("x", max_tokens=50, **GREEDY):
            raise LookupError("the caller's")

    stage.refused(LookupError, read)


@fault("request", "streams and handles that nobody keeps", "nothing")
def abandoned(stage: Stage) -> None:
    for _ in range(5):
        next(stage.model.stream("x", max_tokens=50, **GREEDY))
        stage.model.submit("y", max_tokens=50, **GREEDY)


@fault("request", "a cancelled task", "`CancelledError`")
def a_cancelled_task(stage: Stage) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(stage.model.agenerate("x", max_tokens=400, **GREEDY))
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@fault(
    "request", "an event loop that is closed under a request", "nothing; the request is cancelled"
)
def a_closed_loop(stage: Stage) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(stage.model.agenerate("x", max_tokens=400, **GREEDY))
    loop.run_until_complete(asyncio.sleep(0.002))
    task._log_destroy_pending = False
    loop.close()
    del task, loop


@fault("request", "a grammar whose text is cut off by `max_tokens`", '`finish_reason="length"`')
def cut_off(stage: Stage) -> None:
    completion = stage.model.generate("x", regex="[a-z]{100}", max_tokens=3)
    assert completion.finish_reason == "length"


@fault("request", "a grammar that may be read in many ways", '`finish_reason="error"`')
def many_ways(stage: Stage) -> None:
    grammar = 'start: a "x"\na: a a | "b"\n'
    options: dict[str, Any] = {"grammar": grammar, "logit_bias": {ord("b"): 100.0}}
    completion = stage.model.generate("x", max_tokens=400, temperature=0, **options)
    assert completion.finish_reason == "error"
    assert "items" in (completion.error or "")
    assert completion.text.startswith("b" * 100)


@fault("request", "a deadline that has passed", '`finish_reason="deadline"`')
def past_its_deadline(stage: Stage) -> None:
    assert (
        stage.model.generate("x", max_tokens=400, deadline=0, **GREEDY).finish_reason == "deadline"
    )


@fault("request", "messages that are none", "`RequestError`, field `messages`")
def no_messages(stage: Stage) -> None:
    for messages in ("hi", None, [], [[]], [1], [None], [[1]], [{"role": 3}], [{"content": "x"}]):
        with pytest.raises(inferlib.RequestError):
            stage.model.chat(messages, max_tokens=2)


@fault("request", "messages nested 10,000 deep", "`RequestError`")
def deep_messages(stage: Stage) -> None:
    content: Any = "x"
    for _ in range(10_000):
        content = [content]
    with pytest.raises(inferlib.RequestError):
        stage.model.chat([{"role": "user", "content": content}], max_tokens=2)


@fault("request", "a tool whose schema is malformed", "`RequestError`, field `tools`")
def a_bad_tool(stage: Stage) -> None:
    messages = [{"role": "user", "content": "x"}]
    for tools in ("f", {"type": "function"}, [3], [json.loads]):
        with pytest.raises(inferlib.RequestError):
            stage.model.chat(messages, tools=tools, max_tokens=2)
