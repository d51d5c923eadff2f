"""OLMo 2: branches read the stream as it is, and their outputs are normalised."""

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

    from ..model_spec import AttentionSpec, MlpSpec, ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap


def olmo2_from_config(config: Fields) -> ModelSpec:
    """OLMo 2."""
    bias = config.flag("attention_bias", default=False)
    attention = attention_from_config(config)
    attention = replace(attention, qkv_bias=bias, o_bias=bias, qk_norm="token")
    layers = [_layer(attention, mlp_from_config(config))] * num_layers_from_config(config)
    return model_from_config(config, "olmo2", layers)


def olmo2_from_gguf(header: GgufHeader) -> ModelSpec:
    """OLMo 2."""
    attention = replace(attention_from_gguf(header), qk_norm="token")
    layers = [_layer(attention, mlp_from_gguf(header, "silu"))] * num_layers_from_gguf(header)
    return model_from_gguf(header, "olmo2", layers)


def _layer(attention: AttentionSpec, mlp: MlpSpec) -> LayerSpec:
    return LayerSpec(attention=attention, mlp=mlp, pre_norm=False, post_norm=True)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors))


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF)


OLMO2 = Architecture(
    name="olmo2",
    classes=("Olmo2ForCausalLM",),
    model_types=("olmo2",),
    gguf_names=("olmo2",),
    spec_from_config=olmo2_from_config,
    spec_from_gguf=olmo2_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
