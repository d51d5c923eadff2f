"""Folders of GPTQ, AWQ, compressed-tensors and 8-bit floats against float64 over their numbers."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY, reference_executor
from tests.quantized_folders import FORMS, config, edit, write

from inferlib import Model
from inferlib.errors import ModelFormatError, OutOfMemoryError, UnsupportedModelError
from inferlib.loading import load
from inferlib.quantized import checkpoint_plan


def prompt():
    return np.load(TINY / "llama" / "reference.npz")["input_ids"][0].tolist()


@pytest.mark.parametrize(
    "form",
    ["gptq", "gptq desc_act", "gptq 8 bits", "awq", "packed asymmetric", "int", "float", "fp8"],
)
def test_logits_are_those_of_the_numbers_that_are_meant(form, tmp_path):
    quantized, floats = write(tmp_path, FORMS[form])
    logits = reference_executor(floats).run({0: prompt()}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    with Model.from_pretrained(quantized, device="cpu", precision="exact", threads=1) as model:
        size = logits.shape[1]
        options = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": size}
        rows = model.generate(prompt(), **options).prompt_logprobs
    found = np.array([[row[token].logprob for token in range(size)] for row in rows[1:]])
    assert np.abs(found - expected[:-1]).max() <= 2e-4 * logits.std()


@pytest.mark.parametrize("form", FORMS)
def test_matrices_mean_the_same_numbers_in_the_smallest_type_that_holds_them(form, tmp_path):
    quantized, floats = write(tmp_path, FORMS[form])
    found, expected = load(quantized), load(floats)
    for source in expected.matrices:
        for tensor, _ in source.parts:
            if tensor.endswith("_proj.weight"):
                assert found.weights.info(tensor)[0] == FORMS[form].held_as
            np.testing.assert_array_equal(
                found.weights.array(tensor), expected.weights.array(tensor)
            )
    assert found.files == (str(quantized / "model.safetensors"),)


@pytest.mark.parametrize(
    ("case", "form"), [("deepseek-v3", "fp8"), ("qwen3-moe", "packed channel")]
)
def test_experts_and_latents_are_read_like_all_others(case, form, tmp_path):
    quantized, floats = write(tmp_path, FORMS[form], case=case)
    found, expected = load(quantized), load(floats)
    for source in expected.matrices:
        np.testing.assert_array_equal(source.values(found.weights), source.values(expected.weights))
    tokens = []
    for path in (quantized, floats):
        with Model.from_pretrained(path, device="cpu", precision="exact", threads=1) as model:
            tokens.append(model.generate([5, 6, 7], max_tokens=4, temperature=0).token_ids)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("form", ["awq", "fp8"])
def test_other_precisions_devices_and_packed_caches_take_them(form, tmp_path):
    from tests.cuda_emulator.device import EmulatedDevice

    quantized, floats = write(tmp_path, FORMS[form])
    options = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}

    def tokens(path, **settings):
        with Model.from_pretrained(path, kv_cache="256 tokens", **settings) as model:
            return model.generate(prompt(), **options).token_ids

    expected = tokens(floats, device="cpu", precision="exact")
    assert tokens(quantized, device=EmulatedDevice(), precision="exact") == expected
    for precision in ("fast", "balanced"):
        settings = {"device": "cpu", "precision": precision}
        first = tokens(quantized, **settings)
        for _ in ("written", "opened"):
            assert tokens(quantized, packed_cache=tmp_path / "cache", **settings) == first


def test_groups_have_their_own_schemes_and_formats(tmp_path):
    """8 bits for the first layer, 4 for the others: by name, by expression, by class."""
    eight, _ = write(tmp_path / "8", FORMS["int"])
    four, floats = write(tmp_path / "4", FORMS["packed"])
    tensors = {
        name: tensor
        for folder, wants_first in ((eight, True), (four, False))
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith("model.layers.0.") == wants_first
    }
    save_file(tensors, four / "model.safetensors")
    groups = []
    for form in ("int", "packed"):
        (group,) = config(FORMS[form])["config_groups"].values()
        groups.append(group | {"format": FORMS[form].format})
    eights, fours = groups
    fours["targets"] = ["Linear", "re:.*[m]lp.*"]
    name = "model.layers.0.mlp.down_proj"
    eights["targets"] = [r"re:.*layers\.0\..*_proj$", name]
    settings = {"format": "mixed-precision", "ignore": ["lm_head"]}
    whole = {"quant_method": "compressed-tensors", "config_groups": {"a": fours, "b": eights}}
    edit(four, **whole, **settings)
    # Expressions come in the order of their text, not of the file.
    with pytest.raises(ModelFormatError, match=r"layers\.0\.mlp\.gate_proj.weight_packed is miss"):
        load(four)
    fours["targets"] = ["Linear"]
    edit(four, **whole, **settings)
    found, expected = load(four), load(floats)
    for layer, dtype in (("0", "Q8_0"), ("1", "Q4_0")):
        assert found.weights.info(f"model.layers.{layer}.mlp.down_proj.weight")[0] == dtype
    tensor = "model.layers.1.mlp.down_proj.weight"
    assert (found.weights.array(tensor) == expected.weights.array(tensor)).all()
    fours["targets"] = [r"re:.*layers\.2\."]
    edit(four, **whole, **settings)
    with pytest.raises(ModelFormatError, match=r"layers\.1\.\S+ is quantized, but no target"):
        load(four)


@pytest.mark.parametrize(
    ("form", "settings", "problem"),
    [
        ("gptq", {"bits": 3}, r"quantization_config.*bits = 3 is not supported; 4 and 8 are"),
        ("gptq", {"bits": 2}, "bits = 2 is not supported"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"),
        ("awq", {"version": "gemv"}, "version = 'gemv'"),
        ("awq", {"bits": 8}, "bits = 8"),
        ("awq", {"quant_method": "bitsandbytes"}, "quantized by 'bitsandbytes'; known are 'gptq'"),
        ("packed", {"format": "nvfp4-pack-quantized"}, 'format = "nvfp4-pack-quantized"'),
        ("packed", {"format": "dense"}, 'format = "dense"'),
        ("packed", {"transform_config": {"config_groups": {"a": {}}}}, "'transform_config'"),
        ("packed", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparsity_config'"),
        ("packed", {"ignore": [r"re:(a+)+b"]}, "'ignore'.* could take too long"),
    ],
)
def test_what_is_not_supported_is_named(form, settings, problem, tmp_path):
    quantized, _ = write(tmp_path, FORMS[form], **settings)
    with pytest.raises(UnsupportedModelError, match=problem):
        load(quantized)


def test_other_settings_of_the_same_method_are_named(tmp_path):
    """One folder, many configurations: nothing is read before they are understood."""
    quantized, _ = write(tmp_path, FORMS["packed"])
    whole = config(FORMS["packed"])
    (group,) = whole["config_groups"].values()

    def expect(error, problem, **weights):
        changed = group | {"weights": group["weights"] | weights}
        edit(quantized, **(whole | {"config_groups": {"group_0": changed}}))
        with pytest.raises(error, match=problem):
            load(quantized)

    expect(UnsupportedModelError, r"'weights' of 'group_0'.*num_bits = 16", num_bits=16)
    expect(UnsupportedModelError, "num_bits = 4 .*of float", type="float")
    expect(UnsupportedModelError, 'strategy = "tensor_group"', strategy="tensor_group")
    expect(UnsupportedModelError, 'strategy = "block"', strategy="block")
    expect(ModelFormatError, "'strategy' of .* must be a strategy", strategy="diagonal")
    expect(ModelFormatError, "'type' of .* must be 'int' or 'float'", type="complex")
    expect(ModelFormatError, "'symmetric' of .* must be true or false", symmetric="yes")
    expect(ModelFormatError, "has no 'group_size'", group_size=None)
    expect(ModelFormatError, "'actorder' of .* must be", actorder="sometimes")
    expect(ModelFormatError, "down_proj|q_proj", group_size=64)
    expect(ModelFormatError, "weight_g_idx is missing", actorder="group")
    edit(quantized, **(whole | {"format": "zip"}))
    with pytest.raises(ModelFormatError, match=r"'format' of .* must be a format"):
        load(quantized)
    edit(quantized, **(whole | {"config_groups": None}))
    with pytest.raises(ModelFormatError, match="has no 'config_groups'"):
        load(quantized)
    edit(quantized, **(whole | {"ignore": ["re:["]}))
    with pytest.raises(ModelFormatError, match=r"'ignore'.*is no regular expression"):
        load(quantized)
    edit(quantized, **(whole | {"ignore": [r"re:.*up_proj$"]}))
    with pytest.raises(ModelFormatError, match="up_proj is quantized, but 'ignore'"):
        load(quantized)


def shorter(tensor):
    return tensor[:-1].copy()


def missing(_):
    return None


def not_a_number(tensor):
    changed = tensor.copy()
    changed.reshape(-1)[0] = np.nan
    return changed


@pytest.mark.parametrize(
    ("form", "name", "change", "problem"),
    [
        ("gptq", "g_idx", shorter, "g_idx has 95 groups for 96 columns"),
        ("gptq desc_act", "g_idx", missing, "g_idx is missing"),
        ("gptq", "g_idx", lambda x: x + np.int32(1), "g_idx names groups beyond the 3"),
        ("gptq", "qzeros", missing, "qzeros is missing"),
        ("gptq", "scales", missing, "scales is missing"),
        ("gptq", "qzeros", shorter, "down_proj: scales"),
        ("gptq", "qweight", lambda x: x.astype(np.float32), "qweight is of type F32"),
        ("gptq", "qweight", lambda x: x[0].copy(), "qweight has 1 dimensions"),
        ("gptq", "scales", not_a_number, "the scales of .*down_proj.weight has values"),
        ("packed", "weight_scale", missing, "weight_scale is missing"),
        ("packed", "weight_scale", shorter, r"weight_scale has shape \[63, 3\], not"),
        ("packed", "weight_packed", missing, "weight_packed is missing"),
        ("packed", "weight_packed", shorter, r"weight_shape says \[64, 96\]"),
        ("packed", "weight_shape", missing, "weight_shape is missing"),
        ("packed", "weight_shape", lambda x: x - 9, "weight_shape says"),
        ("packed", "weight_zero_point", lambda _: np.ones((64, 3), np.int8), "is not zero"),
        ("packed asymmetric", "weight_zero_point", missing, "weight_zero_point is missing"),
        ("packed asymmetric", "weight_zero_point", shorter, "weight_zero_point has shape"),
        ("packed act order", "weight_g_idx", shorter, "g_idx has 95"),
        ("packed act order", "weight_g_idx", lambda x: x + np.int32(9), "g_idx names groups"),
        ("int", "weight_scale", missing, "down_proj.weight_scale is missing"),
        ("int", "weight", lambda x: x.astype(np.float32), "weight is of type F32, not I8"),
        ("int asymmetric", "weight_zero_point", lambda x: x + np.float32(0.5), "no 8-bit integ"),
        ("float", "weight_scale", missing, "down_proj.weight_scale is missing"),
        ("float", "weight", not_a_number, "down_proj.weight has values that are NaN"),
        ("float block", "weight_scale", shorter, r"has scales \[1, 3\] for blocks of \[48, 32\]"),
        ("fp8", "weight_scale_inv", missing, "down_proj.weight_scale is missing"),
        ("fp8", "weight_scale_inv", shorter, r"has scales \[1, 3\] for blocks of \[48, 32\]"),
        ("fp8", "weight_scale_inv", lambda x: x + 1e37, "down_proj.weight has values"),
        ("packed act order", "weight_scale", lambda x: x + 1e38, "down_proj.weight has values"),
        ("fp8", "weight_scale_inv", not_a_number, "the scales of .*down_proj.weight"),
        ("fp8", "weight", lambda x: x.astype(np.float32), "weight has scales but is of type F32"),
    ],
)
def test_damaged_folders_are_refused_by_tensor(form, name, change, problem, tmp_path):
    quantized, _ = write(tmp_path, FORMS[form], (name, change))
    with pytest.raises(ModelFormatError, match=problem):
        load(quantized)


def test_blocks_of_another_size_do_not_fit(tmp_path):
    quantized, _ = write(tmp_path, FORMS["fp8"], weight_block_size=[32, 32])
    with pytest.raises(ModelFormatError, match=r"for blocks of \[32, 32\]"):
        load(quantized)
    edit(quantized, quant_method="fp8", weight_block_size=[0, 32])
    with pytest.raises(ModelFormatError, match=r"'weight_block_size' of .* two positive integers"):
        load(quantized)


def test_a_block_may_be_larger_than_its_matrix(tmp_path):
    form = replace(FORMS["fp8"], block=(96, 96))
    quantized, floats = write(tmp_path, form, weight_block_size=[2**31 - 1, 2**31 - 1])
    found, expected = load(quantized), load(floats)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (found.weights.array(name) == expected.weights.array(name)).all()


def test_the_log_says_what_became_what_and_what_is_left_out(tmp_path, caplog):
    cache = {"num_bits": 8, "type": "float", "dynamic": False}
    quantized, _ = write(tmp_path, FORMS["float"], kv_cache_scheme=cache)
    with caplog.at_level(logging.INFO, "inferlib"):
        load(quantized)
    assert "21 quantized matrices, their numbers exactly, as 21 F32: 360.0 KiB" in caplog.text
    assert (
        "inputs are quantized, too (keys and values static float8, dynamic float8)" in caplog.text
    )
    assert 'quantize="q8_0" makes them smaller' in caplog.text


def test_scales_of_keys_and_values_are_left_out(tmp_path):
    name = "k_scale"
    quantized, _ = write(tmp_path, FORMS["fp8"], (name, lambda _: np.ones(1, np.float32)))
    assert not any(tensor.endswith(name) for tensor in load(quantized).weights.names)


def test_what_does_not_fit_is_said_before_it_is_made(tmp_path, monkeypatch):
    quantized, _ = write(tmp_path, FORMS["fp8"])
    monkeypatch.setattr(checkpoint_plan, "free_bytes", lambda: 600_000)
    with pytest.raises(OutOfMemoryError, match="preparing the weights of quantized") as caught:
        load(quantized)
    assert caught.value.required > 600_000
    load(quantized, quantize="q4_0")
