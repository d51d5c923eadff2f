"""Phi 3 and 4: one tensor for q, k and v and one for gate and up; often long-context RoPE."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import LayerSpec
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
from .tensor_names import GGUF, HUGGING_FACE, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap


def phi3_from_config(config: Fields) -> ModelSpec:
    """Phi 3 and the Phi 4 models that are built like it."""
    attention = replace(
        attention_from_config(config), window=config.optional_size("sliding_window")
    )
    layer = LayerSpec(attention=attention, mlp=mlp_from_config(config))
    return model_from_config(config, "phi3", [layer] * num_layers_from_config(config))


def phi3_from_gguf(header: GgufHeader) -> ModelSpec:
    """Phi 3."""
    attention = replace(attention_from_gguf(header), window=header.window())
    layer = LayerSpec(attention=attention, mlp=mlp_from_gguf(header, "silu"))
    return model_from_gguf(header, "phi3", [layer] * num_layers_from_gguf(header))


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    names = replace(
        HUGGING_FACE.beside(tensors),
        qkv=("self_attn.qkv_proj",),
        gate_up=("mlp.gate_up_proj",),
    )
    return weight_map(spec, names)


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, replace(GGUF, qkv=("attn_qkv",), gate_up=("ffn_up",)))


PHI3 = Architecture(
    name="phi3",
    classes=("Phi3ForCausalLM",),
    model_types=("phi3",),
    gguf_names=("phi3",),
    spec_from_config=phi3_from_config,
    spec_from_gguf=phi3_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
