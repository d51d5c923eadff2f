"""Tiny golden checkpoints, as they are and as GGUF files, and the oracle for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.reference import ReferenceExecutor

from inferlib.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from inferlib.loading import LoadedModel

TINY = Path(__file__).parent / "golden" / "data" / "tiny"


def reference_executor(path: Path) -> ReferenceExecutor:
    """The oracle for any checkpoint that can be loaded."""
    loaded = load(path)
    return ReferenceExecutor(loaded.program, canonical_weights(loaded))


def canonical_weights(loaded: LoadedModel) -> dict[str, NDArray[np.float32]]:
    """Every weight of the program: matrices dequantized and stacked, vectors as loaded."""
    weights = {vector.name: vector.values for vector in loaded.vectors}
    for matrix in loaded.matrices:
        parts = []
        for tensor, row_order in matrix.parts:
            array = loaded.weights.array(tensor)
            parts.append(array if row_order is None else array[row_order])
        weights[matrix.name] = np.concatenate(parts)
    return weights


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_GGUF_NAMES = _GGUF_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(case: str, path: Path, extra: Callable[[Any], None] = lambda _: None) -> None:
    """Write a golden case the way llama.cpp's converter does; ``extra`` adds metadata."""
    import json

    import gguf
    from safetensors.numpy import load_file

    config = json.loads((TINY / case / "config.json").read_text())
    tensors = load_file(TINY / case / "model.safetensors")
    architecture = {"gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    names = _GEMMA_GGUF_NAMES if architecture == "gemma3" else _GGUF_NAMES
    writer = gguf.GGUFWriter(path, architecture)
    _write_sizes(writer, config)
    extra(writer)
    for name, tensor in tensors.items():
        module, kind = name.rsplit(".", 1)
        prefix = ""
        if module.startswith("model.layers."):
            _, _, index, module = module.split(".", 3)
            prefix = f"blk.{index}."
        if architecture == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = "attention" if "q_proj" in module else "key_value"
            tensor = _permuted(tensor, config[f"num_{heads}_heads"])
        if architecture == "gemma3" and module.endswith("norm"):
            tensor = tensor + np.float32(1)
        writer.add_tensor(f"{prefix}{names[module]}.{kind}", np.ascontiguousarray(tensor))
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, config["head_dim"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: Any, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def _permuted(tensor: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """What the converter does to q and k of Llama: neighbours instead of halves."""
    heads = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return heads.swapaxes(1, 2).reshape(tensor.shape)


def _llama3_factors(rope: dict[str, float], head_dim: int) -> NDArray[np.float32]:
    """The converter's ``rope_freqs.weight``: by how much each frequency is divided."""
    factors = []
    old, low, high = (
        rope[key]
        for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    for pair in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (pair / head_dim)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.asarray(factors, np.float32)
