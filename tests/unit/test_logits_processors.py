"""``logits_processors``: callables of the caller between the model and the sampler."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from tests.unit.answers import shape

from inferlib import LogitsProcessorError, ReentrantCallError, RequestError
from inferlib.logits_processing import process
from inferlib.testing import ScriptedModel, tiny_model

GREEDY = {"temperature": 0, "max_tokens": 12}
PROMPT = "abcabcabcabc"


@pytest.fixture(scope="module")
def model():
    with tiny_model() as model:
        yield model
        stats = model.stats()
        assert stats["free_blocks"] == stats["total_blocks"]
        assert not any(model._engine._companions.num_known().values())


def nothing(_token_ids, _logits):
    return None


def forbid(*forbidden):
    def processor(_token_ids, logits):
        logits[list(forbidden)] = -np.inf

    return processor


def add(bias):
    def processor(_token_ids, logits):
        return logits + bias

    return processor


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        {"temperature": 1.0, "seed": 3, "max_tokens": 12, "n": 3},
        {"temperature": 1.0, "seed": 3, "max_tokens": 12, "top_k": 20, "logprobs": 3},
        {"seed": 3, "max_tokens": 12, "logprobs": 3, "logprobs_mode": "processed", "top_p": 0.9},
        {"seed": 3, "max_tokens": 12, "repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"seed": 3, "max_tokens": 12, "mirostat": 2},
        {"seed": 3, "max_tokens": 12, "no_repeat_ngram_size": 2, "bad_words": ["a"], "logprobs": 0},
        {**GREEDY, "regex": "[a-f]{1,10}"},
        {**GREEDY, "prompt_logprobs": 1, "stop": "x"},
        {**GREEDY, "abstain_below": 0.5},
    ],
    ids=str,
)
def test_processors_that_change_nothing_change_nothing(model, options):
    plain = model.generate(PROMPT, **options)
    for processors in ([nothing], [lambda _tokens, logits: logits] * 2, [], None):
        processed = model.generate(PROMPT, logits_processors=processors, **options)
        assert shape(processed) == shape(plain)
        assert processed.prompt_logprobs == plain.prompt_logprobs
        stream = model.stream(PROMPT, logits_processors=processors, **options)
        assert [token for delta in stream for token in delta.token_ids if delta.index == 0] == (
            plain.token_ids
        )


def test_they_see_the_tokens_so_far_and_the_models_logits(model):
    seen = []

    def look(token_ids, logits):
        assert (token_ids.dtype, logits.dtype) == (np.int32, np.float32)
        assert not token_ids.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            token_ids[0] = 1
        seen.append((token_ids, logits.copy()))

    completion = model.generate(
        PROMPT, logits_processors=[look], logprobs=0, logit_bias={97: 5.0}, **GREEDY
    )
    prompt = completion.prompt_token_ids
    assert [tokens.tolist() for tokens, _ in seen] == [
        prompt + completion.token_ids[:count] for count in range(12)
    ]
    # The biases act later, and raw log-probabilities are of what was seen.
    for (_, logits), token, row in zip(
        seen, completion.token_ids, completion.logprobs, strict=True
    ):
        logprobs = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
        assert row[token].logprob == pytest.approx(logprobs[token], abs=1e-5)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_bias_is_a_processor(model, temperature):
    options = {"temperature": temperature, "seed": 5, "max_tokens": 20, "n": 2, "logprobs": 2}
    bias = {97: 3.0, 98: -2.5, 200: 4.0}
    vector = np.zeros(258, np.float32)
    vector[list(bias)] = list(bias.values())
    expected = shape(model.generate(PROMPT, logit_bias=bias, **options))
    assert expected != shape(model.generate(PROMPT, **options))
    for processors in (
        [add(vector)],
        [add(vector.astype(np.float64))],
        [add(2 * vector), add(-vector)],
    ):
        assert shape(model.generate(PROMPT, logits_processors=processors, **options)) == expected


def test_what_they_forbid_is_not_drawn_and_masks_hold_whatever_they_return(model):
    plain = model.generate(PROMPT, **GREEDY)
    forbidden = set(plain.token_ids)
    changed = model.generate(PROMPT, logits_processors=[forbid(*forbidden)], **GREEDY)
    assert not forbidden & set(changed.token_ids)

    def wish(_token_ids, logits):
        logits[ord("z")] = 1e6

    text = model.generate(PROMPT, logits_processors=[wish], regex="[a-f]{8}", **GREEDY).text
    assert len(text) == 8
    assert set(text) <= set("abcdef")
    assert model.generate(PROMPT, logits_processors=[wish], **GREEDY).text == "z" * 12


def test_they_are_of_their_own_request_only(model):
    counts = {"a": 0, "b": 0}

    def counting(name):
        def processor(_token_ids, _logits):
            counts[name] += 1

        return processor

    plain = model.generate(PROMPT, **GREEDY)
    handles = [
        model.submit(PROMPT, logits_processors=[counting("a")], **GREEDY),
        model.submit(PROMPT, **GREEDY),
        model.submit(PROMPT, logits_processors=[counting("b")], n=2, **GREEDY),
        model.submit(PROMPT, logits_processors=[forbid(*plain.token_ids)], **GREEDY),
    ]
    results = [handle.result() for handle in handles]
    assert counts == {"a": 12, "b": 24}
    assert [result.token_ids == plain.token_ids for result in results] == [True, True, True, False]
    assert results[0].usage.drafted_tokens == 0


def test_an_exception_ends_its_request_alone(model):
    def fails(token_ids, _logits):
        if len(token_ids) > len(PROMPT) + 5:
            raise ZeroDivisionError("on purpose")

    plain = model.generate(PROMPT, **GREEDY)
    other = model.submit(PROMPT, **GREEDY)
    failing = model.submit(PROMPT, logits_processors=[nothing, fails], n=2, **GREEDY)
    with pytest.raises(LogitsProcessorError, match=r"logits_processors\[1\] raised Zero") as caught:
        failing.result()
    assert caught.value.field == "logits_processors"
    assert caught.value.code == "logits_processor"
    assert isinstance(caught.value, RequestError)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
    assert other.result().token_ids == plain.token_ids
    stream = model.stream(PROMPT, logits_processors=[fails], **GREEDY)
    with pytest.raises(LogitsProcessorError):
        list(stream)
    assert model.generate(PROMPT, **GREEDY).token_ids == plain.token_ids


def test_long_runs_go_on_after_an_exception(model, tmp_path):
    def fails(token_ids, _logits):
        if token_ids[0] == ord("!"):
            raise KeyError("!")

    items = list(model.generate_many(["x", "!", "y"], logits_processors=[fails], **GREEDY))
    assert [type(item.error) for item in items] == [type(None), LogitsProcessorError, type(None)]
    with pytest.raises(RequestError, match="checkpoint") as caught:
        model.generate_many(
            ["x"], checkpoint=tmp_path / "run.jsonl", logits_processors=[fails], **GREEDY
        )
    assert caught.value.field == "logits_processors"
    assert not (tmp_path / "run.jsonl").exists()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda logits: logits[:-1], "shape"),
        (lambda logits: logits[None], "shape"),
        (lambda logits: logits * np.nan, "NaN"),
        (lambda logits: logits + np.inf, "inf"),
        (lambda logits: logits.astype(np.float64) + 1e300, "inf"),
        (lambda logits: logits.astype(np.int64), "int64"),
        (lambda logits: logits.tolist(), "array of floats"),
        (lambda _logits: 1.0, "array of floats"),
        (lambda _logits: np.array(["x"]), "array of"),
    ],
)
def test_what_are_no_logits_is_a_typed_error(model, result, words):
    with pytest.raises(LogitsProcessorError, match=words) as caught:
        model.generate(PROMPT, logits_processors=[lambda _t, logits: result(logits)], **GREEDY)
    assert caught.value.field == "logits_processors"


def test_logits_made_nan_in_place_are_found(model):
    def spoil(_token_ids, logits):
        logits[3] = np.nan

    with pytest.raises(LogitsProcessorError, match=r"\[0\] returned NaN"):
        model.generate(PROMPT, logits_processors=[spoil], **GREEDY)


def test_a_model_that_gives_nan_is_not_their_fault():
    with tiny_model(nan_token_id=7) as model:
        called = []
        completion = model.generate([1, 7], logits_processors=[called.append], max_tokens=3)
        assert (completion.finish_reason, called) == ("error", [])


def test_forbidding_everything_is_an_error_of_that_sequence(model):
    completion = model.generate(PROMPT, logits_processors=[forbid(*range(258))], **GREEDY)
    assert (completion.finish_reason, completion.token_ids) == ("error", [])


@pytest.mark.parametrize("driver", ["caller", "thread"])
def test_calling_the_model_in_one_is_refused(driver):
    with tiny_model(driver=driver) as model:
        refusals = []

        def calls(_token_ids, _logits):
            for call in (
                lambda: model.generate("y", **GREEDY),
                lambda: model.submit("y", **GREEDY),
                lambda: model.stream("y", **GREEDY),
                model.stats,
                model.close,
            ):
                with pytest.raises(ReentrantCallError) as refused:
                    call()
                refusals.append(refused.value)

        assert model.generate("x", logits_processors=[calls], max_tokens=2).usage.output_tokens == 2
        assert len(refusals) == 10

        def careless(_token_ids, _logits):
            model.generate("y", **GREEDY)

        with pytest.raises(LogitsProcessorError) as caught:
            model.generate("x", logits_processors=[careless], **GREEDY)
        assert isinstance(caught.value.__cause__.__cause__, ReentrantCallError)
        assert model.generate("x", **GREEDY).finish_reason == "length"


def test_an_interrupt_in_one_is_an_interrupt(model):
    plain = model.generate(PROMPT, **GREEDY)
    left = [5]

    def interrupts(_token_ids, _logits):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    other = model.submit(PROMPT, **GREEDY)
    handle = model.submit(PROMPT, logits_processors=[interrupts], **GREEDY)
    with pytest.raises(KeyboardInterrupt):
        handle.result()
    assert handle.result().token_ids == plain.token_ids
    assert other.result().token_ids == plain.token_ids


def test_event_loops_and_threads_get_the_same(model):
    plain = model.generate(PROMPT, logits_processors=[forbid(97)], **GREEDY)

    async def both():
        options = {"logits_processors": [forbid(97)], **GREEDY}
        completions = await asyncio.gather(*[model.agenerate(PROMPT, **options) for _ in range(3)])
        deltas = [delta async for delta in model.astream(PROMPT, **options)]
        return completions, deltas

    completions, deltas = asyncio.run(both())
    assert all(each.token_ids == plain.token_ids for each in completions)
    assert [token for delta in deltas for token in delta.token_ids] == plain.token_ids
    results = []

    def run():
        options = {"logits_processors": [forbid(97)], **GREEDY}
        results.append(model.generate(PROMPT, **options).token_ids)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [plain.token_ids] * 4


def test_preemption_and_chunks_change_nothing():
    options = {"temperature": 1.0, "seed": 2, "max_tokens": 40, "logits_processors": [forbid(97)]}
    results = []
    for load in ({}, {"kv_cache": "96 tokens", "max_num_batched_tokens": 16}):
        with tiny_model(max_position_embeddings=96, **load) as model:
            handles = [model.submit(f"{PROMPT}{i}", **options) for i in range(4)]
            results.append([handle.result().token_ids for handle in handles])
    assert results[0] == results[1]


def test_there_is_no_receipt():
    with tiny_model() as model:
        completion = model.generate("x", logits_processors=[nothing], **GREEDY)
        assert completion.is_processed
        with pytest.raises(ValueError, match="logits_processors"):
            _ = completion.receipt
        assert model.generate("x", logits_processors=[], **GREEDY).receipt is not None


def test_a_held_sequence_and_a_conversation_take_them(model):
    messages = [{"role": "user", "content": "x"}]
    plain = model.chat(messages, **GREEDY)
    changed = model.chat(messages, logits_processors=[forbid(*plain.token_ids)], **GREEDY)
    assert not set(plain.token_ids) & set(changed.token_ids)
    with model.prefill(PROMPT) as sequence:
        completion = sequence.generate(logits_processors=[forbid(97, 98)], **GREEDY)
        assert not {97, 98} & set(completion.token_ids)


def test_a_budget_of_reasoning_holds_beside_them():
    def wish(token_ids, logits):
        if token_ids[-1] == ord("b"):
            logits[ord("z")] = 1e9

    messages = [{"role": "user", "content": "x"}]
    with ScriptedModel(lambda _: "<think>abcdef", chat_template="x{# <think> #}") as model:
        options = {"logits_processors": [wish], "temperature": 0, "max_tokens": 20}
        completion = model.chat(messages, **options)
        assert bytes(completion.token_ids[:12]) == b"<think>abzde"
        completion = model.chat(messages, thinking_budget=2, **options)
        assert bytes(completion.token_ids[:17]) == b"<think>ab</think>"


@pytest.mark.parametrize("value", [nothing, int, [None], "x", 5, {"a": 1}, [nothing] * 65, [[]]])
def test_what_are_no_callables_is_refused(model, value):
    with pytest.raises(RequestError) as caught:
        model.generate("x", logits_processors=value)
    assert caught.value.field == "logits_processors"


def test_rows_stay_as_they_are():
    logits = np.arange(4, dtype=np.float32)
    tokens = np.arange(2, dtype=np.int32)
    kept = []

    def keeps(_token_ids, given):
        given[0] = -np.inf
        kept.append(given)
        return given

    result = process([keeps, add(1.0)], tokens, logits)
    assert logits.tolist() == [0, 1, 2, 3]
    assert result.tolist() == [-np.inf, 2, 3, 4]
    kept[0][1] = 9
    assert result.dtype == np.float32
    assert result.tolist() == [-np.inf, 2, 3, 4]
