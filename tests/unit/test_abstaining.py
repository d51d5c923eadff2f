"""``abstain_below``: where a sequence ends is a function of its tokens, whatever steps bring."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from tests.unit import fakes
from tests.unit.answers import assert_answers, shape
from tests.unit.fakes import assert_idle, fake_model

from inferlib import RequestError, SamplingParams
from inferlib.confidence import confidence_of
from inferlib.testing import ScriptedModel, tiny_model

FIRST_LOOK = 8
STEPS = (1, 2, 3, 7, 64)
OPTIONS = [
    {"max_tokens": 30},
    {"max_tokens": 5},
    {"max_tokens": 30, "n": 3},
    {"max_tokens": 30, "stop": "a time"},
    {"max_tokens": 30, "stop": ["ce", "time"]},
    {"max_tokens": 30, "stop": "a time", "include_stop_str_in_output": True},
    {"max_tokens": 30, "stop_token_ids": [ord(",")]},
    {"max_tokens": 30, "stop": "ce", "min_tokens": 12},
    {"max_tokens": 30, "detokenize": False},
    {"max_tokens": 30, "logprobs": 1},
]


def varying_logprobs(token, count):
    """As the fakes', but some tokens are less likely than others."""
    top = [token, *(i for i in range(count) if i != token)][:count]
    return SimpleNamespace(
        logprob=-0.5 * (token % 5) ** 2 / 16, rank=1, top_ids=top, top_logprobs=[-1.0] * len(top)
    )


@pytest.fixture(autouse=True)
def _unsure(monkeypatch):
    monkeypatch.setattr(fakes, "fake_logprobs", varying_logprobs)


def expected_end(token_ids, finish_reason, below, min_tokens):
    """The definition, in a few lines."""
    logprobs = [varying_logprobs(token, 0).logprob for token in token_ids]
    for count in range(1, len(logprobs) + 1):
        mean = sum(logprobs[:count]) / count
        is_last = count == len(logprobs) and finish_reason in ("stop", "length")
        if (count >= max(FIRST_LOOK, min_tokens) or is_last) and math.exp(mean) < below:
            return count, "abstain"
    return len(token_ids), finish_reason


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("eos_after", [None, 4, 11])
def test_a_sequence_ends_where_its_confidence_falls_below(options, eos_after):
    with fake_model() as model:
        model.executor.eos_after = eos_after
        plain = model.generate("x", **{"logprobs": 0, **options})
        ends = set()
        for below in (0.05, 0.7, 0.8, 0.9, 1.0):
            completion = model.generate("x", abstain_below=below, **options)
            for sure, output in zip(plain.outputs, completion.outputs, strict=True):
                count, reason = expected_end(
                    sure.token_ids, sure.finish_reason, below, options.get("min_tokens", 0)
                )
                assert (output.token_ids, output.finish_reason) == (sure.token_ids[:count], reason)
                assert output.stop_reason == (None if reason == "abstain" else sure.stop_reason)
                assert output.confidence == pytest.approx(
                    math.exp(
                        sum(varying_logprobs(token, 0).logprob for token in output.token_ids)
                        / count
                    )
                )
                assert (output.confidence < below) == (reason == "abstain")
                assert (output.logprobs is None) == ("logprobs" not in options)
                ends.add(reason)
        assert "abstain" in ends
        assert len(ends) > 1 or options["max_tokens"] == 5
        assert_idle(model)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("eos_after", [None, 11])
@pytest.mark.parametrize("below", [0.7, 0.8, 0.9])
def test_steps_of_several_tokens_and_streams_give_the_same(options, eos_after, below):
    options = options | {"abstain_below": below}
    with fake_model() as model:
        model.executor.eos_after = eos_after
        expected = shape(model.generate("x", **options))
    for tokens_per_step in STEPS:
        with fake_model(tokens_per_step=tokens_per_step) as model:
            model.executor.eos_after = eos_after
            assert_answers(model, expected, **options)


@pytest.mark.parametrize("tokens_per_step", STEPS)
@pytest.mark.parametrize("interrupted", ["texts", "grammars", "confidence"])
def test_an_interrupted_step_changes_nothing(monkeypatch, tokens_per_step, interrupted):
    options = {"max_tokens": 30, "n": 2, "abstain_below": 0.9, "stop": "ce", "min_tokens": 5}
    with fake_model() as model:
        expected = shape(model.generate("x", **options))
    assert {output[3] for output in expected} == {"abstain"}
    with fake_model(tokens_per_step=tokens_per_step) as model:
        handle = model.submit("x", **options)
        part = getattr(model._engine._companions, interrupted)
        advance, left = part.advance, [2]

        def interrupt(*args):
            left[0] -= 1
            if left[0] == 0:
                advance(*args)  # it was done, or half done
                raise KeyboardInterrupt
            return advance(*args)

        monkeypatch.setattr(part, "advance", interrupt)
        try:
            completion = handle.result()
        except KeyboardInterrupt:
            completion = handle.result()
        assert shape(completion) == expected
        assert_idle(model)


def test_it_is_the_same_with_drafts_batch_mates_and_in_chunks():
    prompt = "abcabcabcabcabcabcabc" * 3
    runs = {}
    for name, load in {
        "plain": {"speculation": "off"},
        "drafts": {},
        "chunks": {"max_num_batched_tokens": 16},
    }.items():
        with tiny_model(**load) as model:
            params = SamplingParams(temperature=0.3, seed=3, max_tokens=60, n=3)
            below = {p: model.generate(prompt, params, abstain_below=p) for p in (0.2, 0.5, 0.8)}
            others = [model.submit("something else", params) for _ in range(3)]
            again = model.generate(prompt, params, abstain_below=0.5)
            assert [other.cancel() for other in others]
            assert shape(again) == shape(below[0.5])
            runs[name] = [shape(completion) for completion in below.values()]
    assert runs["plain"] == runs["drafts"] == runs["chunks"]
    reasons = {output[3] for run in runs["plain"] for output in run}
    assert reasons == {"abstain", "length"} or reasons == {"abstain"}


def test_log_probabilities_are_paid_for_only_when_they_are_asked_for():
    with tiny_model() as model:
        plain = model.generate("x", max_tokens=4, temperature=0)
        asked = model.generate("x", max_tokens=4, temperature=0, logprobs=0)
        careful = model.generate("x", max_tokens=4, temperature=0, abstain_below=1e-9)
        assert plain.confidence is None
        assert asked.confidence == careful.confidence == careful.outputs[0].confidence
        assert careful.logprobs is None
        assert careful.token_ids == plain.token_ids
        assert careful.outputs[0].drawn_logprobs == [
            row[token].logprob for token, row in zip(asked.token_ids, asked.logprobs, strict=True)
        ]
        assert careful.best() is careful.outputs[0]
        assert "confidence" in careful._repr_html_()
        assert "confidence" in model.generate("x", abstain_below=1.0).explain()


def test_a_receipt_of_an_abstention_can_be_verified(tmp_path):
    with tiny_model() as model:
        completion = model.generate(
            "x", max_tokens=40, temperature=1.0, n=2, seed=1, abstain_below=0.3
        )
        assert completion.finish_reason == "abstain"
        assert model.replay(completion.receipt).outputs == completion.outputs
        receipt = json.loads(json.dumps(completion.receipt.to_dict()))
        assert model.replay(receipt).outputs == completion.outputs
        options = {"max_tokens": 40, "temperature": 1.0, "seed": 1, "abstain_below": 0.3}
        path = tmp_path / "run.jsonl"
        first = list(model.generate_many(["x", "y"], checkpoint=path, **options))
        second = list(model.generate_many(["x", "y"], checkpoint=path, **options))
        for one, other in zip(first, second, strict=True):
            assert one.completion == other.completion
            assert other.completion.confidence == one.completion.confidence is not None


def test_a_structure_that_is_doubted_is_not_closed():
    with tiny_model() as model:
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": 30}
        completion = model.generate("x", schema=schema, max_tokens=200, abstain_below=0.9)
        assert completion.finish_reason == "abstain"
        assert len(completion.token_ids) == FIRST_LOOK
        assert completion.parsed is None
        whole = model.generate("x", choices=["yes"], abstain_below=1.0)
        assert (whole.text, whole.finish_reason) == ("yes", "abstain")


def test_a_call_in_an_answer_that_is_doubted_is_no_reason_to_go_on():
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    messages = [{"role": "user", "content": "x"}]
    with ScriptedModel([call, call + "!"]) as model:
        options = {"tool_syntax": "hermes", "temperature": 0, "abstain_below": 0.9}
        sure = model.chat(messages, max_tokens=80, **options)
        assert (sure.finish_reason, len(sure.tool_calls)) == ("tool_calls", 1)
        # What is drawn instead of the forbidden token is next to impossible to the model.
        doubted = model.chat(messages, max_tokens=80, bad_words=["!"], **options)
        assert (doubted.finish_reason, len(doubted.tool_calls)) == ("abstain", 1)
        assert len(doubted.token_ids) == len(call) + 1


def test_a_held_sequence_keeps_what_was_generated():
    with tiny_model() as model, model.prefill("x") as sequence:
        before = len(sequence)
        completion = sequence.generate(max_tokens=40, temperature=1.0, seed=2, abstain_below=0.9)
        assert completion.finish_reason == "abstain"
        assert len(sequence) == before + len(completion.token_ids)
        sequence.rewind(len(completion.token_ids))
        assert len(sequence) == before


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan"), "0.5", True])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(RequestError) as caught:
        SamplingParams(abstain_below=value)
    assert caught.value.field == "abstain_below"


def test_the_confidence_of_logprobs():
    assert confidence_of([]) == 1.0
    assert confidence_of([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)
