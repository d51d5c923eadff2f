"""SmolLM 3: Llama, with every fourth layer without positions."""

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

    from ..model_spec import AttentionSpec, MlpSpec, ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_NO_ROPE_INTERVAL = 4


def smollm3_from_config(config: Fields) -> ModelSpec:
    """SmolLM 3: ``no_rope_layers`` holds 1 for a layer with RoPE."""
    num_layers = num_layers_from_config(config)
    has_rope = config.whole_numbers("no_rope_layers")
    if has_rope is None:
        interval = config.size("no_rope_layer_interval", default=_NO_ROPE_INTERVAL)
        has_rope = [(index + 1) % interval for index in range(num_layers)]
    if len(has_rope) != num_layers:
        expected = f"as many as num_hidden_layers {num_layers}"
        raise config.invalid("no_rope_layers", expected, f"{len(has_rope)} entries")

    bias = config.flag("attention_bias", default=False)
    attention = replace(attention_from_config(config), qkv_bias=bias, o_bias=bias)
    mlp = replace(mlp_from_config(config), bias=config.flag("mlp_bias", default=False))
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.optional_size("sliding_window")
    layer_types = layer_types_from_config(config) or ["full_attention"] * num_layers
    layers = [
        _layer(
            attention,
            mlp,
            has_rope=bool(rope),
            window=window if kind == "sliding_attention" else None,
        )
        for rope, kind in zip(has_rope, layer_types, strict=True)
    ]
    return model_from_config(config, "smollm3", layers, default_tied=True)


def smollm3_from_gguf(header: GgufHeader) -> ModelSpec:
    """SmolLM 3."""
    attention, mlp = attention_from_gguf(header), mlp_from_gguf(header, "silu")
    layers = [
        _layer(attention, mlp, has_rope=bool((index + 1) % _NO_ROPE_INTERVAL), window=None)
        for index in range(num_layers_from_gguf(header))
    ]
    return model_from_gguf(header, "smollm3", layers)


def _layer(
    attention: AttentionSpec, mlp: MlpSpec, *, has_rope: bool, window: int | None
) -> LayerSpec:
    rope = attention.rope if has_rope else None
    return LayerSpec(attention=replace(attention, window=window, rope=rope), mlp=mlp)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, HUGGING_FACE.beside(tensors))


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF, permuted_qk=True)


SMOLLM3 = Architecture(
    name="smollm3",
    classes=("SmolLM3ForCausalLM",),
    model_types=("smollm3",),
    gguf_names=("smollm3",),
    spec_from_config=smollm3_from_config,
    spec_from_gguf=smollm3_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
