"""The whole path on a tiny random model: real tokenizer, scheduler, kernels and text streams."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from inferlib import RequestError, TemplateError
from inferlib.testing import BOS_ID, EOS_ID, VOCAB_SIZE, byte_tokenizer, tiny_model

GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def shared_model():
    with tiny_model() as model:
        yield model


@pytest.fixture
def model(shared_model):
    yield shared_model
    assert_all_blocks_are_free(shared_model)


def assert_all_blocks_are_free(model):
    """No request and no used block is left, once the step that runs now is over."""
    model._engine._driver.wait_idle(30)
    stats = model.stats()
    assert (stats["running_sequences"], stats["waiting_sequences"]) == (0, 0)
    assert stats["free_blocks"] == stats["total_blocks"]
    assert not any(model._engine._companions.num_known().values())
    model._engine._scheduler.check_integrity()


def prompts_of_many_lengths(count):
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, length).tolist() for length in range(1, 4 * count, 4)]


class TestSameAnswers:
    def test_the_same_seed_makes_the_same_model(self, model):
        expected = model.generate("hello", max_tokens=20, **GREEDY).token_ids
        with tiny_model() as twin:
            assert twin.generate("hello", max_tokens=20, **GREEDY).token_ids == expected
        with tiny_model(seed=1) as other:
            assert other.generate("hello", max_tokens=20, **GREEDY).token_ids != expected

    def test_a_batch_gives_what_single_calls_give(self, model):
        prompts = prompts_of_many_lengths(24)
        together = model.generate(prompts, max_tokens=12, **GREEDY)
        for prompt, completion in zip(prompts, together, strict=True):
            alone = model.generate(prompt, max_tokens=12, **GREEDY)
            assert alone.token_ids == completion.token_ids

    @pytest.mark.parametrize(
        "options",
        [
            {"max_num_batched_tokens": 7},
            {"kv_cache": "160 tokens"},
            {"enable_prefix_caching": False},
            {"max_num_seqs": 2},
            {"threads": 2},
            {"driver": "thread"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_whatever_the_engine_does_the_tokens_stay(self, model, options):
        prompts = prompts_of_many_lengths(24)
        expected = model.generate(prompts, max_tokens=40, seed=5)
        with tiny_model(**options) as other:
            completions = other.generate(prompts, max_tokens=40, seed=5)
            if "kv_cache" in options:
                assert other.stats()["preemptions"] > 0
            assert_all_blocks_are_free(other)
        assert [each.token_ids for each in completions] == [each.token_ids for each in expected]

    def test_a_hot_prefix_cache_changes_no_token(self, model):
        prompt = "the same long beginning " * 8
        cold = model.generate(prompt, max_tokens=8, cache_salt="own", **GREEDY)
        hot = model.generate(prompt, max_tokens=8, cache_salt="own", **GREEDY)
        other = model.generate(prompt, max_tokens=8, cache_salt="other", **GREEDY)
        assert (cold.num_cached_tokens, other.num_cached_tokens) == (0, 0)
        assert hot.num_cached_tokens >= 176
        assert hot.token_ids == cold.token_ids == other.token_ids

    def test_sequences_are_reproducible_alone(self, model):
        three = model.generate("x", n=3, seed=11, max_tokens=10, ignore_eos=True)
        one = model.generate("x", n=1, seed=11, max_tokens=10, ignore_eos=True)
        assert three.outputs[0].token_ids == one.token_ids
        assert len({tuple(each.token_ids) for each in three.outputs}) == 3

    def test_a_reported_seed_repeats_the_answer(self, model):
        first = model.generate("x", max_tokens=30)
        again = model.generate("x", max_tokens=30, seed=first.params.seed)
        assert again.token_ids == first.token_ids


class TestOptions:
    def test_stop_strings_across_tokens(self, model):
        text = model.generate("abc", max_tokens=40, skip_special_tokens=False, **GREEDY).text
        stop = text[5:9]
        completion = model.generate("abc", max_tokens=40, stop=[stop, "never"], **GREEDY)
        assert completion.text == text[: text.index(stop)]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
        streamed = list(model.stream("abc", max_tokens=40, stop=stop, **GREEDY))
        assert "".join(delta.text for delta in streamed) == completion.text
        assert streamed[-1].stop_reason == stop

    def test_min_tokens_comes_before_stop_strings(self, model):
        text = model.generate("abc", max_tokens=40, **GREEDY).text
        completion = model.generate("abc", max_tokens=40, stop=text[0], min_tokens=20, **GREEDY)
        assert len(completion.token_ids) >= 20

    def test_allowed_tokens_and_end_of_sequence(self, model):
        completion = model.generate("x", allowed_token_ids=[EOS_ID], max_tokens=5)
        assert completion.token_ids == [EOS_ID]
        assert (completion.text, completion.finish_reason) == ("", "stop")
        kept = model.generate(
            "x",
            allowed_token_ids=[EOS_ID],
            max_tokens=5,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
        )
        assert kept.text == "<|end|>"

    def test_logit_bias_and_bad_words(self, model):
        biased = model.generate("x", logit_bias={65: 1000}, max_tokens=4, **GREEDY)
        assert biased.text == "AAAA"
        banned = model.generate(
            "x", logit_bias={65: 1000}, bad_words=["AA"], max_tokens=6, **GREEDY
        )
        assert "AA" not in banned.text
        assert banned.text[0] == "A"

    def test_logprobs_are_a_distribution(self, model):
        completion = model.generate("x", logprobs=5, max_tokens=6, **GREEDY)
        for token_id, logprobs in zip(completion.token_ids, completion.logprobs, strict=True):
            assert logprobs[token_id].rank == 1
            values = [each.logprob for each in logprobs.values()]
            assert values == sorted(values, reverse=True)
            assert np.exp(values).sum() < 1 + 1e-5
        assert completion.outputs[0].cumulative_logprob < 0

    def test_prompt_logprobs_agree_with_generated_ones(self, model):
        first = model.generate("x", logprobs=0, max_tokens=6, **GREEDY)
        prompt = first.prompt_token_ids + first.token_ids
        scored = model.generate(prompt, prompt_logprobs=0, max_tokens=0)
        assert scored.prompt_logprobs[0] is None
        assert scored.token_ids == []
        for entry, logprobs, token_id in zip(
            scored.prompt_logprobs[1:], first.logprobs, first.token_ids, strict=True
        ):
            assert entry[token_id].logprob == pytest.approx(logprobs[token_id].logprob, abs=1e-4)

    def test_prompt_logprobs_may_start_later(self, model):
        scored = model.generate("abcdef", prompt_logprobs=1, prompt_logprobs_start=4, max_tokens=1)
        assert [entry is not None for entry in scored.prompt_logprobs] == [False] * 4 + [True] * 2

    def test_requests_with_and_without_text_in_one_batch(self, model):
        without = model.submit("x", max_tokens=9, detokenize=False, **GREEDY)
        with_text = model.submit("x", max_tokens=9, **GREEDY)
        assert without.result().token_ids == with_text.result().token_ids
        assert (without.result().text, bool(with_text.result().text)) == ("", True)

    def test_token_ids_beyond_the_vocabulary_are_refused(self, model):
        with pytest.raises(RequestError, match=r"258") as raised:
            model.generate([VOCAB_SIZE])
        assert raised.value.field == "prompt"
        for option in ("stop_token_ids", "allowed_token_ids"):
            with pytest.raises(RequestError) as raised:
                model.generate("x", **{option: [VOCAB_SIZE]})
            assert raised.value.field == option
        with pytest.raises(RequestError) as raised:
            model.generate("x", logit_bias={VOCAB_SIZE: 1})
        assert raised.value.field == "logit_bias"

    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
    def test_lone_surrogates_are_refused(self, model, text):
        with pytest.raises(RequestError, match="surrogate"):
            model.generate(text)

    def test_nul_and_any_other_character_come_through(self, model):
        text = "\x00\u2028é漢🌊\U000e0001"
        completion = model.generate(text, max_tokens=1)
        assert bytes(completion.prompt_token_ids) == text.encode()

    def test_chat(self, model):
        messages = [{"role": "user", "content": "Hi"}]
        completion = model.chat(messages, max_tokens=2)
        assert completion.prompt == "<|begin|>user: Hi\n<|begin|>assistant: "
        assert completion.prompt_token_ids.count(BOS_ID) == 2
        assert completion.prompt_token_ids[0] == BOS_ID
        messages.append({"role": "assistant", "content": "Well, "})
        goes_on = model.chat(messages, continue_final_message=True, max_tokens=2)
        assert goes_on.prompt.endswith("assistant: Well, ")

    def test_templates_that_fail_leave_the_model_usable(self):
        with tiny_model(chat_template="{{ raise_exception('only users') }}") as model:
            with pytest.raises(TemplateError, match="only users"):
                model.chat([{"role": "user", "content": "Hi"}])
            assert model.generate("x", max_tokens=1).token_ids
        with pytest.raises(TemplateError):
            tiny_model(chat_template="{% if %}")


class TestRefusals:
    def test_what_the_context_or_the_cache_cannot_hold(self):
        with tiny_model(kv_cache="64 tokens", max_model_len=128) as model:
            with pytest.raises(RequestError, match="128"):
                model.generate("x" * 200)
            with pytest.raises(RequestError, match="KV cache") as raised:
                model.generate("x" * 80)
            assert raised.value.field == "prompt"
            with pytest.raises(RequestError, match="KV cache") as raised:
                model.generate("x" * 40, max_tokens=50)
            assert raised.value.field == "max_tokens"
            assert len(model.generate("x" * 40, ignore_eos=True).token_ids) == 25

    def test_a_context_longer_than_the_model_can(self):
        with pytest.raises(RequestError, match="made for") as raised:
            tiny_model(max_model_len=5000)
        assert raised.value.field == "max_model_len"

    def test_settings(self):
        with pytest.raises(TypeError, match="did you mean kv_cache"):
            tiny_model(kv_cach="1GiB")
        with pytest.raises(ValueError, match="precision"):
            tiny_model(precision="low")


class TestCancelling:
    def test_a_thousand_cancels_at_every_stage_leave_nothing(self, model):
        generator = np.random.default_rng(0)
        for turn in range(250):
            handles = [
                model.submit("x" * int(generator.integers(1, 90)), max_tokens=40) for _ in range(3)
            ]
            stream = model.stream("y", max_tokens=40, n=2)
            for _ in range(int(generator.integers(0, 4))):
                next(stream, None)
            if turn % 2:
                for handle in handles:
                    handle.cancel()
                stream.close()
            del handles, stream
        gc.collect()
        assert_all_blocks_are_free(model)

    def test_an_async_crowd_that_is_cancelled(self, model):
        async def main():
            tasks = [
                asyncio.create_task(
                    model.agenerate("x" * (index % 50 + 1), max_tokens=900, ignore_eos=True)
                )
                for index in range(60)
            ]
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in outcomes)

        asyncio.run(main())
        gc.collect()


def test_many_models_at_once_are_independent():
    models = [tiny_model(seed=seed) for seed in range(3)]
    expected = [model.generate("x", max_tokens=10, **GREEDY).token_ids for model in models]
    results = {}

    def call(index):
        results[index] = models[index].generate("x", max_tokens=10, **GREEDY).token_ids

    threads = [threading.Thread(target=call, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(3)] == expected
    models[0].close()
    assert models[1].generate("x", max_tokens=10, **GREEDY).token_ids == expected[1]


def test_closing_from_another_thread_ends_a_running_call():
    model = tiny_model(max_position_embeddings=200_000, kv_cache="200k tokens")
    outcome = []

    def call():
        try:
            model.generate("x", max_tokens=150_000, ignore_eos=True)
        except RuntimeError as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=call)
    thread.start()
    while model.stats()["running_sequences"] == 0:
        time.sleep(0.001)
    model.close()
    thread.join()
    assert outcome == ["ClosedError"]


def test_the_byte_tokenizer_knows_every_byte():
    tokenizer = byte_tokenizer()
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert [tokenizer.token_bytes(byte) for byte in range(256)] == [bytes([b]) for b in range(256)]
    assert tokenizer.encode("a<|end|>").tolist() == [97, EOS_ID]
    assert tokenizer.end_ids == [EOS_ID]


def test_logits_that_are_no_numbers_end_that_request_only():
    with tiny_model(nan_token_id=7) as model:
        bad, good = model.generate([[7], [8]], max_tokens=5, allowed_token_ids=[9], ignore_eos=True)
        assert (bad.finish_reason, bad.token_ids, bad.text) == ("error", [], "")
        assert good.token_ids == [9] * 5
        assert_all_blocks_are_free(model)


@pytest.mark.slow
def test_many_short_requests_leave_memory_flat():
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with tiny_model() as model:
        prompts = ["x" * (index % 20 + 1) for index in range(2000)]
        for _ in range(3):
            model.generate(prompts, max_tokens=2)
        before = resident_bytes()
        for _ in range(25):
            model.generate(prompts, max_tokens=2)
        gc.collect()
        assert resident_bytes() - before < 4 * 2**20
