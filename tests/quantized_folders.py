"""Tiny folders as GPTQ, AWQ, compressed-tensors and DeepSeek publish them, and what they mean.

Written from the formats' definitions, code by code, with nothing of the reader's: a matrix's
tensors, and its numbers in float64. ``write`` makes two folders of one model, the quantized one and
one of the same numbers in float32.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY

if TYPE_CHECKING:
    from pathlib import Path

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BF16 = ml_dtypes.bfloat16
E4M3 = ml_dtypes.float8_e4m3fn


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to store matrices.

    Attributes:
        method: ``quant_method``.
        held_as: The type that holds exactly its numbers.
        bits: Of codes.
        symmetric: Whether the zero is the middle of the codes.
        group: Columns that share a scale; ``None``: all.
        scale: Type of scales.
        is_float: Whether codes are 8-bit floats.
        act_order: Whether the columns of a group lie anywhere.
        format: Of compressed-tensors.
        strategy: Of compressed-tensors, and of floats.
        block: Rows and columns of a block of floats.
        powers: Whether scales of floats are powers of two.
        config: Further fields of ``quantization_config``.
    """

    method: str
    held_as: str
    bits: int = 4
    symmetric: bool = True
    group: int | None = 32
    scale: Any = np.float16
    is_float: bool = False
    act_order: bool = False
    format: str = ""
    strategy: str = ""
    block: tuple[int, int] | None = None
    powers: bool = False
    config: dict[str, Any] = field(default_factory=dict)


GPTQ = Form(method="gptq", held_as="Q5_0", symmetric=False)
PACKED = Form(
    method="compressed-tensors",
    held_as="Q4_0",
    format="pack-quantized",
    strategy="group",
    scale=BF16,
)
W8A8 = replace(
    PACKED, format="int-quantized", bits=8, strategy="channel", group=None, held_as="Q8_0"
)
FLOAT = replace(W8A8, format="float-quantized", is_float=True, held_as="F32")
FP8 = Form(method="fp8", held_as="F32", is_float=True, scale=BF16, block=(48, 32))
FORMS = {
    "gptq": GPTQ,
    "gptq symmetric": replace(GPTQ, symmetric=True, held_as="Q4_0"),
    "gptq_v2": replace(GPTQ, config={"checkpoint_format": "gptq_v2"}),
    "gptq desc_act": replace(GPTQ, act_order=True, held_as="F32", config={"desc_act": True}),
    "gptq 8 bits symmetric": replace(GPTQ, bits=8, symmetric=True, held_as="Q8_0"),
    "gptq 8 bits": replace(GPTQ, bits=8, held_as="F32"),
    "awq": Form(method="awq", held_as="Q5_0", symmetric=False),
    "packed": PACKED,
    "packed asymmetric": replace(PACKED, symmetric=False, held_as="Q5_0"),
    "packed channel": replace(PACKED, strategy="channel", group=None),
    "packed channel asymmetric": replace(
        PACKED, strategy="channel", group=None, symmetric=False, held_as="Q5_0"
    ),
    "packed 8 bits": replace(PACKED, bits=8, held_as="Q8_0"),
    "packed 8 bits asymmetric": replace(PACKED, bits=8, symmetric=False, held_as="F32"),
    "packed 3 bits": replace(PACKED, bits=3),
    "packed float16 scales": replace(PACKED, scale=np.float16),
    "packed float32 scales": replace(PACKED, scale=np.float32, held_as="F32"),
    "packed groups of 16": replace(PACKED, group=16, held_as="F32"),
    "packed act order": replace(PACKED, act_order=True, held_as="F32"),
    "packed act order asymmetric": replace(PACKED, act_order=True, symmetric=False, held_as="F32"),
    "int": W8A8,
    "int tensor": replace(W8A8, strategy="tensor"),
    "int asymmetric": replace(W8A8, symmetric=False, held_as="F32"),
    "naive int": replace(W8A8, format="naive-quantized"),
    "float": FLOAT,
    "float tensor": replace(FLOAT, strategy="tensor", scale=np.float32),
    "float block": replace(FLOAT, strategy="block", block=(48, 32)),
    "naive float": replace(FLOAT, format="naive-quantized"),
    "fp8": FP8,
    "fp8 float32 scales": replace(FP8, scale=np.float32),
    "fp8 powers of two": replace(FP8, powers=True, held_as="BF16"),
    "fp8 tensor": replace(FP8, block=None, strategy="tensor", scale=np.float32),
    "fp8 channel": replace(FP8, block=None, strategy="channel"),
}


def words(codes, bits=4, order=None):
    """``[rows, columns]`` of codes as ``[rows, words]`` of neighbours, the first lowest."""
    per_word = 32 // bits
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    packed = np.zeros((codes.shape[0], codes.shape[1] // per_word), np.uint32)
    for place, neighbour in enumerate(order or range(per_word)):
        packed |= codes[:, neighbour::per_word].astype(np.uint32) << np.uint32(bits * place)
    return packed.view(np.int32)


def _integers(weight, form, random):
    """Codes ``[n, k]`` and zeros ``[n, groups]`` around 0, scales, groups, numbers."""
    n, k = weight.shape
    groups = np.arange(k) // (form.group or k)
    if form.act_order:
        groups = random.permutation(groups)
    low, high = -(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1
    scales = np.empty((n, groups.max() + 1))
    zeros = np.zeros(scales.shape, int)
    for group in range(scales.shape[1]):
        part = weight[:, groups == group].astype(np.float64)
        least, most = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        if form.symmetric:
            scales[:, group] = np.maximum(-least, most) / high
        else:
            scales[:, group] = (most - least) / (high - low)
            zeros[:, group] = np.rint(-least / scales[:, group]) + low
    if form.strategy == "tensor":
        scales, zeros = scales.max(keepdims=True), zeros[:1]
    # The first version of GPTQ stores zeros minus one.
    zeros = np.clip(zeros, low + 1 if form.method == "gptq" else low, high)
    scales = scales.astype(form.scale)
    wide, centre = scales[:, groups].astype(np.float64), zeros[:, groups]
    codes = np.clip(np.rint(weight / wide) + centre, low, high).astype(int)
    return codes, zeros, scales, groups, (codes - centre) * wide


def _gptq_or_awq(weight, form, random):
    codes, zeros, scales, groups, values = _integers(weight, form, random)
    middle = 2 ** (form.bits - 1)
    codes, zeros = codes.T + middle, zeros.T + middle
    if form.method == "awq":
        found = {"qweight": words(codes, 4, AWQ_ORDER), "qzeros": words(zeros, 4, AWQ_ORDER)}
    else:
        stored = zeros if form.config.get("checkpoint_format") == "gptq_v2" else zeros - 1
        found = {
            "qweight": words(codes.T, form.bits).T,
            "qzeros": words(stored, form.bits),
            "g_idx": groups.astype(np.int32),
        }
    return found | {"scales": scales.T}, values


def _compressed_integers(weight, form, random):
    codes, zeros, scales, groups, values = _integers(weight, form, random)
    middle = 2 ** (form.bits - 1)
    found = {"weight_scale": scales[0] if form.strategy == "tensor" else scales}
    if form.format == "pack-quantized":
        found["weight_packed"] = words(codes + middle, form.bits)
        found["weight_shape"] = np.array(weight.shape, np.int64)
        if not form.symmetric:
            found["weight_zero_point"] = words(zeros.T + middle, form.bits).T
    else:
        found["weight"] = codes.astype(np.int8)
        if not form.symmetric:
            found["weight_zero_point"] = zeros.astype(np.int8)
    if form.act_order:
        found["weight_g_idx"] = groups.astype(np.int32)
    return found, values


def _floats(weight, form):
    n, k = weight.shape
    rows, columns = {"tensor": (n, k), "channel": (1, k)}.get(form.strategy, form.block)
    scales = np.empty((-(-n // rows), -(-k // columns)))
    for i, j in np.ndindex(scales.shape):
        block = weight[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        scales[i, j] = np.abs(block).max() / 448
    if form.powers:
        scales = 2 ** np.ceil(np.log2(scales))
    scales = scales.astype(form.scale)
    wide = np.repeat(np.repeat(scales.astype(np.float64), rows, 0), columns, 1)[:n, :k]
    codes = np.clip(weight / wide, -448, 448).astype(E4M3)
    by_block = form.method == "fp8" and form.block
    stored = scales.reshape(()) if form.strategy == "tensor" else scales
    found = {"weight": codes, "weight_scale_inv" if by_block else "weight_scale": stored}
    # Of static activations; and nothing that is computed with.
    return found | {"input_scale": np.ones(1, np.float32)}, codes.astype(np.float64) * wide


def matrix(weight, form, random):
    """A matrix's tensors by ending, and its numbers."""
    if form.method in ("gptq", "awq"):
        return _gptq_or_awq(weight, form, random)
    if form.is_float:
        return _floats(weight, form)
    return _compressed_integers(weight, form, random)


def config(form):
    """``quantization_config``."""
    if form.method in ("gptq", "awq"):
        settings = {"bits": form.bits, "group_size": form.group}
    elif form.method == "fp8":
        settings = {"activation_scheme": "dynamic", "fmt": "e4m3"}
        if form.block:
            settings["weight_block_size"] = list(form.block)
    else:
        settings = _compressed_config(form)
    return {"quant_method": form.method, **settings, **form.config}


def _compressed_config(form):
    weights = {
        "num_bits": form.bits,
        "type": "int",
        "symmetric": form.symmetric,
        "strategy": form.strategy,
        "group_size": form.group,
        "actorder": "group" if form.act_order else None,
    }
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    if form.is_float:
        weights |= {"type": "float", "block_structure": form.block and list(form.block)}
        inputs["type"] = "float"
    group = {"targets": ["Linear"], "weights": weights}
    if form.format != "pack-quantized":
        group["input_activations"] = inputs
    return {
        "format": form.format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", r"re:.*\.router$"],
        "quantization_status": "compressed",
    }


def write(
    folder: Path,
    form: Form,
    damage: tuple[str, Any] | None = None,
    *,
    case: str = "llama",
    **settings: Any,
) -> tuple[Path, Path]:
    """The quantized folder, and one of the same numbers in float32.

    Args:
        folder: Where both are made.
        form: How matrices are stored.
        damage: A tensor of one matrix, and what makes another of it or ``None`` to take it away.
        case: Of the golden ones.
        **settings: Replace fields of ``quantization_config``.
    """
    quantized, floats = folder / "quantized", folder / "floats"
    for each in (quantized, floats):
        shutil.copytree(TINY / case, each)
    random = np.random.default_rng(7)
    stored, plain = {}, {}
    for name, tensor in load_file(TINY / case / "model.safetensors").items():
        weight = tensor.astype(np.float32)
        if "_proj" not in name or weight.ndim != 2:
            stored[name] = plain[name] = weight
            continue
        tensors, values = matrix(weight, form, random)
        prefix = name.removesuffix("weight")
        stored |= {prefix + end: np.ascontiguousarray(each) for end, each in tensors.items()}
        plain[name] = np.ascontiguousarray(values.astype(np.float32))
    if damage is not None:
        ending, change = damage
        name = f"model.layers.1.mlp.down_proj.{ending}"
        stored[name] = change(stored.get(name))
        stored = {name: tensor for name, tensor in stored.items() if tensor is not None}
    save_file(stored, quantized / "model.safetensors")
    save_file(plain, floats / "model.safetensors")
    edit(quantized, **{**config(form), **settings})
    return quantized, floats


def edit(folder: Path, **quantization: Any) -> None:
    """Give a folder this ``quantization_config``."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] = quantization
    path.write_text(json.dumps(values))
