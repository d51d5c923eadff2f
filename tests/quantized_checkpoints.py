"""Small random Llamas as GGUF files whose matrices are of chosen tensor types."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import gguf
import ml_dtypes
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VOCAB_SIZE = 272
_HIDDEN, _INTERMEDIATE, _HEADS, _KV_HEADS, _LAYERS = 256, 512, 4, 2, 2
_HEAD_DIM = _HIDDEN // _HEADS
_EXPERT_INTERMEDIATE = 256

# Where the halves of a block are that scale its numbers, and how large those numbers are.
_SCALES: dict[str, tuple[tuple[int, float], ...]] = {
    "Q4_0": ((0, 8),),
    "Q4_1": ((0, 8), (2, 1)),
    "Q5_0": ((0, 16),),
    "Q5_1": ((0, 16), (2, 1)),
    "Q8_0": ((0, 128),),
    "Q2_K": ((80, 24), (82, 8)),
    "Q3_K": ((108, 100),),
    "Q4_K": ((0, 250), (2, 30)),
    "Q5_K": ((0, 500), (2, 30)),
    "Q6_K": ((208, 2000),),
    "IQ4_NL": ((0, 100),),
    "IQ4_XS": ((0, 1600),),
}
_SIZE = 0.08
"""About the size of the weights."""


def random_blocks(name: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A matrix as the file's bytes, ``[rows, bytes per row]``; quantized blocks are made by hand.

    Every code and every small scale that there is occurs.
    """
    rows, columns = shape
    if name == "F32":
        return (rng.normal(size=shape) * _SIZE).astype(np.float32).view(np.uint8)
    if name == "F16":
        return (rng.normal(size=shape) * _SIZE).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return (rng.normal(size=shape) * _SIZE).astype(ml_dtypes.bfloat16).view(np.uint8)
    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (rows * columns // block_size, block_bytes), dtype=np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(119, 123, len(blocks))
    for at, numbers in _SCALES.get(name, ()):
        scales = (rng.uniform(0.5, 1.5, len(blocks)) * _SIZE / numbers).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def write_random_llama(
    path: Path, *types: str, dequantized: bool = False, num_experts: int = 0
) -> None:
    """Write a Llama whose matrices take turns with ``types``, or the float32 numbers they mean.

    With experts it is a Mixtral, of which two are chosen. The file depends on nothing but its
    arguments; both forms hold the same numbers.
    """
    rng = np.random.default_rng(5)
    names = cycle(types)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_EXPERT_INTERMEDIATE if num_experts else _INTERMEDIATE)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(2)

    def experts(tensor: str, rows: int, columns: int) -> None:
        name = next(names)
        data = random_blocks(name, (num_experts * rows, columns), rng)
        kind = GGMLQuantizationType[name]
        if dequantized:
            values = gguf.dequantize(data, kind).astype(np.float32)
            writer.add_tensor(tensor, values.reshape(num_experts, rows, columns))
        else:
            stacked = data.reshape(num_experts, rows, -1)
            writer.add_tensor(tensor, stacked, raw_dtype=kind)

    def matrix(tensor: str, rows: int, columns: int) -> None:
        name = next(names)
        data = random_blocks(name, (rows, columns), rng)
        kind = GGMLQuantizationType[name]
        if dequantized:
            writer.add_tensor(tensor, gguf.dequantize(data, kind).astype(np.float32))
        else:
            writer.add_tensor(tensor, data, raw_dtype=kind)

    def vector(tensor: str) -> None:
        writer.add_tensor(tensor, rng.uniform(0.5, 1.5, _HIDDEN).astype(np.float32))

    matrix("token_embd.weight", VOCAB_SIZE, _HIDDEN)
    for layer in range(_LAYERS):
        prefix = f"blk.{layer}"
        vector(f"{prefix}.attn_norm.weight")
        matrix(f"{prefix}.attn_q.weight", _HEADS * _HEAD_DIM, _HIDDEN)
        matrix(f"{prefix}.attn_k.weight", _KV_HEADS * _HEAD_DIM, _HIDDEN)
        matrix(f"{prefix}.attn_v.weight", _KV_HEADS * _HEAD_DIM, _HIDDEN)
        matrix(f"{prefix}.attn_output.weight", _HIDDEN, _HEADS * _HEAD_DIM)
        vector(f"{prefix}.ffn_norm.weight")
        if num_experts:
            router = rng.normal(size=(num_experts, _HIDDEN)) * 0.2
            writer.add_tensor(f"{prefix}.ffn_gate_inp.weight", router.astype(np.float32))
            experts(f"{prefix}.ffn_gate_exps.weight", _EXPERT_INTERMEDIATE, _HIDDEN)
            experts(f"{prefix}.ffn_up_exps.weight", _EXPERT_INTERMEDIATE, _HIDDEN)
            experts(f"{prefix}.ffn_down_exps.weight", _HIDDEN, _EXPERT_INTERMEDIATE)
            continue
        matrix(f"{prefix}.ffn_gate.weight", _INTERMEDIATE, _HIDDEN)
        matrix(f"{prefix}.ffn_up.weight", _INTERMEDIATE, _HIDDEN)
        matrix(f"{prefix}.ffn_down.weight", _HIDDEN, _INTERMEDIATE)
    vector("output_norm.weight")
    matrix("output.weight", VOCAB_SIZE, _HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
