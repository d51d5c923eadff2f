"""A model in TransformerLens' words: what its hooks are called, and what its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformer_lens.config import TransformerBridgeConfig

from ..architectures import ARCHITECTURES
from ..capture_points import FINAL_NORMALIZED
from ..model_spec import LatentAttentionSpec, MlpSpec, MoeSpec
from ..transformer import FINAL_HIDDEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model_spec import LayerSpec, ModelSpec

_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "clamped_swiglu": "silu"}


def hook_names(spec: ModelSpec, capture_points: Sequence[str]) -> dict[str, str]:
    """Return the bridges' names of capture points: hook → the model's own name.

    Where a layer is put together otherwise than Llama's (norms behind branches alone, or over the
    stream), the bridges' names mean something else from one family to the next; such layers keep
    the older names, which say what is captured.
    """
    names: dict[str, str] = {}
    for name in capture_points:
        block, _, hook = name.rpartition(".")
        if name.startswith("blocks.") and block.count(".") == 1:
            layer = spec.layers[int(block.split(".")[1])]
            native = _block_hooks(layer).get(hook, hook)
            names[f"{block}.{native}"] = name
        else:
            names[_OUTSIDE.get(name, name)] = name
    return names


_OUTSIDE = {
    "hook_embed": "embed.hook_out",
    "hook_pos_embed": "pos_embed.hook_out",
    FINAL_HIDDEN: "ln_final.hook_out",
    FINAL_NORMALIZED: FINAL_NORMALIZED,
}


def _block_hooks(layer: LayerSpec) -> dict[str, str]:
    """What the bridges call points of a layer, within its block."""
    if layer.norm_after or not layer.pre_norm:
        return {}
    return {
        "hook_resid_pre": "hook_in",
        "hook_attn_out": "ln1_post.hook_out" if layer.post_norm else "attn.hook_out",
        "hook_resid_mid": "ln2.hook_in",
        "hook_mlp_out": "ln2_post.hook_out" if layer.post_norm else "mlp.hook_out",
        "hook_resid_post": "hook_out",
    }


def bridge_config_of(spec: ModelSpec, *, name: str, max_model_len: int) -> TransformerBridgeConfig:
    """Describe a model to TransformerLens, as far as a model that it does not run needs it."""
    layer = spec.layers[0]
    attention, mlp = layer.attention, layer.mlp
    settings: dict[str, object] = {
        "d_model": spec.hidden_size,
        "n_layers": spec.num_layers,
        "n_ctx": max_model_len,
        "n_heads": attention.num_heads,
        "d_vocab": spec.vocab_size,
        "d_mlp": mlp.intermediate_size,
        "architecture": class_of(spec),
        "model_name": name,
        "act_fn": _ACTIVATIONS.get(mlp.activation, mlp.activation),
        "gated_mlp": not isinstance(mlp, MlpSpec) or mlp.gated,
        "eps": spec.norm_eps,
        "normalization_type": "RMS" if spec.norm == "rms" else "LN",
        "uses_rms_norm": spec.norm == "rms",
        "final_rms": spec.norm == "rms",
        "positional_embedding_type": "standard" if attention.rope is None else "rotary",
        "rotary_dim": None if attention.rope is None else 2 * len(attention.rope.inv_freq),
        "attn_scale": 1 / attention.scale,
        "parallel_attn_mlp": layer.parallel,
        "tie_word_embeddings": spec.tied_embeddings,
        "use_normalization_before_and_after": layer.pre_norm and layer.post_norm,
        "device": "cpu",
    }
    if isinstance(attention, LatentAttentionSpec):
        settings["d_head"] = attention.qk_head_dim
    else:
        settings["d_head"] = attention.head_dim
        settings["use_qk_norm"] = attention.qk_norm is not None
        settings["attention_dir"] = "bidirectional" if attention.bidirectional else "causal"
        if attention.num_kv_heads != attention.num_heads:
            settings["n_key_value_heads"] = attention.num_kv_heads
        if attention.softcap is not None:
            settings["attn_scores_soft_cap"] = attention.softcap
    if isinstance(mlp, MoeSpec):
        settings |= {"num_experts": mlp.num_experts, "experts_per_token": mlp.top_k}
    if spec.final_softcap is not None:
        settings["output_logits_soft_cap"] = spec.final_softcap
    return TransformerBridgeConfig(**settings)


def class_of(spec: ModelSpec) -> str:
    """Return Hugging Face's class of a family, such as ``"LlamaForCausalLM"``."""
    family = next(each for each in ARCHITECTURES if each.name == spec.architecture)
    heads = ("ForMaskedLM",) if not spec.lm_head else ("ForCausalLM", "LMHeadModel")
    named = [name for name in family.classes if name.endswith(heads)]
    return (named or list(family.classes))[0]
