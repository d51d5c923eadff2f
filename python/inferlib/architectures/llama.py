"""Llama and what is built like it (SmolLM2, TinyLlama, Yi …); Mistral adds a sliding window."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import LayerSpec
from .architecture import Architecture
from .decoder_config import (
    attention_from_config,
    attention_from_gguf,
    experts_from_gguf,
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

    from ..model_spec import MlpSpec, ModelSpec, MoeSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_MISTRAL_DEFAULT_WINDOW = 4096


def llama_from_config(config: Fields) -> ModelSpec:
    """Llama; biases are rare but exist."""
    bias = config.flag("attention_bias", default=False)
    attention = replace(attention_from_config(config), qkv_bias=bias, o_bias=bias)
    mlp = replace(mlp_from_config(config), bias=config.flag("mlp_bias", default=False))
    layers = [LayerSpec(attention=attention, mlp=mlp)] * num_layers_from_config(config)
    return model_from_config(config, "llama", layers)


def mistral_from_config(config: Fields) -> ModelSpec:
    """Mistral: a window over every layer, unless ``sliding_window`` is ``null``."""
    window = config.optional_size("sliding_window")
    if not config.says("sliding_window"):
        window = _MISTRAL_DEFAULT_WINDOW
    attention = replace(attention_from_config(config), window=window)
    layer = LayerSpec(attention=attention, mlp=mlp_from_config(config))
    return model_from_config(config, "mistral", [layer] * num_layers_from_config(config))


def llama_from_gguf(header: GgufHeader) -> ModelSpec:
    """Llama, Mistral or Mixtral: GGUF calls all ``llama``; few files keep Mistral's window."""
    attention = replace(attention_from_gguf(header), window=header.window())
    mlp: MlpSpec | MoeSpec
    if header.metadata.values.get(header.key("expert_count")):  # 0 means none
        name = "mixtral"
        mlp = experts_from_gguf(header, "silu", size_key="feed_forward_length")
    else:
        name, mlp = "llama", mlp_from_gguf(header, "silu")
    layer = LayerSpec(attention=attention, mlp=mlp)
    return model_from_gguf(header, name, [layer] * num_layers_from_gguf(header))


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors))


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF, permuted_qk=True)


LLAMA = Architecture(
    name="llama",
    classes=("LlamaForCausalLM",),
    model_types=("llama",),
    gguf_names=("llama",),
    spec_from_config=llama_from_config,
    spec_from_gguf=llama_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)

MISTRAL = replace(
    LLAMA,
    name="mistral",
    classes=("MistralForCausalLM",),
    model_types=("mistral",),
    gguf_names=(),
    spec_from_config=mistral_from_config,
)
