"""Folders of GPTQ and AWQ with 4 bits against float64 over the numbers that they mean.

The checkpoints are written here, nibble by nibble, and dequantized here: nothing of the reader's is
used.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY, reference_executor

from inferlib import Model
from inferlib.errors import ModelFormatError, UnsupportedModelError
from inferlib.loading import load

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FORMS = ("gptq", "gptq symmetric", "gptq_v2", "awq")


def words(nibbles, order=range(8)):
    """``[rows, columns]`` of nibbles as ``[rows, columns / 8]``, by the neighbours of each word."""
    packed = np.zeros((nibbles.shape[0], nibbles.shape[1] // 8), np.uint32)
    for place, neighbour in enumerate(order):
        packed |= nibbles[:, neighbour::8].astype(np.uint32) << np.uint32(4 * place)
    return packed.view(np.int32)


def quantized(weight, form):
    """Codes ``[k, n]``, zeros and scales ``[groups, n]``, and the numbers that they mean."""
    groups = weight.T.reshape(-1, GROUP, len(weight)).astype(np.float64)
    low, high = np.minimum(groups.min(axis=1), 0), np.maximum(groups.max(axis=1), 0)
    if form == "gptq symmetric":
        scales = (np.maximum(-low, high) / 7.5).astype(np.float16)
        zeros = np.full(scales.shape, 8)
    else:
        scales = ((high - low) / 15).astype(np.float16)
        least = 1 if form == "gptq" else 0  # it stores zeros minus one
        zeros = np.clip(np.rint(-low / scales), least, 15).astype(int)
    codes = np.clip(np.rint(groups / scales[:, None]) + zeros[:, None], 0, 15).astype(int)
    values = (codes - zeros[:, None]) * scales[:, None].astype(np.float64)
    columns = weight.shape[1]
    return codes.reshape(columns, -1), zeros, scales, values.reshape(columns, -1).T


def tensors_of(prefix, codes, zeros, scales, form):
    if form == "awq":
        found = {"qweight": words(codes, AWQ_ORDER), "qzeros": words(zeros, AWQ_ORDER)}
    else:
        stored = zeros if form == "gptq_v2" else zeros - 1
        found = {
            "qweight": words(codes.T).T,
            "qzeros": words(stored),
            "g_idx": (np.arange(len(codes)) // GROUP).astype(np.int32),
        }
    found["scales"] = scales
    return {f"{prefix}.{name}": np.ascontiguousarray(each) for name, each in found.items()}


def write(folder, form, **settings):
    """The quantized folder and one of the same numbers in float32."""
    integers, floats = folder / "integers", folder / "floats"
    for each in (integers, floats):
        shutil.copytree(TINY / "llama", each)
    packed, plain = {}, {}
    for name, tensor in load_file(TINY / "llama" / "model.safetensors").items():
        weight = tensor.astype(np.float32)
        if not name.endswith("_proj.weight"):
            packed[name] = plain[name] = weight
            continue
        codes, zeros, scales, values = quantized(weight, form)
        packed |= tensors_of(name.removesuffix(".weight"), codes, zeros, scales, form)
        plain[name] = np.ascontiguousarray(values.astype(np.float32))
        assert np.array_equal(plain[name], values)
    save_file(packed, integers / "model.safetensors")
    save_file(plain, floats / "model.safetensors")
    config = json.loads((integers / "config.json").read_text())
    method = {"quant_method": form.split("_")[0].split()[0], "bits": 4, "group_size": GROUP}
    if form == "gptq_v2":
        method["checkpoint_format"] = form
    config["quantization_config"] = method | settings
    (integers / "config.json").write_text(json.dumps(config))
    return integers, floats


def prompt():
    return np.load(TINY / "llama" / "reference.npz")["input_ids"][0].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_numbers_that_are_meant(form, tmp_path):
    integers, floats = write(tmp_path, form)
    logits = reference_executor(floats).run({0: prompt()}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    with Model.from_pretrained(integers, device="cpu", precision="exact", threads=1) as model:
        size = logits.shape[1]
        options = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": size}
        rows = model.generate(prompt(), **options).prompt_logprobs
    found = np.array([[row[token].logprob for token in range(size)] for row in rows[1:]])
    assert np.abs(found - expected[:-1]).max() <= 2e-4 * logits.std()


@pytest.mark.parametrize("form", FORMS)
def test_matrices_stay_at_a_few_bits_and_mean_the_same_numbers(form, tmp_path):
    integers, floats = write(tmp_path, form)
    found, expected = load(integers), load(floats)
    wanted = "Q4_0" if form == "gptq symmetric" else "Q5_0"
    for source in expected.matrices:
        for tensor, _ in source.parts:
            if tensor.endswith("_proj.weight"):
                assert found.weights.info(tensor)[0] == wanted
            np.testing.assert_array_equal(
                found.weights.array(tensor), expected.weights.array(tensor)
            )
    assert found.files == (str(integers / "model.safetensors"),)


def test_other_precisions_devices_and_packed_caches_take_them(tmp_path):
    from tests.cuda_emulator.device import EmulatedDevice

    integers, floats = write(tmp_path, "awq")
    options = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}

    def tokens(path, **settings):
        with Model.from_pretrained(path, kv_cache="256 tokens", **settings) as model:
            return model.generate(prompt(), **options).token_ids

    expected = tokens(floats, device="cpu", precision="exact")
    assert tokens(integers, device=EmulatedDevice(), precision="exact") == expected
    for precision in ("fast", "balanced"):
        settings = {"device": "cpu", "precision": precision}
        first = tokens(integers, **settings)
        for _ in ("written", "opened"):
            assert tokens(integers, packed_cache=tmp_path / "cache", **settings) == first


@pytest.mark.parametrize(
    ("form", "settings", "problem"),
    [
        ("gptq", {"desc_act": True}, r"quantization_config.*desc_act = true"),
        ("gptq", {"bits": 8}, "bits = 8 is not supported"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"),
        ("awq", {"version": "gemv"}, "version = 'gemv'"),
        ("awq", {"quant_method": "bitsandbytes"}, "quantized by 'bitsandbytes'"),
    ],
)
def test_what_is_not_supported_is_named(form, settings, problem, tmp_path):
    integers, _ = write(tmp_path, form, **settings)
    with pytest.raises(UnsupportedModelError, match=problem):
        load(integers)


def damage(folder, name, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    key = f"model.layers.1.mlp.down_proj.{name}"
    tensors[key] = change(tensors[key])
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


@pytest.mark.parametrize(
    ("name", "change", "error", "problem"),
    [
        ("g_idx", lambda x: x[::-1].copy(), UnsupportedModelError, "g_idx.*desc_act"),
        ("g_idx", lambda x: x[:-1].copy(), ModelFormatError, "g_idx has"),
        ("qzeros", lambda _: None, ModelFormatError, "qzeros is missing"),
        ("scales", lambda _: None, ModelFormatError, "scales is missing"),
        ("qzeros", lambda x: x[:-1].copy(), ModelFormatError, "down_proj: scales"),
        ("qweight", lambda x: x.astype(np.float32), ModelFormatError, "qweight is of type F32"),
        ("scales", lambda x: x + np.float32(1e-7), UnsupportedModelError, "float16"),
    ],
)
def test_damaged_folders_are_refused_by_tensor(name, change, error, problem, tmp_path):
    integers, _ = write(tmp_path, "gptq")
    damage(integers, name, change)
    with pytest.raises(error, match=problem):
        load(integers)
