"""Memory of the CUDA executor: all at load, sizes that are true, and what happens without it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.cuda.launching import CountedDevice
from tests.cuda.test_reduced_precision import make_model, prompts, wide_spec
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import ExecutorError, Model, OutOfMemoryError
from inferlib.executors.cuda_memory import StepLimits, block_bytes, workspace_bytes
from inferlib.testing import tiny_model
from inferlib.transformer import record

EXACT = {"precision": "exact", "kv_cache": "2k tokens"}
GREEDY = {"temperature": 0, "ignore_eos": True}


class Accounted(CountedDevice):
    """Writes down what is reserved, and fails where it is told to."""

    def __init__(self, *, failing_alloc=None, failing_launch=None, **options):
        super().__init__(EmulatedDevice(**options))
        self.sizes = {}
        self.failing_alloc, self.failing_launch = failing_alloc, failing_launch
        self.num_launches = 0
        self.error = OutOfMemoryError(
            "the module takes 5 bytes but 3 are free", required=5, available=3, hint="…"
        )

    def alloc(self, shape, dtype, name):
        if self.num_allocs == self.failing_alloc:
            raise OutOfMemoryError(f"no room for {name}", required=2, available=1, hint="smaller")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.sizes[name] = self.sizes.get(name, 0) + size
        return self._device.alloc(shape, dtype, name)

    def launch(self, *arguments, **options):
        self.num_launches += 1
        if self.num_launches == self.failing_launch:
            raise self.error
        super().launch(*arguments, **options)


def use_much(model):
    """Long and short, greedy and drawn, together and alone."""
    many = [*prompts(), *([1 + i] * (3 + 9 * i) for i in range(5))]
    model.generate(many, max_tokens=8, **GREEDY)
    model.generate(many[0], max_tokens=12, seed=1, n=3, ignore_eos=True)
    model.generate(many[1], max_tokens=3, prompt_logprobs=2)


def test_nothing_is_reserved_after_the_load():
    device = Accounted()
    with make_model(record(wide_spec()), device=device, kv_cache="1k tokens") as model:
        before = device.num_allocs
        use_much(model)
        assert device.num_allocs == before


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_sizes_are_what_is_reserved(precision):
    device, program = Accounted(), record(wide_spec())
    settings = {"kv_cache": "512 tokens", "max_num_batched_tokens": 48, "max_num_seqs": 5}
    with make_model(program, device=device, precision=precision, **settings) as model:
        one_block = block_bytes(program, "f32" if precision == "exact" else "bf16")
        assert device.sizes["KV cache"] == 33 * one_block  # 32, and one for spare rows
        assert model._parts.kv_cache_bytes == 32 * one_block
        limits = StepLimits(rows=48, seqs=5, model_len=model.max_model_len)
        assert_counted(device, program, precision, limits)
        assert device.sizes["the step's input"] < 1 << 20


def sizes_of(case, precision):
    """What a golden case reserved, for its largest steps; all of it was counted, none in a step."""
    device, settings = Accounted(), {"kv_cache": "512 tokens", "max_num_batched_tokens": 24}
    path = TINY / case
    with Model.from_pretrained(path, device=device, precision=precision, **settings) as model:
        program = model._parts.checkpoint.program
        before = device.num_allocs
        model.generate([list(range(30)), [5]], max_tokens=2, **GREEDY)
        assert device.num_allocs == before
        limits = StepLimits(rows=24, seqs=24, model_len=model.max_model_len)
    assert_counted(device, program, precision, limits)
    return device.sizes


def assert_counted(device, program, precision, limits):
    """The workspace is as large as was computed before; one block is for spare rows."""
    others = {"KV cache", "the step's input", "rotary frequencies", *program.weights}
    workspace = sum(size for name, size in device.sizes.items() if name not in others)
    kind = "f32" if precision == "exact" else "bf16"
    assert workspace_bytes(program, kind, limits) == workspace + block_bytes(program, kind)


@pytest.mark.parametrize(("precision", "element"), [("exact", 4), ("fast", 2)])
def test_a_mixture_of_experts_takes_what_was_counted_and_nothing_in_a_step(precision, element):
    # Four experts of 96 rows within: gate and up of every choice at once.
    assert sizes_of("gpt-oss", precision)["results of experts"] == 24 * 2 * 2 * 96 * element


@pytest.mark.parametrize(("precision", "element"), [("exact", 4), ("fast", 2)])
def test_latent_attention_takes_what_was_counted_and_nothing_in_a_step(precision, element):
    """Keys and values of different widths; no partial results."""
    sizes = sizes_of("deepseek-v3", precision)
    assert sizes["KV cache"] == 33 * 3 * 16 * (32 + 24) * element
    assert "attention's partial outputs" not in sizes


def test_every_failing_reservation_is_typed_and_gives_all_back():
    counting = Accounted()
    with tiny_model(device=counting, **EXACT) as model:
        expected = model.generate("abc", max_tokens=4, **GREEDY).token_ids
    assert counting.num_allocs > 20
    for number in range(counting.num_allocs):
        device = Accounted(failing_alloc=number)
        total = device.free_bytes()
        with pytest.raises(OutOfMemoryError) as failure:
            tiny_model(device=device, **EXACT)
        assert (failure.value.required, failure.value.available) == (2, 1)
        assert failure.value.hint
        assert device.free_bytes() == total  # closed
    device.failing_alloc = None
    with tiny_model(device=device, **EXACT) as model:
        assert model.generate("abc", max_tokens=4, **GREEDY).token_ids == expected


def test_what_does_not_fit_is_said_before_anything_is_reserved():
    device = Accounted(num_bytes=500_000)
    with pytest.raises(OutOfMemoryError, match="beside the weights") as failure:
        tiny_model(device=device, **EXACT)
    assert failure.value.required > failure.value.available
    assert "max_num_batched_tokens" in failure.value.hint
    assert not device.sizes


@pytest.mark.parametrize("number", [1, 7, 40])
@pytest.mark.parametrize(
    "error", [OutOfMemoryError("…", required=5, available=3, hint="…"), ExecutorError("lost")]
)
def test_a_model_is_usable_after_a_step_that_failed(number, error):
    with tiny_model(**EXACT) as model:
        expected = model.generate(["abc", "d"], max_tokens=8, **GREEDY)
    device = Accounted(failing_launch=number)
    device.error = error
    with tiny_model(device=device, **EXACT) as model:
        with pytest.raises(type(error)) as failure:
            model.generate(["abc", "d"], max_tokens=8, **GREEDY)
        assert str(failure.value) == str(error)
        found = model.generate(["abc", "d"], max_tokens=8, **GREEDY)
        model._engine._scheduler.check_integrity()
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
