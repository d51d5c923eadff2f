"""The test kit: scripted answers at a fake time, and faults that come when they were ordered."""

from __future__ import annotations

import pytest

import inferlib
from inferlib.testing import Faults, ScriptedModel, tiny_model

GREEDY = {"temperature": 0, "ignore_eos": True}


def test_answers_come_in_the_order_of_requests():
    with ScriptedModel(["first", "second", "zwölf 🌊"]) as model:
        handles = [model.submit(prompt) for prompt in ("a", "b", "c")]
        assert [handle.result().text for handle in reversed(handles)] == [
            "zwölf 🌊",
            "second",
            "first",
        ]
        assert model.prompts == ["a", "b", "c"]
        assert handles[0].result().finish_reason == "stop"
        with pytest.raises(inferlib.RequestError, match="no answer left after 3"):
            model.generate("d")
        stats = model.stats()
        assert stats["free_blocks"] == stats["total_blocks"]


def test_each_sequence_has_an_answer_of_its_own():
    with ScriptedModel(["one", "two", "three"]) as model:
        assert [output.text for output in model.generate("x", n=2).outputs] == ["one", "two"]
        assert model.generate("x").text == "three"


def test_a_function_answers_prompts_and_conversations():
    with ScriptedModel(str.upper) as model:
        assert [each.text for each in model.generate(["ab", "cd"] * 20)] == ["AB", "CD"] * 20
        answer = model.chat([{"role": "user", "content": "hi"}])
        assert answer.text == "USER: HI\nASSISTANT: "
        assert "".join(map(str, model.stream("abc"))) == "ABC"


def test_options_act_on_what_the_script_wishes():
    with ScriptedModel(lambda _: "abcdef") as model:
        assert model.generate("x", max_tokens=3).finish_reason == "length"
        assert model.generate("x", stop="d").text == "abc"
        assert model.generate("x", temperature=1000.0, seed=1).text == "abcdef"
        assert model.generate("x", regex="a[x-z]").text[0] == "a"
        assert model.generate("x", bad_words=["b"]).text[1] != "b"
        completion = model.generate("x", logprobs=1, prompt_logprobs=0)
        best = [min(each, key=lambda i: each[i].rank) for each in completion.outputs[0].logprobs]
        assert bytes(best[:6]) == b"abcdef"


def test_preemption_and_prefix_cache_change_no_answer():
    prompts = [f"{'shared ' * 8}{index}" for index in range(12)]
    with ScriptedModel(
        lambda prompt: prompt[-9:] * 4, max_position_embeddings=256, kv_cache="320 tokens"
    ) as model:
        assert [each.text for each in model.generate(prompts)] == [p[-9:] * 4 for p in prompts]
        assert model.stats()["preemptions"] > 0
        assert model.stats()["cached_tokens"] > 0


def test_time_passes_by_the_script_only():
    with ScriptedModel(lambda _: "abcd", seconds_per_step=0.5, speculation="off") as model:
        timings = model.generate("x").timings
        assert (timings.prefill, timings.total, timings.tokens_per_second) == (0.5, 2.5, 2.0)
        ended = model.generate("x", deadline=1.0)
        assert (ended.finish_reason, ended.text) == ("deadline", "ab")
        handle = model.submit("x", deadline=60.0)
        model.clock.advance(61.0)
        assert handle.result().finish_reason == "deadline"
        with pytest.raises(inferlib.RequestError, match="seconds"):
            model.clock.advance(-1)


def test_options_of_a_scripted_model_are_checked():
    with pytest.raises(inferlib.UnknownKeywordError):
        ScriptedModel(["x"], thread=1)
    with pytest.raises(inferlib.RequestError, match="seconds_per_step"):
        ScriptedModel(["x"], seconds_per_step=-1)
    with ScriptedModel([3]) as model, pytest.raises(inferlib.RequestError, match="not int"):
        model.generate("x")


def test_a_fault_comes_when_it_was_ordered_and_once():
    faults = Faults()
    with tiny_model(faults=faults) as model:
        faults.fail_step(after=3)
        assert model.generate("x", max_tokens=3, **GREEDY).token_ids
        assert faults.num_steps == 3
        with pytest.raises(inferlib.ExecutorError, match="injected"):
            model.generate("x", max_tokens=3, **GREEDY)
        assert model.generate("x", max_tokens=3, **GREEDY).token_ids


def test_an_order_can_be_withdrawn():
    faults = Faults()
    with ScriptedModel(lambda _: "a", faults=faults) as model:
        faults.fail_allocation()
        faults.clear()
        assert model.generate("x").text == "a"
        faults.fail_allocation()
        with pytest.raises(inferlib.OutOfMemoryError):
            model.generate("x")


def test_a_weight_that_finds_no_memory_ends_the_loading():
    faults = Faults()
    faults.fail_loading(after=2)
    with pytest.raises(inferlib.OutOfMemoryError) as raised:
        tiny_model(faults=faults)
    assert raised.value.required > raised.value.available


def test_a_scripted_model_has_no_rust_that_could_panic():
    faults = Faults()
    with ScriptedModel(["a", "b"], faults=faults) as model:
        faults.panic()
        with pytest.raises(inferlib.ExecutorError, match="CPU"):
            model.generate("x")
        assert model.generate("x").text == "b"
