"""Golden cases as GGUF files, the way llama.cpp's converter writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.checkpoints import DECODERS, TINY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

    Tensor = NDArray[np.float32]

GGUF_CASES = (
    *("llama", "llama-tied-mha", "llama3-rope", "qwen2", "qwen3", "gemma3"),
    *("gemma", "gemma2", "phi3", "olmo2", "granite", "smollm3"),
    *("gpt2", "gpt-neox", "starcoder2", "mixtral", "qwen3-moe", "gpt-oss"),
    *("deepseek-v2", "deepseek-v3"),
)
EVERY_CASE = (*DECODERS, *(f"{case} as GGUF" for case in GGUF_CASES))

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
}


@dataclass(frozen=True)
class _Family:
    """How the converter treats a ``model_type``.

    Attributes:
        architecture: ``general.architecture``, if it is not the ``model_type``.
        names: Where they differ from ``_NAMES``.
        layer: Beginning of a layer's tensors.
        permuted: Whether q and k are turned for interleaved RoPE.
        norms_plus_one: Whether norms become ``w + 1``.
    """

    architecture: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    layer: str = "model.layers."
    permuted: bool = False
    norms_plus_one: bool = False


_AROUND = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_EXPERTS = {"mlp.gate": "ffn_gate_inp"} | {
    f"mlp.experts.{name}_proj": f"ffn_{name}_exps" for name in ("gate", "up", "down")
}
_MIXTRAL = {"block_sparse_moe.gate": "ffn_gate_inp"} | {
    f"block_sparse_moe.experts.{name}": f"ffn_{own}_exps"
    for name, own in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
}
_GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NEOX = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_GPT_OSS = {
    "self_attn.sinks": "attn_sinks.weight",
    "post_attention_layernorm": "post_attention_norm",
    "mlp.router": "ffn_gate_inp",
}
_DEEPSEEK = _EXPERTS | {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.k_b": "attn_k_b",
    "self_attn.v_b": "attn_v_b",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "exp_probs_b": "exp_probs_b",
}
_FAMILIES = {
    "deepseek_v2": _Family(architecture="deepseek2", names=_DEEPSEEK),
    "deepseek_v3": _Family(architecture="deepseek2", names=_DEEPSEEK),
    "llama": _Family(permuted=True),
    "granite": _Family(permuted=True),
    "smollm3": _Family(permuted=True),
    "mixtral": _Family(architecture="llama", names=_MIXTRAL, permuted=True),
    "qwen3_moe": _Family(architecture="qwen3moe", names=_EXPERTS),
    "gemma": _Family(norms_plus_one=True),
    "gemma2": _Family(names=_AROUND, norms_plus_one=True),
    "gemma3_text": _Family(architecture="gemma3", names=_AROUND, norms_plus_one=True),
    "olmo2": _Family(names=_AROUND),
    "gpt2": _Family(names=_GPT2, layer="transformer.h."),
    "gpt_neox": _Family(architecture="gptneox", names=_NEOX, layer="gpt_neox.layers."),
    "starcoder2": _Family(names={"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}),
    "gpt_oss": _Family(architecture="gpt-oss", names=_GPT_OSS),
}


def path_of(case: str, temporary: pytest.TempPathFactory) -> Path:
    """Where one of ``EVERY_CASE`` is; a GGUF file is written now."""
    name, _, as_gguf = case.partition(" as ")
    if not as_gguf:
        return TINY / name
    path = temporary.mktemp(name) / "model.gguf"
    write_gguf(name, path)
    return path


def golden_of(case: str) -> Mapping[str, NDArray[Any]]:
    """What transformers computed of one of ``EVERY_CASE``."""
    golden: Mapping[str, NDArray[Any]] = np.load(TINY / case.partition(" as ")[0] / "reference.npz")
    return golden


def write_gguf(case: str, path: Path, extra: Callable[[Any], None] = lambda _: None) -> None:
    """Write a golden case; ``extra`` adds metadata."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((TINY / case / "config.json").read_text())
    tensors = _prepared(config, load_file(TINY / case / "model.safetensors"))
    family = _FAMILIES.get(config["model_type"], _Family())
    writer = gguf.GGUFWriter(path, family.architecture or config["model_type"])
    _write_sizes(writer, config)
    extra(writer)
    stacks: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        own = _name(name, family)
        if family.permuted and ".attn_q." in own:
            tensor = _permuted(tensor, config["num_attention_heads"])
        if family.permuted and ".attn_k." in own:
            tensor = _permuted(tensor, config["num_key_value_heads"])
        if family.norms_plus_one and own.endswith("norm.weight"):
            tensor = tensor + np.float32(1)
        stacks.setdefault(own, []).append(tensor)
    for own, parts in stacks.items():
        tensor = np.stack(parts) if "_exps." in own and len(parts) > 1 else parts[0]
        writer.add_tensor(own, np.ascontiguousarray(tensor))
    rope = config.get("rope_parameters", {})
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, config["head_dim"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str, family: _Family) -> str:
    """The converter's name; experts lose their number, for they are stacked in its order."""
    if name.endswith("sinks"):
        module, kind = name, ""
    else:
        module, kind = name.rsplit(".", 1)
    prefix = ""
    if module.startswith(family.layer):
        index, module = module.removeprefix(family.layer).split(".", 1)
        prefix = f"blk.{index}."
    if ".experts." in module:
        before, _, after = module.partition(".experts.")
        module = f"{before}.experts.{after.lstrip('0123456789.')}"
    own = prefix + (_NAMES | family.names | _STACKED)[module]
    return f"{own}.{kind}" if kind else own


_STACKED = {f"stacked.{name}": f"ffn_{name}_exps" for name in ("gate", "up", "down")}


def _prepared(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the converter does to tensors before it names them."""
    prepared = {}
    for name, tensor in tensors.items():
        match config["model_type"]:
            case "gpt2" if ".c_" in name and name.endswith("weight"):
                prepared[name] = tensor.T
            case "gpt_neox" if ".query_key_value." in name:
                heads = tensor.reshape(config["num_attention_heads"], 3, -1, *tensor.shape[1:])
                prepared[name] = heads.swapaxes(0, 1).reshape(tensor.shape)
            case "deepseek_v2" | "deepseek_v3" if ".kv_b_proj." in name:
                prepared |= _split_latent(config, name, tensor)
            case "deepseek_v3" if name.endswith("e_score_correction_bias"):
                prepared[name.replace("mlp.gate.e_score_correction_bias", "exp_probs_b.bias")] = (
                    tensor
                )
            case "gpt_oss" if ".experts." in name:
                prepared |= _split_experts(name, tensor)
            case "gemma2" if ".q_proj." in name:
                # llama.cpp scales by the head's size alone; the case has another number there.
                ratio = config["head_dim"] / config["query_pre_attn_scalar"]
                prepared[name] = tensor * np.float32(ratio**0.5)
            case _:
                prepared[name] = tensor
    return prepared


def _split_latent(config: dict[str, Any], name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Keys and values of each head; keys transposed, as they are multiplied into queries."""
    heads = tensor.reshape(config["num_attention_heads"], -1, config["kv_lora_rank"])
    k, v = np.split(heads, [config["qk_nope_head_dim"]], axis=1)
    return {
        name.replace("kv_b_proj", "k_b"): k.swapaxes(1, 2),
        name.replace("kv_b_proj", "v_b"): v,
    }


def _split_experts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    layer = name.partition("mlp.experts.")[0]
    kind = "bias" if name.endswith("_bias") else "weight"
    turned = tensor if kind == "bias" else tensor.swapaxes(1, 2)
    if ".down_proj" in name:
        return {f"{layer}stacked.down.{kind}": turned}
    return {
        f"{layer}stacked.gate.{kind}": turned[:, 0::2],
        f"{layer}stacked.up.{kind}": turned[:, 1::2],
    }


def _write_sizes(writer: Any, config: dict[str, Any]) -> None:  # noqa: C901  (one key after another)
    if config["model_type"] == "gpt2":
        config = config | {
            "num_hidden_layers": config["n_layer"],
            "max_position_embeddings": config["n_positions"],
            "hidden_size": config["n_embd"],
            "intermediate_size": 4 * config["n_embd"],
            "num_attention_heads": config["n_head"],
            "num_key_value_heads": config["n_head"],
        }
    if config["model_type"] == "gpt_neox":
        config = config | {"num_key_value_heads": config["num_attention_heads"]}
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if key in config:
            writer.add_layer_norm_eps(config[key])
    if "rope_parameters" in config:
        _write_rope(writer, config, config["rope_parameters"])
    if config.get("head_dim") and "kv_lora_rank" not in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        size = config.get("moe_intermediate_size", config["intermediate_size"])
        writer.add_expert_feed_forward_length(size)
    match config["model_type"]:
        case "deepseek_v2" | "deepseek_v3":
            _write_deepseek(writer, config)
        case "gemma2":
            writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        case "granite":
            writer.add_attention_scale(config["attention_multiplier"])
            writer.add_embedding_scale(config["embedding_multiplier"])
            writer.add_residual_scale(config["residual_multiplier"])
            writer.add_logit_scale(config["logits_scaling"])
        case "gpt_neox":
            writer.add_parallel_residual(config["use_parallel_residual"])


def _write_deepseek(writer: Any, config: dict[str, Any]) -> None:
    import gguf

    latent, rope_dim = config["kv_lora_rank"], config["qk_rope_head_dim"]
    if config["q_lora_rank"]:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rope_dim)
    writer.add_value_length(latent)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope_dim)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope_dim)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_group_used_count(config["topk_group"])
    is_third = config["model_type"] == "deepseek_v3"
    writer.add_expert_weights_norm(is_third and config["norm_topk_prob"])
    functions = gguf.ExpertGatingFuncType
    writer.add_expert_gating_func(functions.SIGMOID if is_third else functions.SOFTMAX)
    if "mscale_all_dim" in config["rope_parameters"]:
        writer.add_rope_scaling_yarn_log_mul(0.1 * config["rope_parameters"]["mscale_all_dim"])


def _write_rope(writer: Any, config: dict[str, Any], rope: dict[str, Any]) -> None:
    import gguf

    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _permuted(tensor: Tensor, num_heads: int) -> Tensor:
    """What the converter does to q and k of Llama: neighbours instead of halves."""
    heads = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return heads.swapaxes(1, 2).reshape(tensor.shape)


def _llama3_factors(rope: dict[str, float], head_dim: int) -> Tensor:
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
