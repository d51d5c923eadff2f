"""Which device a name means, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.cuda.launching import CountedDevice
from tests.cuda.test_reduced_precision import (
    assert_near,
    make_model,
    prompts,
    weights_of,
    wide_spec,
)
from tests.cuda_emulator.device import EmulatedDevice
from tests.reference import ReferenceExecutor

from inferlib import Model, RequestError
from inferlib.config import EngineConfig
from inferlib.devices import gpu_index, register_device
from inferlib.testing import VOCAB_SIZE, tiny_model
from inferlib.transformer import record

EXACT = {"precision": "exact", "kv_cache": "512 tokens"}
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.mark.parametrize("case", ["llama", "mixtral"])
def test_a_device_by_its_name_gives_the_greedy_tokens_of_the_cpu(case):
    """All families are in ``test_families.py``."""
    prompts = [ids.tolist()[:9] for ids in np.load(TINY / case / "reference.npz")["input_ids"]]
    answers = []
    for device in ("cpu", "cuda-emulated"):
        options = {**EXACT, "device": device, "max_num_batched_tokens": 5}
        with Model.from_pretrained(TINY / case, **options) as model:
            assert model.stats()["device"].startswith(device)
            completions = model.generate([prompts[0], prompts[1][:4]], max_tokens=4, **GREEDY)
            answers.append([each.token_ids for each in completions])
    assert answers[0] == answers[1]


def test_a_registered_device_is_opened_at_each_load():
    opened = []

    def open_device():
        opened.append(EmulatedDevice())
        return opened[-1]

    register_device("mine", open_device)
    for _ in range(2):
        with tiny_model(device="mine", **EXACT) as model:
            model.generate("a", max_tokens=1)
    assert len(opened) == 2


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "cuda:x"])
def test_built_in_names_cannot_be_registered(name):
    with pytest.raises(ValueError, match="built-in"):
        register_device(name, EmulatedDevice)


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cuda:1.0", "gpu", "", 3, None])
def test_other_names_are_refused_before_anything_is_loaded(name):
    with pytest.raises(RequestError) as failure:
        EngineConfig(device=name)
    assert failure.value.field == "device"
    assert "cuda:1" in failure.value.hint


def test_the_number_in_a_name():
    assert [gpu_index(name) for name in ("cuda", "cuda:0", "cuda:12")] == [0, 0, 12]
    assert gpu_index("cpu") is gpu_index("cuda-emulated") is gpu_index("cuda:²") is None


def test_without_bf16_reduced_precision_is_f16():
    """Finer than bf16, so nearer to float64; weights, activations and KV cache alike."""
    program = record(wide_spec())
    device = CountedDevice(EmulatedDevice(has_bfloat16=False))
    with make_model(program, device=device) as model:
        oracle = ReferenceExecutor(program, weights_of(program))
        assert_near(model, oracle, prompts()[0], VOCAB_SIZE)
        model.generate(prompts(), max_tokens=3, **GREEDY)
    of_no_kind = {"lm_head_argmax_combine"}
    used = {name for name in device.launched if not name.endswith("f32")} - of_no_kind
    assert any("attention_decode_f16" in name for name in used)
    assert all("f16" in name for name in used)
    assert not any("bf16" in name for name in device.launched)
