"""Small random models as GGUF files whose matrices are of chosen tensor types."""

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


class _Writer:
    """Adds random tensors; matrices take turns with the types, or are the float32 they mean."""

    def __init__(
        self, path: Path, architecture: str, types: tuple[str, ...], *, dequantized: bool
    ) -> None:
        self.metadata = gguf.GGUFWriter(path, architecture)
        self.rng = np.random.default_rng(5)
        self._names = cycle(types)
        self._dequantized = dequantized
        self.metadata.add_block_count(_LAYERS)
        self.metadata.add_context_length(256)
        self.metadata.add_embedding_length(_HIDDEN)
        self.metadata.add_head_count(_HEADS)
        self.metadata.add_layer_norm_rms_eps(1e-5)
        self.metadata.add_rope_freq_base(10000.0)

    def stacked(self, tensor: str, count: int, rows: int, columns: int) -> None:
        """``count`` matrices of one type in one tensor."""
        name = next(self._names)
        data = random_blocks(name, (count * rows, columns), self.rng)
        kind = GGMLQuantizationType[name]
        if self._dequantized:
            values = gguf.dequantize(data, kind).astype(np.float32)
            self.metadata.add_tensor(tensor, values.reshape(count, rows, columns))
        else:
            self.metadata.add_tensor(tensor, data.reshape(count, rows, -1), raw_dtype=kind)

    def matrix(self, tensor: str, rows: int, columns: int) -> None:
        name = next(self._names)
        data = random_blocks(name, (rows, columns), self.rng)
        kind = GGMLQuantizationType[name]
        if self._dequantized:
            self.metadata.add_tensor(tensor, gguf.dequantize(data, kind).astype(np.float32))
        else:
            self.metadata.add_tensor(tensor, data, raw_dtype=kind)

    def vector(self, tensor: str, size: int = _HIDDEN) -> None:
        self.metadata.add_tensor(tensor, self.rng.uniform(0.5, 1.5, size).astype(np.float32))

    def experts(self, prefix: str, count: int) -> None:
        """A router and the experts that it chooses from."""
        router = self.rng.normal(size=(count, _HIDDEN)) * 0.2
        self.metadata.add_tensor(f"{prefix}.ffn_gate_inp.weight", router.astype(np.float32))
        self.stacked(f"{prefix}.ffn_gate_exps.weight", count, _EXPERT_INTERMEDIATE, _HIDDEN)
        self.stacked(f"{prefix}.ffn_up_exps.weight", count, _EXPERT_INTERMEDIATE, _HIDDEN)
        self.stacked(f"{prefix}.ffn_down_exps.weight", count, _HIDDEN, _EXPERT_INTERMEDIATE)

    def finish(self) -> None:
        self.metadata.write_header_to_file()
        self.metadata.write_kv_data_to_file()
        self.metadata.write_tensors_to_file()
        self.metadata.close()


def write_random_llama(
    path: Path, *types: str, dequantized: bool = False, num_experts: int = 0
) -> None:
    """Write a Llama whose matrices take turns with ``types``, or the float32 numbers they mean.

    With experts it is a Mixtral, of which two are chosen. The file depends on nothing but its
    arguments; both forms hold the same numbers.
    """
    writer = _Writer(path, "llama", types, dequantized=dequantized)
    writer.metadata.add_feed_forward_length(_EXPERT_INTERMEDIATE if num_experts else _INTERMEDIATE)
    writer.metadata.add_head_count_kv(_KV_HEADS)
    if num_experts:
        writer.metadata.add_expert_count(num_experts)
        writer.metadata.add_expert_used_count(2)

    writer.matrix("token_embd.weight", VOCAB_SIZE, _HIDDEN)
    for layer in range(_LAYERS):
        prefix = f"blk.{layer}"
        writer.vector(f"{prefix}.attn_norm.weight")
        writer.matrix(f"{prefix}.attn_q.weight", _HEADS * _HEAD_DIM, _HIDDEN)
        writer.matrix(f"{prefix}.attn_k.weight", _KV_HEADS * _HEAD_DIM, _HIDDEN)
        writer.matrix(f"{prefix}.attn_v.weight", _KV_HEADS * _HEAD_DIM, _HIDDEN)
        writer.matrix(f"{prefix}.attn_output.weight", _HIDDEN, _HEADS * _HEAD_DIM)
        writer.vector(f"{prefix}.ffn_norm.weight")
        if num_experts:
            writer.experts(prefix, num_experts)
            continue
        writer.matrix(f"{prefix}.ffn_gate.weight", _INTERMEDIATE, _HIDDEN)
        writer.matrix(f"{prefix}.ffn_up.weight", _INTERMEDIATE, _HIDDEN)
        writer.matrix(f"{prefix}.ffn_down.weight", _HIDDEN, _INTERMEDIATE)
    writer.vector("output_norm.weight")
    writer.matrix("output.weight", VOCAB_SIZE, _HIDDEN)
    writer.finish()


_LATENT, _NOPE, _ROPE, _VALUE = 256, 64, 32, 96


def write_random_deepseek(path: Path, *types: str, dequantized: bool = False) -> None:
    """Write a DeepSeek 3: latent attention; sigmoid scores, two of four groups, a shared expert.

    ``types`` must be of blocks of 32: keys have 64 columns.
    """
    writer = _Writer(path, "deepseek2", types, dequantized=dequantized)
    metadata = writer.metadata
    metadata.add_feed_forward_length(_INTERMEDIATE)
    metadata.add_kv_lora_rank(_LATENT)
    metadata.add_key_length_mla(_NOPE + _ROPE)
    metadata.add_value_length_mla(_VALUE)
    metadata.add_rope_dimension_count(_ROPE)
    metadata.add_leading_dense_block_count(1)
    metadata.add_expert_count(8)
    metadata.add_expert_used_count(3)
    metadata.add_expert_shared_count(1)
    metadata.add_expert_feed_forward_length(_EXPERT_INTERMEDIATE)
    metadata.add_expert_weights_scale(1.5)
    metadata.add_expert_weights_norm(value=True)
    metadata.add_expert_group_count(4)
    metadata.add_expert_group_used_count(2)
    metadata.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)

    writer.matrix("token_embd.weight", VOCAB_SIZE, _HIDDEN)
    for layer in range(_LAYERS):
        prefix = f"blk.{layer}"
        writer.vector(f"{prefix}.attn_norm.weight")
        writer.matrix(f"{prefix}.attn_q.weight", _HEADS * (_NOPE + _ROPE), _HIDDEN)
        writer.matrix(f"{prefix}.attn_kv_a_mqa.weight", _LATENT + _ROPE, _HIDDEN)
        writer.vector(f"{prefix}.attn_kv_a_norm.weight", _LATENT)
        writer.stacked(f"{prefix}.attn_k_b.weight", _HEADS, _LATENT, _NOPE)
        writer.stacked(f"{prefix}.attn_v_b.weight", _HEADS, _VALUE, _LATENT)
        writer.matrix(f"{prefix}.attn_output.weight", _HIDDEN, _HEADS * _VALUE)
        writer.vector(f"{prefix}.ffn_norm.weight")
        if layer == 0:
            size, end = _INTERMEDIATE, ""
        else:
            writer.experts(prefix, 8)
            writer.vector(f"{prefix}.exp_probs_b.bias", 8)
            size, end = _EXPERT_INTERMEDIATE, "_shexp"
        writer.matrix(f"{prefix}.ffn_gate{end}.weight", size, _HIDDEN)
        writer.matrix(f"{prefix}.ffn_up{end}.weight", size, _HIDDEN)
        writer.matrix(f"{prefix}.ffn_down{end}.weight", _HIDDEN, size)
    writer.vector("output_norm.weight")
    writer.matrix("output.weight", VOCAB_SIZE, _HIDDEN)
    writer.finish()
