"""Granite 3: Llama with multipliers on embedding, scores, branches and logits."""

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


def granite_from_config(config: Fields) -> ModelSpec:
    """Granite 3, dense."""
    bias = config.flag("attention_bias", default=False)
    attention = replace(
        attention_from_config(config),
        scale=config.positive("attention_multiplier", default=1.0),
        qkv_bias=bias,
        o_bias=bias,
    )
    mlp = replace(mlp_from_config(config), bias=config.flag("mlp_bias", default=False))
    layers = [LayerSpec(attention=attention, mlp=mlp)] * num_layers_from_config(config)
    return replace(
        model_from_config(config, "granite", layers),
        embedding_scale=config.positive("embedding_multiplier", default=1.0),
        residual_scale=config.positive("residual_multiplier", default=1.0),
        logits_scale=1 / config.positive("logits_scaling", default=1.0),
    )


def granite_from_gguf(header: GgufHeader) -> ModelSpec:
    """Granite 3, dense; a multiplier that is absent is none."""
    metadata = header.metadata
    attention = attention_from_gguf(header)
    scale = metadata.positive(header.key("attention.scale"), default=attention.scale)
    layer = LayerSpec(attention=replace(attention, scale=scale), mlp=mlp_from_gguf(header, "silu"))
    return replace(
        model_from_gguf(header, "granite", [layer] * num_layers_from_gguf(header)),
        embedding_scale=metadata.positive(header.key("embedding_scale"), default=1.0),
        residual_scale=metadata.positive(header.key("residual_scale"), default=1.0),
        logits_scale=1 / metadata.positive(header.key("logit_scale"), default=1.0),
    )


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors))


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF, permuted_qk=True)


GRANITE = Architecture(
    name="granite",
    classes=("GraniteForCausalLM",),
    model_types=("granite",),
    gguf_names=("granite",),
    spec_from_config=granite_from_config,
    spec_from_gguf=granite_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
