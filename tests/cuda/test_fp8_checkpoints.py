"""Matrices of 8-bit floats: as they are stored on the device, with the bits of their bf16 twins."""

from __future__ import annotations

import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY
from tests.cuda.launching import open_device
from tests.cuda.test_families import answers, prompts_of

from inferlib import Model, ModelFormatError

TYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def write(folder, case, dtype, *, changed=None):
    """The case with its matrices rounded to 8 bits, and a second time the same values as bf16."""
    tensors = load_file(TINY / case / "model.safetensors")
    paths = []
    for name in ("fp8", "bf16"):
        path = folder / name
        shutil.copytree(TINY / case, path)
        stored = dict(tensors)
        for tensor, values in tensors.items():
            if values.ndim == 2:
                codes = values.astype(TYPES[dtype])
                if changed is not None and tensor == changed:
                    codes[3, 5] = np.nan
                stored[tensor] = codes if name == "fp8" else codes.astype(ml_dtypes.bfloat16)
        save_file(stored, path / "model.safetensors")
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    ("case", "dtype", "used"),
    [
        ("llama", "e4m3", {"linear_many_bf16_e4m3_bf16", "gated_many_bf16_e4m3_silu"}),
        ("llama", "e5m2", {"linear_many_bf16_e5m2_bf16"}),
        ("gpt-neox", "e4m3", {"linear_many_bf16_e4m3_bf16"}),
        ("mixtral", "e4m3", {"moe_gated_bf16_e4m3_silu", "moe_linear_bf16_e4m3"}),
        ("mixtral", "e5m2", {"moe_gated_bf16_bf16_silu", "moe_linear_bf16_bf16"}),
    ],
)
def test_8_bit_floats_are_launched_and_have_the_bits_of_bf16(case, dtype, used, tmp_path):
    prompts, found, sizes = prompts_of(case), [], []
    for path in write(tmp_path, case, dtype):
        device = open_device()
        with Model.from_pretrained(path, device=device, kv_cache="512 tokens") as model:
            found.append(answers(model, prompts, max_tokens=3))
            sizes.append(model._engine._executor.info()["weight_bytes"])
        if path.name == "fp8":
            assert used <= device.launched.keys()
    assert found[0] == found[1]
    assert sizes[0] < sizes[1]


def test_exact_precision_has_their_numbers(tmp_path):
    path, _ = write(tmp_path, "llama", "e4m3")
    prompts, found = prompts_of("llama"), []
    for device in ("cpu", open_device()):
        with Model.from_pretrained(
            path, device=device, precision="exact", kv_cache="512 tokens"
        ) as model:
            completions = model.generate(prompts, max_tokens=4, temperature=0, ignore_eos=True)
            found.append([each.token_ids for each in completions])
    assert found[0] == found[1]


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    tensor = "model.layers.1.mlp.down_proj.weight"
    path, _ = write(tmp_path, "llama", "e4m3", changed=tensor)
    with pytest.raises(ModelFormatError, match=rf"^{tensor} has weights that are NaN"):
        Model.from_pretrained(path, device=open_device(), kv_cache="512 tokens")
