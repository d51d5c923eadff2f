"""``make bench-cuda`` from end to end on the emulator, and the arithmetic of its tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench import cuda
from bench.cuda_kernels import Case, KernelTime, product_of, step_of
from bench.cuda_models import CONFIGS, RandomWeights, spec_of
from tests.cuda_emulator.device import EmulatedDevice

from inferlib.executors.cuda_matrices import DeviceWeights
from inferlib.executors.tensor_maps import TensorMap
from inferlib.transformer import record

PRODUCTS = (("linear_few", "bf16"), ("gated_few", "silu"))


@pytest.mark.timeout(300)
def test_a_dry_run_measures_every_kernel_of_a_step_and_a_whole_model(tmp_path, capsys):
    assert cuda.main(["--dry-run", "--weights", "int4", "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    cases = {each["case"]: each["times"] for each in found["kernels"]}
    assert set(cases) == {"decode 2", "prefill"}
    decode = {each["kernel"]: each for each in cases["decode 2"]}
    assert {"attention_decode_bf16_64", "lm_head_argmax_bf16_bf16"} <= set(decode)
    products = [decode[f"{name}_bf16_int4_{end}"] for name, end in PRODUCTS]
    assert [each["launches"] for each in products] == [3 * 2, 2]  # of two layers
    assert all(each["num_bytes"] > 0 and each["flops"] > 0 for each in products)
    assert all(each["seconds"] > 0 for each in decode.values())
    assert [each["batch"] for each in found["models"][0]["batches"]] == [1, 2]
    assert "% of roofline" in capsys.readouterr().out


def test_what_products_read_and_multiply():
    codes, scales = np.zeros(10, np.uint32), np.zeros(6, np.float32)
    weight = TensorMap(array=np.zeros((8, 64), np.uint16), shape=(8, 64), box=(8, 64))
    sizes = (3, 8, 64)
    found = product_of("linear_many_bf16_int4_f32", [0, 0, codes, scales, None, *sizes])
    assert found == ([codes, scales], 3, 8, 64)
    found = product_of("linear_sm90_bf16_f32_8", [0, weight, weight, None, *sizes])
    assert found == ([weight.array], 3, 8, 64)
    pair = [codes, scales, None] * 2
    found = product_of("gated_few_bf16_int4_silu", [0, 0, *pair, *sizes])
    assert found == ([codes, scales, codes, scales], 3, 16, 64)
    found = product_of("lm_head_argmax_bf16_int4", [0, 0, 0, codes, scales, *sizes])
    assert found == ([codes, scales], 3, 8, 64)


def test_shares_are_of_what_was_measured():
    times = [
        KernelTime(kernel="linear", launches=2, seconds=1e-3, num_bytes=10**9, flops=10**11),
        KernelTime(kernel="argmax", launches=1, seconds=1e-6, num_bytes=0, flops=0),
    ]
    lines = cuda.kernel_grid(times, gb_s=2000.0, tflops=400.0).rows
    assert lines[0] == ["linear", "2", "1,000.0", "1,000", "50", "100.0", "25"]
    assert lines[2][:3] == ["all", "3", "1,001.0"]


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen3-0.6B", 0.596), ("Llama-3.2-1B", 1.236), ("Llama-3.1-8B", 8.03)]
)
def test_models_have_their_real_sizes(name, billions):
    spec = spec_of(name)
    elements = sum(int(np.prod(shape)) for shape in record(spec).weights.values())
    assert elements / 1e9 == pytest.approx(billions, rel=0.001)
    assert name in CONFIGS


@pytest.mark.parametrize(("weights", "bytes_each"), [("bf16", 2), ("int8", 1.125), ("int4", 0.75)])
def test_random_weights_are_as_large_as_real_ones(weights, bytes_each):
    program = record(spec_of("tiny"))
    device = EmulatedDevice()
    target = DeviceWeights(device, program, "bf16")
    RandomWeights(weights).load(target, device, program)
    assert not target.missing()
    (head,) = (op["weight"] for kind, op in program.ops if kind == "lm_head")
    for name, (segment,) in target.matrices.items():
        each = 2 if name == head else bytes_each
        scale_bytes = 0 if segment.scales is None else segment.scales.nbytes
        assert segment.codes.nbytes + scale_bytes == each * np.prod(segment.shape)


def test_a_step_has_its_rows_at_the_end_of_each_context():
    step = step_of(Case(name="x", seqs=3, rows=2, context=40), 1)
    assert step.positions.tolist() == [38, 39] * 3
    assert step.groups[0].slot_mapping.tolist() == [38, 39, 86, 87, 134, 135]
    assert step.logits_indices.tolist() == [1, 3, 5]


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        cuda.main(["--models", "GPT-5"])
    assert "Llama-3.1-8B" in capsys.readouterr().err
