"""GPT-NeoX (Pythia): attention and MLP in parallel, part of each head rotated, q, k, v by head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import AttentionSpec, LayerSpec
from .architecture import Architecture
from .decoder_config import (
    attention_from_config,
    attention_from_gguf,
    mlp_from_config,
    mlp_from_gguf,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .fields import Fields
from .tensor_names import GGUF, HUGGING_FACE, HeadRows, Part, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .architecture import GgufHeader
    from .tensor_names import WeightMap

_ROTARY_PART = 0.25


def gpt_neox_from_config(config: Fields) -> ModelSpec:
    """GPT-NeoX: as many KV heads as heads, and transformers 4's own names for RoPE."""
    usual = {
        "num_key_value_heads": config.size("num_attention_heads"),
        "rope_theta": config.positive("rotary_emb_base", "rope_theta", default=10_000.0),
        "partial_rotary_factor": config.positive("rotary_pct", default=_ROTARY_PART),
    }
    config = Fields({**config.values, **usual}, source=config.source)
    bias = config.flag("attention_bias", default=True)
    layer = LayerSpec(
        attention=replace(attention_from_config(config), qkv_bias=bias, o_bias=bias),
        mlp=replace(mlp_from_config(config), gated=False, bias=True),
        parallel=config.flag("use_parallel_residual", default=True),
    )
    layers = [layer] * num_layers_from_config(config)
    return model_from_config(config, "gpt_neox", layers, norm="layer")


def gpt_neox_from_gguf(header: GgufHeader) -> ModelSpec:
    """GPT-NeoX. GGUF does not say which GELU: Pythia's is the exact one."""
    layer = LayerSpec(
        attention=attention_from_gguf(header),
        mlp=mlp_from_gguf(header, "gelu", gated=False),
        parallel=header.metadata.flag(header.key("use_parallel_residual"), default=True),
    )
    layers = [layer] * num_layers_from_gguf(header)
    return model_from_gguf(header, "gpt_neox", layers, norm="layer")


_HUGGING_FACE = replace(
    HUGGING_FACE,
    embed_tokens="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}.",
    qkv=("attention.query_key_value",),
    o_proj="attention.dense",
    up_proj="mlp.dense_h_to_4h",
    down_proj="mlp.dense_4h_to_h",
    norm="gpt_neox.final_layer_norm",
    lm_head="embed_out",
)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    weights = weight_map(spec, _HUGGING_FACE.beside(tensors))
    for index, layer in enumerate(spec.layers):
        attention = layer.attention
        if not isinstance(attention, AttentionSpec):
            continue
        for kind, columns in (("weight", (spec.hidden_size,)), ("bias", ())):
            name = f"layers.{index}.self_attn.qkv_proj.{kind}"
            (fused,) = weights[name]
            weights[name] = tuple(
                Part(
                    fused.tensor,
                    attention.q_size,
                    HeadRows(
                        num_heads=attention.num_heads,
                        stored=3 * attention.head_dim,
                        first=kind_of_head * attention.head_dim,
                        count=attention.head_dim,
                    ),
                    shape=(fused.rows, *columns),
                )
                for kind_of_head in range(3)
            )
    return weights


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, replace(GGUF, qkv=("attn_qkv",)))


GPT_NEOX = Architecture(
    name="gpt_neox",
    classes=("GPTNeoXForCausalLM",),
    model_types=("gpt_neox",),
    gguf_names=("gptneox",),
    spec_from_config=gpt_neox_from_config,
    spec_from_gguf=gpt_neox_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
    ignored_endings=(".attention.bias", ".attention.masked_bias"),
)
