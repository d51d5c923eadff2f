"""Qwen 3 with a mixture of experts in the place of most MLPs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_spec import LayerSpec
from .decoder_config import (
    activation_from_config,
    attention_from_gguf,
    experts_from_config,
    experts_from_gguf,
    model_from_gguf,
    num_layers_from_gguf,
)
from .qwen import QWEN3, qwen3_from_config

if TYPE_CHECKING:
    from ..model_spec import ModelSpec
    from .architecture import Architecture, GgufHeader
    from .fields import Fields


def qwen3_moe_from_config(config: Fields) -> ModelSpec:
    """Qwen 3 MoE: every ``decoder_sparse_step``-th layer has experts, but for those listed."""
    spec = qwen3_from_config(config)
    experts = replace(
        experts_from_config(
            config,
            size_key="moe_intermediate_size",
            activation=activation_from_config(config, "hidden_act"),
        ),
        normalise=config.flag("norm_topk_prob", default=False),
    )
    step = config.size("decoder_sparse_step", default=1)
    dense = set(config.whole_numbers("mlp_only_layers") or [])
    layers = [
        layer if index in dense or (index + 1) % step else replace(layer, mlp=experts)
        for index, layer in enumerate(spec.layers)
    ]
    return replace(spec, architecture="qwen3_moe", layers=tuple(layers))


def qwen3_moe_from_gguf(header: GgufHeader) -> ModelSpec:
    """Qwen 3 MoE."""
    attention = replace(attention_from_gguf(header), qk_norm="head")
    layer = LayerSpec(attention=attention, mlp=experts_from_gguf(header, "silu"))
    return model_from_gguf(header, "qwen3_moe", [layer] * num_layers_from_gguf(header))


QWEN3_MOE: Architecture = replace(
    QWEN3,
    name="qwen3_moe",
    classes=("Qwen3MoeForCausalLM",),
    model_types=("qwen3_moe",),
    gguf_names=("qwen3moe",),
    spec_from_config=qwen3_moe_from_config,
    spec_from_gguf=qwen3_moe_from_gguf,
)
