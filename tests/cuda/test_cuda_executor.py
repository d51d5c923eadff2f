"""Whole models on the emulated device; ``test_families.py`` compares all with the CPU executor."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.cuda.launching import open_device
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import Model, OutOfMemoryError, RequestError
from inferlib.testing import tiny_model

GREEDY = {"temperature": 0, "ignore_eos": True}
EXACT = {"precision": "exact", "kv_cache": "512 tokens"}


def on_device(case, *, seed=0, **options):
    return Model.from_pretrained(TINY / case, device=open_device(seed), **EXACT | options)


def prompts_of(case):
    return [ids.tolist() for ids in np.load(TINY / case / "reference.npz")["input_ids"]]


@pytest.mark.parametrize("case", ["llama", "gemma3", "mistral-window", "qwen3-moe"])
def test_chunks_schedules_and_batch_mates_change_no_bit(case):
    prompts = prompts_of(case)
    options = {"max_tokens": 5, "logprobs": 3, **GREEDY}

    def answers(prompts, **settings):
        with on_device(case, **settings) as model:
            completions = model.generate(prompts, **options)
        return [
            [
                (token, row[token].logprob)
                for token, row in zip(each.token_ids, each.logprobs, strict=True)
            ]
            for each in completions
        ]

    expected = answers(prompts)
    assert answers(prompts[:1]) == expected[:1]
    assert answers(prompts[::-1], max_num_batched_tokens=7, seed=5) == expected[::-1]


def test_log_probabilities_of_a_prompt_are_those_of_the_cpu_executor():
    prompt = prompts_of("qwen3")[0][:12]
    rows = []
    for device in ("cpu", open_device(2)):
        with Model.from_pretrained(TINY / "qwen3", device=device, **EXACT) as model:
            completion = model.generate(prompt, max_tokens=1, temperature=0, prompt_logprobs=5)
        rows.append([row for row in completion.prompt_logprobs if row is not None])
    for found, expected in zip(*rows, strict=True):
        assert found.keys() == expected.keys()
        for token, value in found.items():
            assert value.logprob == pytest.approx(expected[token].logprob, abs=2e-5)


def test_every_option_of_sampling_works_on_logits_of_the_device():
    options = {
        "max_tokens": 12,
        "n": 3,
        "seed": 11,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "logit_bias": {65: 2.0},
        "min_tokens": 4,
        "logprobs": 2,
    }
    answers = []
    for device in ("cpu", open_device()):
        with tiny_model(device=device, **EXACT) as model:
            completion = model.generate("ab", **options)
        answers.append([each.token_ids for each in completion.outputs])
    assert answers[0] == answers[1]
    assert len({tuple(each) for each in answers[0]}) > 1


def test_preempted_requests_give_the_same_tokens():
    prompts = ["a", "bc", "def", "gh", "i", "jkl"]
    with tiny_model(device=open_device(), precision="exact", kv_cache="2k tokens") as model:
        expected = [each.token_ids for each in model.generate(prompts, max_tokens=24, **GREEDY)]
    with tiny_model(device=open_device(4), precision="exact", kv_cache="80 tokens") as model:
        found = [each.token_ids for each in model.generate(prompts, max_tokens=24, **GREEDY)]
        stats = model.stats()
        model._engine._scheduler.check_integrity()
    assert stats["preemptions"] > 0
    assert found == expected


def test_sequences_that_share_a_block_get_copies_of_it():
    device = open_device()
    with tiny_model(device=device, **EXACT) as model:
        three = model.generate("a prompt of 20 bytes", n=3, seed=5, max_tokens=6, ignore_eos=True)
        one = model.generate("a prompt of 20 bytes", seed=5, max_tokens=6, ignore_eos=True)
    assert device.launched["copy_blocks_u32"] > 0
    assert three.outputs[0].token_ids == one.token_ids
    assert len({tuple(each.token_ids) for each in three.outputs}) == 3


def test_the_largest_logit_is_found_on_the_device_and_others_are_drawn_on_the_host():
    device = open_device()
    with tiny_model(device=device, **EXACT) as model:
        model.generate("x", max_tokens=3, **GREEDY)
        greedy = device.launched["argmax_f32"]
        model.generate("x", max_tokens=3, temperature=1.0, seed=1, ignore_eos=True)
        assert greedy > 0
        assert device.launched["argmax_f32"] == greedy


class TestRefusals:
    def test_a_packed_cache_is_for_the_cpu(self, tmp_path):
        with pytest.raises(RequestError) as failure:
            on_device("llama", packed_cache=tmp_path)
        assert failure.value.field == "packed_cache"

    @pytest.mark.parametrize(("precision", "dtype"), [("exact", "f16"), ("fast", "int8")])
    def test_kv_types_without_kernels_are_refused(self, precision, dtype):
        with pytest.raises(RequestError, match="keys and values") as failure:
            on_device("llama", precision=precision, kv_cache_dtype=dtype)
        assert failure.value.field == "kv_cache_dtype"

    def test_what_does_not_fit_says_what_is_missing(self):
        device = EmulatedDevice(num_bytes=200_000)
        with pytest.raises(OutOfMemoryError) as failure:
            tiny_model(device=device, **EXACT)
        assert failure.value.required > failure.value.available

    def test_a_device_must_be_one(self):
        with pytest.raises(RequestError) as failure:
            tiny_model(device="cuda-of-dreams", **EXACT)
        assert failure.value.field == "device"
