"""gpt-oss: attention sinks, a window on every second layer, experts with biases and clamps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import LayerSpec
from .architecture import Architecture
from .decoder_config import (
    attention_from_config,
    attention_from_gguf,
    experts_from_config,
    experts_from_gguf,
    layer_types_from_config,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .tensor_names import GGUF, HUGGING_FACE, Part, Transposed, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import AttentionSpec, ModelSpec, MoeSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_WINDOW = 128
_ALPHA, _LIMIT = 1.702, 7.0  # of the op's activation


def gpt_oss_from_config(config: Fields) -> ModelSpec:
    """gpt-oss, with experts as floats; for its MXFP4 experts there are GGUF files."""
    for key, known in (("swiglu_alpha", _ALPHA), ("swiglu_limit", _LIMIT)):
        if config.number(key, default=known) != known:
            raise UnsupportedModelError(f"{key!r} of {config.source} is not the supported {known}")
    bias = config.flag("attention_bias", default=True)
    attention = replace(attention_from_config(config), qkv_bias=bias, o_bias=bias, sinks=True)
    layer_types = layer_types_from_config(config)
    if layer_types is None:
        layer_types = _layer_types(num_layers_from_config(config))
    experts = experts_from_config(
        config, size_key="intermediate_size", activation="clamped_swiglu", bias=True
    )
    window = config.size("sliding_window", default=_WINDOW)
    return model_from_config(config, "gpt_oss", _layers(layer_types, attention, window, experts))


def gpt_oss_from_gguf(header: GgufHeader) -> ModelSpec:
    """gpt-oss. Its YaRN does not round the range of pairs."""
    attention = replace(attention_from_gguf(header, truncate=False), sinks=True)
    layer_types = _layer_types(num_layers_from_gguf(header))
    experts = experts_from_gguf(header, "clamped_swiglu")
    layers = _layers(layer_types, attention, header.window() or _WINDOW, experts)
    return model_from_gguf(header, "gpt_oss", layers)


def _layer_types(num_layers: int) -> list[str]:
    """Every second layer sees everything."""
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(num_layers)]


def _layers(
    layer_types: list[str], attention: AttentionSpec, window: int, experts: MoeSpec
) -> list[LayerSpec]:
    full = LayerSpec(attention=attention, mlp=experts)
    sliding = replace(full, attention=replace(attention, window=window))
    return [sliding if kind == "sliding_attention" else full for kind in layer_types]


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    """Experts are stored transposed, the columns of gate and up in turn."""
    names = replace(HUGGING_FACE.beside(tensors), router="mlp.router")
    weights = weight_map(spec, names)
    for index, layer in enumerate(spec.layers):
        tensor = f"{names.layer.format(index)}mlp.experts."
        experts = f"layers.{index}.mlp.experts."
        count = weights[f"layers.{index}.mlp.router.weight"][0].rows
        inner, hidden = layer.mlp.intermediate_size, spec.hidden_size
        for kind, fused, transform, rows, columns in (
            ("gate", "gate_up_proj", Transposed(first=0, step=2), inner, hidden),
            ("up", "gate_up_proj", Transposed(first=1, step=2), inner, hidden),
            ("down", "down_proj", Transposed(), hidden, inner),
        ):
            stored = rows * transform.step
            weights[f"{experts}{kind}_proj.weight"] = (
                Part(tensor + fused, count * rows, transform, (count, columns, stored)),
            )
            weights[f"{experts}{kind}_proj.bias"] = (
                Part(f"{tensor}{fused}_bias", count * rows, transform, (count, stored)),
            )
    return weights


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, replace(GGUF, mlp_norm="post_attention_norm"))


GPT_OSS = Architecture(
    name="gpt_oss",
    classes=("GptOssForCausalLM",),
    model_types=("gpt_oss",),
    gguf_names=("gpt-oss",),
    spec_from_config=gpt_oss_from_config,
    spec_from_gguf=gpt_oss_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
)
