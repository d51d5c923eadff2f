"""Mixtral: Llama with a mixture of experts in the place of every MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import LayerSpec
from .decoder_config import (
    activation_from_config,
    attention_from_config,
    experts_from_config,
    model_from_config,
    num_layers_from_config,
)
from .llama import LLAMA
from .tensor_names import HUGGING_FACE, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .fields import Fields
    from .tensor_names import WeightMap


def mixtral_from_config(config: Fields) -> ModelSpec:
    """Mixtral; GGUF calls it ``llama``, see ``llama_from_gguf``."""
    attention = replace(
        attention_from_config(config), window=config.optional_size("sliding_window")
    )
    experts = experts_from_config(
        config,
        size_key="intermediate_size",
        activation=activation_from_config(config, "hidden_act"),
    )
    layers = [LayerSpec(attention=attention, mlp=experts)] * num_layers_from_config(config)
    return model_from_config(config, "mixtral", layers)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    experts = "block_sparse_moe.experts.{}."
    names = replace(
        HUGGING_FACE.beside(tensors),
        router="block_sparse_moe.gate",
        experts=(f"{experts}w1", f"{experts}w3", f"{experts}w2"),
    )
    return weight_map(spec, names)


MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    classes=("MixtralForCausalLM",),
    model_types=("mixtral",),
    gguf_names=(),
    spec_from_config=mixtral_from_config,
    weights_from_safetensors=_weights_from_safetensors,
)
