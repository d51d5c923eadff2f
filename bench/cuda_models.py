"""Models of real shapes with random weights that are made on the device: no file is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from inferlib.architectures import Fields, architecture_of_config
from inferlib.checkpoint import Checkpoint
from inferlib.executors.cuda_matrices import DeviceWeights, Segment
from inferlib.executors.cuda_weights import QuantizedMatrix, pack_float, pack_quantized
from inferlib.transformer import record

if TYPE_CHECKING:
    from inferlib._core import Program
    from inferlib.devices import Device, DeviceArray
    from inferlib.executors.cuda_weights import PackedMatrix
    from inferlib.model_spec import ModelSpec

Weights = Literal["bf16", "int8", "int4"]

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _config(
    kind: str, sizes: str, *, vocab_size: int, tied: bool, rope_theta: float, **others: object
) -> dict[str, object]:
    """A ``config.json``; ``sizes``: hidden, intermediate, layers, heads, KV heads, head dim."""
    names = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim"),
    )
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
        **dict(zip(names, map(int, sizes.split()), strict=True)),
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "rope_theta": rope_theta,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_position_embeddings": 32_768,
        **others,
    }


CONFIGS = {
    "Qwen3-0.6B": _config(
        "Qwen3", "1024 3072 28 16 8 128", vocab_size=151_936, tied=True, rope_theta=1e6
    ),
    "Llama-3.2-1B": _config(
        "Llama",
        "2048 8192 16 32 8 64",
        vocab_size=128_256,
        tied=True,
        rope_theta=5e5,
        rope_scaling=_LLAMA3_ROPE | {"factor": 32.0},
    ),
    "Llama-3.1-8B": _config(
        "Llama",
        "4096 14336 32 32 8 128",
        vocab_size=128_256,
        tied=False,
        rope_theta=5e5,
        rope_scaling=_LLAMA3_ROPE | {"factor": 8.0},
    ),
}
TINY = {
    "tiny": _config("Llama", "128 256 2 2 1 64", vocab_size=320, tied=True, rope_theta=1e4),
}
"""For a run on the emulator."""

_PANELS = 64
"""Panels of random numbers that are made on the host; a matrix repeats them."""


def spec_of(name: str) -> ModelSpec:
    """What a model is."""
    config = Fields((CONFIGS | TINY)[name], source=name)
    return architecture_of_config(config).spec_from_config(config)


class RandomWeights:
    """Fills an executor's weights in place.

    Args:
        weights: What the matrices of the layers are stored as; embedding and head are bf16.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._packed: dict[tuple[str, int], PackedMatrix] = {}
        self._random = np.random.default_rng(0)

    def load(self, target: DeviceWeights, device: Device, program: Program) -> None:
        """Give every weight of the program."""
        looked_up = {op["weight"] for kind, op in program.ops if kind == "embedding"}
        heads = {op["weight"] for kind, op in program.ops if kind == "lm_head"}
        multiplied = {op["weight"] for kind, op in program.ops if kind == "linear"} | heads
        for name, shape in program.weights.items():
            if len(shape) == 1:
                target.load_vector(name, np.ones(shape, np.float32))
                continue
            if name in looked_up and (target.has_rows or name not in multiplied):
                rows = self._bfloat16(min(shape[0], 16 * _PANELS), shape[1])
                target.tables[name] = _repeated(device, rows, shape[0], name)
                target.num_bytes += target.tables[name].nbytes
            if name in multiplied:
                layout = "bf16" if name in heads else self._weights
                if layout == "bf16" and target.has_rows:
                    segment = self._rows(target, device, name, (shape[0], shape[1]))
                else:
                    segment = self._segment(device, layout, name, (shape[0], shape[1]))
                target.matrices[name] = (segment,)
                target.prepare_products({segment.layout})
                if segment.codes is not target.tables.get(name):
                    scale_bytes = 0 if segment.scales is None else segment.scales.nbytes
                    target.num_bytes += segment.codes.nbytes + scale_bytes

    def _rows(
        self, target: DeviceWeights, device: Device, name: str, shape: tuple[int, int]
    ) -> Segment:
        codes = target.tables.get(name)
        if codes is None:
            rows = self._bfloat16(min(shape[0], 16 * _PANELS), shape[1])
            codes = _repeated(device, rows, shape[0], name)
        return Segment(layout="rows", first_row=0, shape=shape, codes=codes, scales=None, group=0)

    def _segment(self, device: Device, layout: str, name: str, shape: tuple[int, int]) -> Segment:
        n, k = shape
        panels = -(-n // 16)
        packed = self._pack(layout, k)
        scales = packed.scales
        return Segment(
            layout=packed.layout,
            first_row=0,
            shape=shape,
            codes=_repeated(device, packed.codes, panels, name),
            scales=None if scales is None else _repeated(device, scales, panels, name),
            group=packed.group,
        )

    def _pack(self, layout: str, k: int) -> PackedMatrix:
        if (layout, k) not in self._packed:
            n = 16 * _PANELS
            if layout == "bf16":
                self._packed[layout, k] = pack_float(self._bfloat16(n, k))
            else:
                top = 16 if layout == "int4" else 128
                scales = np.full((n, k // 32), 2 / top / np.sqrt(k), np.float32)
                matrix = QuantizedMatrix(
                    codes=self._random.integers(0 if top == 16 else -top, top, (n, k), np.int8),
                    scales=scales,
                    minimums=-7.5 * scales if layout == "int4" else None,
                )
                self._packed[layout, k] = pack_quantized(matrix)
        return self._packed[layout, k]

    def _bfloat16(self, n: int, k: int) -> np.ndarray:
        values = self._random.standard_normal((n, k), np.float32) / np.float32(np.sqrt(k))
        return (values.view(np.uint32) >> 16).astype(np.uint16)


def _repeated(device: Device, block: np.ndarray, rows: int, name: str) -> DeviceArray:
    """An array of ``rows`` first entries that repeats a block."""
    array = device.alloc((rows, *block.shape[1:]), block.dtype, name)
    for start in range(0, rows, len(block)):
        part = block[: min(len(block), rows - start)]
        device.upload(array[start : start + len(part)], np.ascontiguousarray(part))
    return array


def checkpoint_of(name: str, weights: Weights, device: Device) -> Checkpoint:
    """A model to assemble."""
    spec = spec_of(name)
    program = record(spec)
    sizes = {"bf16": 2.0, "int8": 1.125, "int4": 0.75}
    elements = sum(int(np.prod(shape)) for shape in program.weights.values())
    return Checkpoint(
        name=name,
        source=None,
        spec=spec,
        program=program,
        load_weights=lambda target, _: RandomWeights(weights).load(target, device, program),
        weight_bytes=int(elements * sizes[weights]),
        tokenizer=None,
        chat_template=None,
        generation_config={},
        eos_token_ids=(),
        hash_weights=lambda: f"random weights of {name} in {weights}",
    )
