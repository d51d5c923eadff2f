"""What is compiled for a model: all that its executor launches, and nothing that it cannot."""

from __future__ import annotations

import pytest
from tests.checkpoints import TINY
from tests.cuda.test_reduced_precision import GREEDY, make_model, prompts, wide_spec
from tests.cuda_emulator.device import EmulatedDevice
from tests.quantized_checkpoints import write_random_llama

from inferlib import Model
from inferlib.executors.cuda_files import files_of_layout, files_of_program
from inferlib.testing import tiny_model
from inferlib.transformer import record

EVERY_MODEL = {
    *("add", "argmax", "copy_blocks", "embedding", "gather_rows", "rms_norm"),
    *("rope_store_kv", "sample", "act_and_mul"),
}
EXACT = EVERY_MODEL | {"attention_f32", "linear_f32"}
REDUCED = EVERY_MODEL | {"attention_decode", "attention_prefill", "embedding_packed"}
PACKED = {"linear_few", "linear_many", "gated_few", "gated_many", "lm_head_argmax"}


def use(model):
    """Greedy, drawn, and with log-probabilities; the device fails where a file was forgotten."""
    model.generate(prompts()[:3], max_tokens=3, **GREEDY)
    model.generate(prompts()[1], max_tokens=2, n=2, seed=1, temperature=0.8, logprobs=1)


def test_float32_needs_no_tensor_cores():
    device = EmulatedDevice()
    with tiny_model(device=device, precision="exact", kv_cache="512 tokens") as model:
        use(model)
    assert device.prepared == EXACT


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("sm_80", PACKED), ("sm_90", {"linear_sm90", "attention_prefill_sm90"})],
)
def test_16_bit_floats(architecture, more):
    device = EmulatedDevice(architecture=architecture)
    with make_model(record(wide_spec()), device=device) as model:
        use(model)
    assert device.prepared == REDUCED | more


@pytest.mark.parametrize("types", [("Q4_K", "Q8_0"), ("Q8_0", "F16")])
def test_quantized_weights(types, tmp_path):
    path = tmp_path / "model.gguf"
    write_random_llama(path, *types)
    device = EmulatedDevice(architecture="sm_90")
    with Model.from_pretrained(path, device=device, kv_cache="512 tokens") as model:
        use(model)
    assert device.prepared == REDUCED | PACKED | {"linear_sm90", "attention_prefill_sm90"}


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_latent_attention_has_kernels_of_its_own(precision):
    device, latent = EmulatedDevice(), {"attention_latent", "rope", "store_kv"}
    options = {"kv_cache": "512 tokens", "precision": precision}
    with Model.from_pretrained(TINY / "deepseek-v3", device=device, **options) as model:
        model.generate([[3, 1, 4], [1] * 9], max_tokens=2, **GREEDY)
        model.generate([5], max_tokens=2, seed=1, temperature=0.8, logprobs=1)
    files = EVERY_MODEL - {"rope_store_kv"} | {"moe_combine", "moe_route", "moe_sort"} | latent
    if precision == "exact":
        files |= {"head_linear_f32", "linear_f32", "moe_linear_f32"}
    else:
        files |= PACKED | {"embedding_packed", "head_linear", "moe_gated", "moe_linear"}
    assert device.prepared == files


def test_nothing_is_prepared_that_there_is_no_kernel_for():
    program = record(wide_spec())
    assert not {"gated_few", "lm_head_argmax"} & files_of_layout(program, "e5m2")
    assert files_of_layout(program, "rows") == {"linear_sm90"}
    assert "linear_sm90" not in files_of_program(program, "bf16", "sm_100")
    assert "softcap" not in files_of_program(program, "f32", "sm_90")
