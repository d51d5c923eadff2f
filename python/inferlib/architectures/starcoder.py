"""StarCoder 2: Llama's attention with biases, layer norms and a plain MLP."""

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


def starcoder2_from_config(config: Fields) -> ModelSpec:
    """StarCoder 2."""
    bias = config.flag("use_bias", default=True)
    attention = replace(
        attention_from_config(config),
        qkv_bias=bias,
        o_bias=bias,
        window=config.optional_size("sliding_window"),
    )
    mlp = replace(mlp_from_config(config), gated=False, bias=bias)
    layers = [LayerSpec(attention=attention, mlp=mlp)] * num_layers_from_config(config)
    return model_from_config(config, "starcoder2", layers, norm="layer", default_tied=True)


def starcoder2_from_gguf(header: GgufHeader) -> ModelSpec:
    """StarCoder 2. Files do not keep its window."""
    layer = LayerSpec(
        attention=replace(attention_from_gguf(header), window=header.window()),
        mlp=mlp_from_gguf(header, "gelu_tanh", gated=False),
    )
    layers = [layer] * num_layers_from_gguf(header)
    return model_from_gguf(header, "starcoder2", layers, norm="layer")


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    names = replace(HUGGING_FACE.beside(tensors), up_proj="mlp.c_fc", down_proj="mlp.c_proj")
    return weight_map(spec, names)


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF)


STARCODER2 = Architecture(
    name="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    model_types=("starcoder2",),
    gguf_names=("starcoder2",),
    spec_from_config=starcoder2_from_config,
    spec_from_gguf=starcoder2_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
