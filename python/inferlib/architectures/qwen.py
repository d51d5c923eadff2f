"""Qwen 2 (biases on q, k and v) and Qwen 3 (norms of the heads of q and k)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import LayerSpec
from .architecture import Architecture
from .decoder_config import (
    attention_from_config,
    attention_from_gguf,
    layer_types_from_config,
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

    from ..model_spec import AttentionSpec, ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_DEFAULT_WINDOW = 4096
_DEFAULT_MAX_WINDOW_LAYERS = 28


def qwen2_from_config(config: Fields) -> ModelSpec:
    """Qwen 2 and 2.5."""
    attention = replace(attention_from_config(config), qkv_bias=True)
    return _model(config, "qwen2", attention)


def qwen3_from_config(config: Fields) -> ModelSpec:
    """Qwen 3, dense."""
    bias = config.flag("attention_bias", default=False)
    attention = attention_from_config(config)
    attention = replace(attention, qkv_bias=bias, o_bias=bias, qk_norm="head")
    return _model(config, "qwen3", attention)


def qwen2_from_gguf(header: GgufHeader) -> ModelSpec:
    """Qwen 2 and 2.5."""
    layer = LayerSpec(attention=attention_from_gguf(header), mlp=mlp_from_gguf(header, "silu"))
    return model_from_gguf(header, "qwen2", [layer] * num_layers_from_gguf(header))


def qwen3_from_gguf(header: GgufHeader) -> ModelSpec:
    """Qwen 3, dense."""
    attention = replace(attention_from_gguf(header), qk_norm="head")
    layer = LayerSpec(attention=attention, mlp=mlp_from_gguf(header, "silu"))
    return model_from_gguf(header, "qwen3", [layer] * num_layers_from_gguf(header))


def _model(config: Fields, architecture: str, attention: AttentionSpec) -> ModelSpec:
    """Some layers may have a sliding window, if the model uses it at all."""
    mlp = mlp_from_config(config)
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.size("sliding_window", default=_DEFAULT_WINDOW)
    layer_types = layer_types_from_config(config)
    if layer_types is None:
        first = config.number("max_window_layers", default=_DEFAULT_MAX_WINDOW_LAYERS)
        layer_types = [
            "sliding_attention" if index >= first else "full_attention"
            for index in range(num_layers_from_config(config))
        ]
    full = LayerSpec(attention=attention, mlp=mlp)
    sliding = LayerSpec(attention=replace(attention, window=window), mlp=mlp)
    layers = [sliding if kind == "sliding_attention" else full for kind in layer_types]
    spec = model_from_config(config, architecture, layers)
    if "Qwen3Model" in config.texts("architectures"):  # embedders are published so
        return replace(spec, lm_head=False)
    return spec


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors))


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF)


QWEN2 = Architecture(
    name="qwen2",
    classes=("Qwen2ForCausalLM",),
    model_types=("qwen2",),
    gguf_names=("qwen2",),
    spec_from_config=qwen2_from_config,
    spec_from_gguf=qwen2_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    model_types=("qwen3",),
    gguf_names=("qwen3",),
    spec_from_config=qwen3_from_config,
    spec_from_gguf=qwen3_from_gguf,
)
