"""Gemma 1, and Gemma 2: soft caps, a window on every second layer, norms around every branch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import LayerSpec, MlpSpec
from .architecture import Architecture
from .decoder_config import (
    attention_from_config,
    attention_from_gguf,
    layer_types_from_config,
    mlp_from_gguf,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .tensor_names import GGUF, HUGGING_FACE, AddOne, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import AttentionSpec, ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_WINDOW = 4096
_ATTENTION_CAP, _FINAL_CAP = 50.0, 30.0
_GGUF_27B_LAYERS = 46


def gemma_from_config(config: Fields) -> ModelSpec:
    """Gemma 1."""
    layer = LayerSpec(attention=_attention_from_config(config), mlp=_mlp_from_config(config))
    layers = [layer] * num_layers_from_config(config)
    return _scaled(model_from_config(config, "gemma", layers, default_tied=True))


def gemma_from_gguf(header: GgufHeader) -> ModelSpec:
    """Gemma 1."""
    layer = LayerSpec(attention=attention_from_gguf(header), mlp=mlp_from_gguf(header, "gelu_tanh"))
    layers = [layer] * num_layers_from_gguf(header)
    return _scaled(model_from_gguf(header, "gemma", layers))


def gemma2_from_config(config: Fields) -> ModelSpec:
    """Gemma 2; a cap that is ``null`` is none."""
    attention = replace(
        _attention_from_config(config),
        scale=config.positive("query_pre_attn_scalar", default=256) ** -0.5,
        softcap=_cap(config, "attn_logit_softcapping", _ATTENTION_CAP),
    )
    layer_types = layer_types_from_config(config)
    if layer_types is None:
        layer_types = _layer_types(num_layers_from_config(config))
    window = config.size("sliding_window", default=_WINDOW)
    layers = _layers(layer_types, attention, window, _mlp_from_config(config))
    spec = model_from_config(config, "gemma2", layers, default_tied=True)
    cap = _cap(config, "final_logit_softcapping", _FINAL_CAP)
    return replace(_scaled(spec), final_softcap=cap)


def gemma2_from_gguf(header: GgufHeader) -> ModelSpec:
    """Gemma 2. What GGUF does not write down is what llama.cpp takes for granted."""
    metadata = header.metadata
    attention = attention_from_gguf(header)
    num_layers = num_layers_from_gguf(header)
    hidden_size = metadata.size(header.key("embedding_length"))
    if num_layers == _GGUF_27B_LAYERS:  # the one size whose query_pre_attn_scalar is not head_dim
        attention = replace(attention, scale=(hidden_size / attention.num_heads) ** -0.5)
    cap_key = header.key("attn_logit_softcapping")
    attention = replace(attention, softcap=metadata.positive(cap_key, default=_ATTENTION_CAP))
    layers = _layers(
        _layer_types(num_layers),
        attention,
        header.window() or _WINDOW,
        mlp_from_gguf(header, "gelu_tanh"),
    )
    cap = metadata.positive(header.key("final_logit_softcapping"), default=_FINAL_CAP)
    return replace(_scaled(model_from_gguf(header, "gemma2", layers)), final_softcap=cap)


def _attention_from_config(config: Fields) -> AttentionSpec:
    if config.flag("use_bidirectional_attention", default=False):
        raise UnsupportedModelError(f"{config.source} asks for bidirectional attention")
    bias = config.flag("attention_bias", default=False)
    return replace(attention_from_config(config), qkv_bias=bias, o_bias=bias)


def _mlp_from_config(config: Fields) -> MlpSpec:
    """First configurations named ``gelu`` in ``hidden_act``; the models were trained with tanh."""
    activation = config.text("hidden_activation", "hidden_act", default="gelu")
    if activation not in ("gelu", "gelu_pytorch_tanh"):
        raise UnsupportedModelError(
            f"{config.source} asks for the activation {activation!r}; "
            "of a Gemma supported is gelu_pytorch_tanh"
        )
    return MlpSpec(intermediate_size=config.size("intermediate_size"), activation="gelu_tanh")


def _cap(config: Fields, key: str, default: float) -> float | None:
    return config.optional_number(key) if config.says(key) else default


def _layer_types(num_layers: int) -> list[str]:
    """Every second layer sees everything."""
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(num_layers)]


def _layers(
    layer_types: list[str], attention: AttentionSpec, window: int, mlp: MlpSpec
) -> list[LayerSpec]:
    full = LayerSpec(attention=attention, mlp=mlp, post_norm=True)
    sliding = replace(full, attention=replace(attention, window=window))
    return [sliding if kind == "sliding_attention" else full for kind in layer_types]


def _scaled(spec: ModelSpec) -> ModelSpec:
    return replace(spec, embedding_scale=math.sqrt(spec.hidden_size))


def _gemma_weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors), norm_transform=AddOne())


def _gemma2_weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    names = replace(HUGGING_FACE.beside(tensors), mlp_norm="pre_feedforward_layernorm")
    return weight_map(spec, names, norm_transform=AddOne())


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF)


GEMMA = Architecture(
    name="gemma",
    classes=("GemmaForCausalLM",),
    model_types=("gemma",),
    gguf_names=("gemma",),
    spec_from_config=gemma_from_config,
    spec_from_gguf=gemma_from_gguf,
    weights_from_safetensors=_gemma_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)

GEMMA2 = Architecture(
    name="gemma2",
    classes=("Gemma2ForCausalLM",),
    model_types=("gemma2",),
    gguf_names=("gemma2",),
    spec_from_config=gemma2_from_config,
    spec_from_gguf=gemma2_from_gguf,
    weights_from_safetensors=_gemma2_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
