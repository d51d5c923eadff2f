"""``thinking_budget``: where it is used up, the end of the reasoning is all that can be drawn."""

from __future__ import annotations

import asyncio
import json

import pytest

from inferlib import RequestError
from inferlib.output_reading import OutputReader
from inferlib.output_syntax.reasoning_meter import ReasoningMeter, count_reasoning_tokens
from inferlib.testing import ScriptedModel, byte_tokenizer, tiny_model
from inferlib.thinking import BudgetedSequence, ThinkingBudget

MESSAGES = [{"role": "user", "content": "x"}]
PLAIN = "{{ bos_token }}{{ messages[-1].content }}"
THINKING = PLAIN + "{# <think> #}"
OPENED = PLAIN + "<think>\n"
HARMONY = PLAIN + "{# <|channel|> <|message|> #}<|start|>assistant"
THOUGHTS = "abcdef"
ANSWER = f"<think>{THOUGHTS}</think>answer"
GREEDY = {"temperature": 0, "max_tokens": 120}


def text_of(completion):
    return completion.outputs[0].raw_text


@pytest.mark.parametrize("speculation", ["auto", "off"])
@pytest.mark.parametrize("budget", [*range(9), 1000, None])
def test_at_most_so_many_tokens_are_reasoning(budget, speculation):
    with ScriptedModel(lambda _: ANSWER, chat_template=THINKING) as model:
        completion = model.chat(MESSAGES, thinking_budget=budget, speculation=speculation, **GREEDY)
        kept = THOUGHTS if budget is None else THOUGHTS[:budget]
        begun = f"<think>{kept}</think>"
        # The script goes on where it would be.
        assert text_of(completion) == begun + ANSWER[len(begun) :]
        assert completion.reasoning == (kept or None)
        assert completion.usage.reasoning_tokens == len(kept)
        assert completion.usage.output_tokens == len(completion.token_ids)
        with model.stream_chat(
            MESSAGES, thinking_budget=budget, speculation=speculation, **GREEDY
        ) as stream:
            deltas = list(stream)
        assert "".join(delta.reasoning for delta in deltas) == kept
        assert "".join(delta.text for delta in deltas) == completion.text
        assert stream.completion.token_ids == completion.token_ids


def test_what_must_follow_takes_no_steps_of_its_own():
    with ScriptedModel(lambda _: ANSWER, chat_template=THINKING) as model:
        told = model.chat(MESSAGES, thinking_budget=2, **GREEDY)
        untold = model.chat(MESSAGES, thinking_budget=2, speculation="off", **GREEDY)
        assert told.token_ids == untold.token_ids
        assert told.usage.forced_tokens == len("</think>")
        assert untold.usage.forced_tokens == 0
        assert untold.run["num_steps"] - told.run["num_steps"] >= len("</think>") - 1


def test_drafts_beyond_the_budget_are_not_taken():
    thoughts = "so so so so so so so so so so so so so so "
    for budget in range(0, 40, 3):
        results = []
        for speculation in ("off", "auto"):
            with ScriptedModel(lambda _: f"{thoughts}</think>yes", chat_template=OPENED) as model:
                completion = model.chat(
                    MESSAGES, thinking_budget=budget, speculation=speculation, **GREEDY
                )
                results.append((completion.token_ids, completion.usage.reasoning_tokens))
                assert text_of(completion).startswith(f"{thoughts[:budget]}</think>")
        assert results[0] == results[1]
        assert results[0][1] == budget


@pytest.mark.parametrize("budget", [0, 5])
def test_a_real_model_closes_what_the_template_opened(budget):
    runs = []
    for load in ({}, {"speculation": "off"}, {"max_num_batched_tokens": 16}):
        with tiny_model(chat_template=OPENED + "x" * 60, **load) as model:
            completion = model.chat(
                MESSAGES,
                thinking_budget=budget,
                reasoning_syntax="think",
                temperature=1.0,
                seed=4,
                n=3,
                max_tokens=40,
            )
            runs.append([output.token_ids for output in completion.outputs])
    assert runs[0] == runs[1] == runs[2]
    with tiny_model(chat_template=OPENED) as model:
        completion = model.chat(MESSAGES, thinking_budget=budget, seed=4, n=3, max_tokens=40)
        for output in completion.outputs:
            assert bytes(output.token_ids[budget : budget + 8]) == b"</think>"
        assert completion.usage.reasoning_tokens == 3 * budget
        assert completion.outputs[0].token_ids != completion.outputs[1].token_ids or budget == 0
        # A sequence is the same whoever runs beside it.
        others = [model.submit("y", max_tokens=30) for _ in range(3)]
        alone = model.chat(MESSAGES, thinking_budget=budget, seed=4, max_tokens=40)
        assert alone.token_ids == completion.token_ids
        assert all(other.result() for other in others)


def test_a_block_that_is_opened_again_is_closed_at_once():
    script = "<think>abc</think>x<think>defgh</think>y"
    with ScriptedModel(lambda _: script, chat_template=THINKING) as model:
        completion = model.chat(MESSAGES, thinking_budget=4, **GREEDY)
        begun = "<think>abc</think>x<think>d</think>"
        assert text_of(completion) == begun + script[len(begun) :]
        assert completion.usage.reasoning_tokens == 4
        none = model.chat(MESSAGES, thinking_budget=0, **GREEDY)
        assert none.reasoning is None
        assert none.usage.reasoning_tokens == 0


def test_harmony_goes_over_to_the_answer():
    script = (
        "<|channel|>analysis<|message|>abcdef<|end|><|start|>assistant"
        "<|channel|>final<|message|>hello<|return|>"
    )
    # `<|end|>` is a token of this vocabulary by itself, and ends other texts.
    options = {"ignore_eos": True, "stop": "<|return|>", **GREEDY}
    with ScriptedModel(lambda _: script, chat_template=HARMONY) as model:
        begun = (
            "<|channel|>analysis<|message|>ab<|end|><|start|>assistant<|channel|>final<|message|>"
        )
        completion = model.chat(MESSAGES, thinking_budget=2, **options)
        rest = script[len(begun) - len("<|end|>") + 1 :].removesuffix("<|return|>")
        assert text_of(completion) == begun + rest
        assert (completion.reasoning, completion.text) == ("ab", rest)
        assert completion.usage.reasoning_tokens == 2
        free = model.chat(MESSAGES, thinking_budget=20, **options)
        assert (free.reasoning, free.text) == ("abcdef", "hello")


def test_what_begins_like_the_marker_is_gone_on_with():
    script = "<think>ab</th" + "?" * 40
    with ScriptedModel(lambda _: script, chat_template=THINKING) as model:
        completion = model.chat(MESSAGES, thinking_budget=6, **GREEDY)
        assert text_of(completion).startswith("<think>ab</think>?")
        assert completion.usage.reasoning_tokens == 2


def test_text_in_a_call_is_no_reasoning():
    call = '<tool_call>{"name": "f", "arguments": {"a": "<think>no more</a>"}}</tool_call>'
    with ScriptedModel(lambda _: call, chat_template=THINKING) as model:
        completion = model.chat(MESSAGES, thinking_budget=1, tool_syntax="hermes", **GREEDY)
        assert completion.tool_calls[0].arguments == {"a": "<think>no more</a>"}
        assert completion.usage.reasoning_tokens == 0


def test_asynchronous_twins_and_long_runs(tmp_path):
    async def both(model):
        stream = model.astream_chat(MESSAGES, thinking_budget=3, **GREEDY)
        deltas = [delta async for delta in stream]
        return await model.achat(MESSAGES, thinking_budget=3, **GREEDY), deltas

    with ScriptedModel(lambda _: ANSWER, chat_template=THINKING) as model:
        expected = model.chat(MESSAGES, thinking_budget=3, **GREEDY)
        completion, deltas = asyncio.run(both(model))
        assert completion.token_ids == expected.token_ids
        assert [token for delta in deltas for token in delta.token_ids] == expected.token_ids
    with tiny_model(chat_template=OPENED) as model:
        options = {"seed": 1, "max_tokens": 20, "checkpoint": tmp_path / "run.jsonl"}
        first = list(model.chat_many([MESSAGES] * 2, thinking_budget=3, **options))
        second = list(model.chat_many([MESSAGES] * 2, thinking_budget=3, **options))
        assert [item.completion for item in first] == [item.completion for item in second]
        assert second[0].completion.usage.reasoning_tokens == 3


@pytest.mark.parametrize("continued", [None, "<think>ab"])
def test_a_receipt_tells_the_budget(continued):
    with tiny_model(chat_template=PLAIN + "{# <think> #}") as model:
        messages, options = MESSAGES, {}
        if continued is not None:
            messages = [*MESSAGES, {"role": "assistant", "content": continued}]
            options = {"continue_final_message": True}
        completion = model.chat(
            messages, thinking_budget=3, tool_syntax="hermes", max_tokens=30, **options
        )
        if continued is not None:
            assert bytes(completion.token_ids[3:11]) == b"</think>"
        receipt = json.loads(json.dumps(completion.receipt.to_dict()))
        assert receipt["thinking"]["budget"] == 3
        again = model.replay(receipt)
        assert again.token_ids == completion.token_ids
        receipt["thinking"]["budget"] = "three"
        with pytest.raises(RequestError):
            model.replay(receipt)


def test_reasoning_is_counted_without_a_budget():
    with ScriptedModel([ANSWER, "no thoughts"], chat_template=THINKING) as model:
        assert model.chat(MESSAGES, **GREEDY).usage.reasoning_tokens == len(THOUGHTS)
        assert model.chat(MESSAGES, **GREEDY).usage.reasoning_tokens == 0
    with ScriptedModel([ANSWER], chat_template=THINKING) as model:
        cut = model.chat(MESSAGES, temperature=0, max_tokens=9)
        assert cut.usage.reasoning_tokens == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thinking_budget": -1}, "-1"),
        ({"thinking_budget": 1.5}, "1.5"),
        ({"thinking_budget": "x"}, "x"),
        ({"thinking_budget": 5, "reasoning_syntax": "off"}, "marks no reasoning"),
        ({"thinking_budget": 5, "schema": {"type": "string"}}, "schema"),
        ({"thinking_budget": 5, "response_format": {"type": "json_object"}}, "schema"),
        ({"thinking_budget": 5, "regex": "a+"}, "regex"),
        ({"thinking_budget": 5, "choices": ["a"]}, "choices"),
        ({"thinking_budget": 5, "allowed_token_ids": [97, 98]}, "allowed_token_ids"),
        ({"thinking_budget": 5, "bad_words": ["a link>"]}, "bad word"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with ScriptedModel([], chat_template=THINKING) as model:
        with pytest.raises(RequestError, match=words) as caught:
            model.chat(MESSAGES, **options)
        assert caught.value.field == "thinking_budget"


def test_a_model_without_reasoning_refuses_a_budget():
    with tiny_model() as model:
        for call in (model.chat, model.stream_chat):
            with pytest.raises(RequestError, match="marks no reasoning") as caught:
                call(MESSAGES, thinking_budget=3)
            assert caught.value.field == "thinking_budget"


def test_bytes_without_text_are_followed_too():
    with tiny_model(chat_template=OPENED) as model:
        completion = model.chat(
            MESSAGES, thinking_budget=2, detokenize=False, seed=1, max_tokens=20
        )
        assert bytes(completion.token_ids[2:10]) == b"</think>"
        assert completion.usage.reasoning_tokens == 2


def meter_of(template, prompt="", **options):
    tokenizer = byte_tokenizer()
    reading = OutputReader(template, tokenizer).reading(prompt, tools=None, **options)
    return reading, lambda token: tokenizer.decode([token], skip_special=False)


def test_a_fork_goes_on_by_itself():
    reading, token_text = meter_of("<think>")
    meter = ReasoningMeter(reading, token_text)
    for token in b"<think>ab</th":
        meter.add(token)
    fork = meter.fork()
    for token in b"ink>":
        fork.add(token)
    assert (meter.num_tokens, fork.num_tokens) == (6, 2)
    assert meter.region is not None
    assert fork.region is None
    for token in b"xy":
        meter.add(token)
    assert (meter.num_tokens, fork.num_tokens) == (8, 2)
    assert count_reasoning_tokens(reading, b"<think>ab</thinxy", token_text) == 10


def test_a_budget_is_a_function_of_the_tokens():
    reading, token_text = meter_of("<think>", "<think>")
    budget = ThinkingBudget(
        2, reading, unfinished=None, tokenizer=byte_tokenizer(), token_text=token_text
    )
    sequence = BudgetedSequence(budget)
    assert sequence.pending == []
    sequence.add(ord("a"))
    fork = sequence.fork()
    fork.add(ord("b"))
    assert (bytes(sequence.pending), bytes(fork.pending)) == (b"", b"</think>")
    for count, token in enumerate(b"</think>", 1):
        fork.add(token)
        assert bytes(fork.pending) == b"</think>"[count:]
    assert (sequence.num_tokens, fork.num_tokens) == (1, 10)
