"""Gemma 3, text: most layers have a sliding window, every branch a norm before and after it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import LayerSpec, MlpSpec
from .architecture import Architecture
from .decoder_config import (
    activation_from_config,
    attention_from_config,
    attention_from_gguf,
    layer_types_from_config,
    mlp_from_gguf,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .rope import frequencies, rope_from_config, rope_spec
from .tensor_names import GGUF, HUGGING_FACE, AddOne, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import AttentionSpec, ModelSpec, RopeSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_GLOBAL_THETA = 1_000_000.0
_LOCAL_THETA = 10_000.0
_SLIDING_PATTERN = 6
_GGUF_27B_LAYERS = 62

# transformers' `Gemma3TextConfig`: the configs of multimodal checkpoints leave out what equals it.
_TEXT_DEFAULTS: dict[str, object] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def gemma3_from_config(config: Fields) -> ModelSpec:
    """Gemma 3, or the language model inside a multimodal checkpoint."""
    text = config.section("text_config")
    if text is not None:
        config = text.with_defaults(_TEXT_DEFAULTS)
    if config.flag("use_bidirectional_attention", default=False):
        raise UnsupportedModelError(f"{config.source} asks for bidirectional attention")
    attention = _attention_from_config(config)
    local = replace(
        attention,
        rope=_local_rope(config, attention.head_dim),
        window=config.size("sliding_window"),
    )

    layer_types = layer_types_from_config(config)
    if layer_types is None:
        pattern = config.size(
            "sliding_window_pattern", "_sliding_window_pattern", default=_SLIDING_PATTERN
        )
        layer_types = _layer_types(num_layers_from_config(config), pattern)
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=activation_from_config(config, "hidden_activation", "hidden_act"),
    )
    spec = model_from_config(
        config, "gemma3", _layers(layer_types, attention, local, mlp), default_tied=True
    )
    return replace(
        spec,
        embedding_scale=math.sqrt(spec.hidden_size),
        final_softcap=config.optional_number("final_logit_softcapping"),
    )


def gemma3_from_gguf(header: GgufHeader) -> ModelSpec:
    """Gemma 3. What GGUF does not write down is what llama.cpp takes for granted."""
    metadata = header.metadata
    attention = replace(attention_from_gguf(header), qk_norm="head")
    num_layers = num_layers_from_gguf(header)
    hidden_size = metadata.size(header.key("embedding_length"))
    if num_layers == _GGUF_27B_LAYERS:  # the one size whose query_pre_attn_scalar is not head_dim
        attention = replace(attention, scale=(hidden_size / attention.num_heads) ** -0.5)
    theta = metadata.positive(header.key("rope.freq_base_swa"), default=_LOCAL_THETA)
    local = replace(
        attention,
        rope=rope_spec(frequencies(theta, attention.head_dim)),
        window=metadata.size(header.key("attention.sliding_window")),
    )
    pattern = metadata.size(
        header.key("attention.sliding_window_pattern"), default=_SLIDING_PATTERN
    )
    layer_types = _layer_types(num_layers, pattern)
    layers = _layers(layer_types, attention, local, mlp_from_gguf(header, "gelu_tanh"))
    spec = model_from_gguf(header, "gemma3", layers)
    return replace(spec, embedding_scale=math.sqrt(hidden_size))


def _attention_from_config(config: Fields) -> AttentionSpec:
    """Attention of the layers without a window."""
    bias = config.flag("attention_bias", default=False)
    return replace(
        attention_from_config(config, default_theta=_GLOBAL_THETA, layer_type="full_attention"),
        scale=config.positive("query_pre_attn_scalar") ** -0.5,
        softcap=config.optional_number("attn_logit_softcapping"),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="head",
    )


def _local_rope(config: Fields, head_dim: int) -> RopeSpec:
    """Rotary embedding of the layers with a window, in the words of transformers 5 or 4."""
    parameters = config.section("rope_parameters")
    if parameters is not None and parameters.has("sliding_attention"):
        return rope_from_config(
            config,
            head_dim=head_dim,
            default_theta=_LOCAL_THETA,
            layer_type="sliding_attention",
        )
    theta = config.positive("rope_local_base_freq", default=_LOCAL_THETA)
    return rope_spec(frequencies(theta, head_dim))


def _layer_types(num_layers: int, pattern: int) -> list[str]:
    """Every ``pattern``-th layer sees everything."""
    return [
        "sliding_attention" if (index + 1) % pattern else "full_attention"
        for index in range(num_layers)
    ]


def _layers(
    layer_types: list[str], attention: AttentionSpec, local: AttentionSpec, mlp: MlpSpec
) -> list[LayerSpec]:
    sliding = LayerSpec(attention=local, mlp=mlp, post_norm=True)
    full = LayerSpec(attention=attention, mlp=mlp, post_norm=True)
    return [sliding if kind == "sliding_attention" else full for kind in layer_types]


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    names = replace(HUGGING_FACE.beside(tensors), mlp_norm="pre_feedforward_layernorm")
    return weight_map(spec, names, norm_transform=AddOne())


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, GGUF)


GEMMA3 = Architecture(
    name="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_types=("gemma3_text", "gemma3"),
    gguf_names=("gemma3",),
    spec_from_config=gemma3_from_config,
    spec_from_gguf=gemma3_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
    ignored=(
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
)
