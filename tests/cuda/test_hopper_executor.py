"""Whole models on a device of sm_90: what it is given, what it must show first, the same bits."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from tests.cuda.launching import CountedDevice
from tests.cuda.test_reduced_precision import GREEDY, make_model, prompts, wide_spec
from tests.cuda_emulator.device import EmulatedDevice
from tests.quantized_checkpoints import write_random_llama

from inferlib import ExecutorError, Model
from inferlib.executors.cuda_choices import KernelChoices
from inferlib.executors.cuda_proofs import linear_is_proven, prefill_sm90_is_chosen
from inferlib.testing import tiny_model
from inferlib.transformer import record

SETTINGS = {"speculation": "off", "enable_prefix_caching": False}


def hopper(seed=0, **options):
    return CountedDevice(EmulatedDevice(seed=seed, architecture="sm_90", **options))


class Flawed(CountedDevice):
    """Computes some kernels otherwise than the others do, or not at all."""

    def __init__(self, flaws):
        super().__init__(EmulatedDevice(architecture="sm_90"))
        self.flaws = flaws

    def launch(self, kernel, grid, threads, arguments, **options):
        super().launch(kernel, grid, threads, arguments, **options)
        for name, flaw in self.flaws.items():
            if kernel.startswith(name):
                flaw(arguments[0])


def last_bit(out):
    out.reshape(-1).view(np.uint8)[0] ^= 1


def transposed(out):
    out[...] = np.roll(out.reshape(-1), 1).reshape(out.shape)


def refused(_):
    raise ExecutorError("no tensor map for it")


def answers(model, numbers=(0, 1, 2)):
    handles = [model.submit(prompts()[i], max_tokens=4, logprobs=2, **GREEDY) for i in numbers]
    results = [handle.result() for handle in handles]
    return [(each.token_ids, each.logprobs) for each in results]


def number(device, begin):
    return sum(count for name, count in device.launched.items() if name.startswith(begin))


def test_matrices_and_prefill_are_those_kernels_and_the_bits_those_of_others():
    """As far as the emulator's sums go: on a GPU the two families may differ from each other."""
    spec = replace(wide_spec(), tied_embeddings=True)
    program = record(spec)
    with make_model(program, device=EmulatedDevice(), spec=spec, **SETTINGS) as model:
        expected = answers(model)
    device = hopper(seed=3)
    with make_model(program, device=device, spec=spec, **SETTINGS) as model:
        assert answers(model) == expected
        greedy = model.generate(prompts()[1], max_tokens=4, **GREEDY)
        sizes = model._engine._executor.info()["weight_bytes"]
    assert greedy.token_ids == expected[1][0]
    for rows in (8, 64):
        assert number(device, f"linear_sm90_bf16_bf16_{rows}") > 0
    assert number(device, "attention_prefill_sm90_bf16_64") > 0
    for other in ("linear_few", "linear_many", "gated", "lm_head_argmax", "attention_prefill_bf16"):
        assert number(device, other) == 0
    # The embedding, which is the head's matrix too, is there once.
    elements = sum(int(np.prod(shape)) for shape in program.weights.values() if len(shape) > 1)
    vectors = sum(shape[0] for shape in program.weights.values() if len(shape) == 1)
    assert sizes == 2 * elements + 4 * vectors


@pytest.mark.parametrize("chunk", [1, 9, 64])
def test_chunks_and_batch_mates_change_no_bit(chunk):
    program = record(wide_spec())
    with make_model(program, device=hopper(), **SETTINGS) as model:
        expected = [answers(model, [i])[0] for i in range(3)]
    with make_model(
        program, device=hopper(seed=chunk), max_num_batched_tokens=chunk, **SETTINGS
    ) as model:
        assert answers(model) == expected


def test_quantized_matrices_and_float32_stay_with_the_others(tmp_path):
    path = tmp_path / "model.gguf"
    write_random_llama(path, "Q8_0", "Q8_0", "BF16")
    device = hopper()
    with Model.from_pretrained(path, device=device, kv_cache="64 tokens") as model:
        model.generate([1, 2, 3], max_tokens=2, **GREEDY)
    assert {"bf16", "int8"} >= {
        name.split("_")[3] for name in device.launched if "linear_f" in name
    }
    assert number(device, "linear_few_bf16_int8") > 0
    assert number(device, "linear_sm90") > 0
    assert number(device, "linear_few_bf16_bf16") == number(device, "linear_many_bf16_bf16") == 0
    exact = hopper()
    with tiny_model(device=exact, precision="exact", kv_cache="64 tokens") as model:
        model.generate("a", max_tokens=2, **GREEDY)
    assert number(exact, "linear_sm90") == number(exact, "attention_prefill_sm90") == 0


class TestProofs:
    @pytest.mark.parametrize(
        ("flaws", "reason"),
        [
            ({"linear_sm90_bf16_f32_64": last_bit}, "its tiles round differently"),
            ({"linear_sm90": transposed}, "its sums are wrong"),
            ({"linear_sm90": refused}, "no tensor map for it"),
        ],
    )
    def test_a_device_whose_tiles_differ_keeps_to_the_products_of_warps(
        self, flaws, reason, caplog
    ):
        program = record(wide_spec())
        with make_model(program, device=EmulatedDevice(), **SETTINGS) as model:
            expected = answers(model, [1])
        device = Flawed(flaws)
        with (
            caplog.at_level(logging.WARNING, "inferlib.cuda"),
            make_model(program, device=device, **SETTINGS) as model,
        ):
            before = number(device, "linear_sm90")
            assert answers(model, [1]) == expected
            assert number(device, "linear_sm90") == before
        assert f"linear_sm90 is not used on cuda-emulated: {reason}" in caplog.text

    @pytest.mark.parametrize("flaw", [last_bit, refused])
    def test_a_prefill_of_other_bits_than_decoding_is_not_used(self, flaw, caplog):
        device = Flawed({"attention_prefill_sm90": flaw})
        with caplog.at_level(logging.WARNING, "inferlib.cuda"):
            choices = KernelChoices(device)
            assert not prefill_sm90_is_chosen(device, choices, "bf16", 64)
        assert "attention_prefill_sm90_bf16_64 is not used on cuda-emulated" in caplog.text

    @pytest.mark.parametrize(("kind", "head_dim"), [("f16", 128), ("bf16", 256)])
    def test_what_is_proven_may_still_be_slower(self, kind, head_dim, monkeypatch):
        device = hopper()
        monkeypatch.setattr(KernelChoices, "choose", lambda *_: "mma")
        assert linear_is_proven(device, kind)
        assert not prefill_sm90_is_chosen(device, KernelChoices(device), kind, head_dim)
        monkeypatch.undo()
        assert prefill_sm90_is_chosen(device, KernelChoices(device), kind, head_dim)

    @pytest.mark.parametrize(
        ("architecture", "kind", "head_dim"),
        [("sm_80", "bf16", 64), ("sm_100", "bf16", 64), ("sm_90", "bf16", 96)],
    )
    def test_nobody_else_is_asked(self, architecture, kind, head_dim):
        device = CountedDevice(EmulatedDevice(architecture=architecture))
        assert not prefill_sm90_is_chosen(device, KernelChoices(device), kind, head_dim)
        assert linear_is_proven(device, kind) == (architecture == "sm_90")
        assert not linear_is_proven(device, "f32")
        assert (number(device, "linear_sm90") > 0) == (architecture == "sm_90")
