"""GPT-2: learned positions, layer norms, a plain MLP, matrices stored transposed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import AttentionSpec, LayerSpec, MlpSpec
from .architecture import Architecture
from .decoder_config import (
    activation_from_config,
    attention_from_gguf,
    mlp_from_gguf,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .fields import Fields
from .tensor_names import GGUF, HUGGING_FACE, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .architecture import GgufHeader
    from .tensor_names import WeightMap


def gpt2_from_config(config: Fields) -> ModelSpec:
    """GPT-2, whose configuration has words of its own."""
    if config.flag("scale_attn_by_inverse_layer_idx", default=False):
        raise UnsupportedModelError(f"{config.source} asks for scores scaled by the layer's number")
    hidden_size, num_heads = config.size("n_embd"), config.size("n_head")
    if hidden_size % num_heads:
        raise config.invalid("n_head", f"a divisor of the n_embd {hidden_size}", num_heads)
    head_dim = hidden_size // num_heads
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5 if config.flag("scale_attn_weights", default=True) else 1.0,
        rope=None,
        qkv_bias=True,
        o_bias=True,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("n_inner", default=4 * hidden_size),
        activation=activation_from_config(config, "activation_function"),
        gated=False,
        bias=True,
    )
    positions = config.size("n_positions", "n_ctx")
    usual = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config.size("n_layer"),
        "max_position_embeddings": positions,
    }
    config = Fields({**config.values, **usual}, source=config.source)
    layers = [LayerSpec(attention=attention, mlp=mlp)] * num_layers_from_config(config)
    spec = model_from_config(config, "gpt2", layers, norm="layer", default_tied=True)
    return replace(spec, learned_positions=positions)


def gpt2_from_gguf(header: GgufHeader) -> ModelSpec:
    """GPT-2."""
    layer = LayerSpec(
        attention=replace(attention_from_gguf(header), rope=None),
        mlp=mlp_from_gguf(header, "gelu_tanh", gated=False),
    )
    layers = [layer] * num_layers_from_gguf(header)
    spec = model_from_gguf(header, "gpt2", layers, norm="layer")
    return replace(spec, learned_positions=spec.max_position_embeddings)


_HUGGING_FACE = replace(
    HUGGING_FACE,
    embed_tokens="transformer.wte",
    position_embedding="transformer.wpe",
    layer="transformer.h.{}.",
    attn_norm="ln_1",
    qkv=("attn.c_attn",),
    o_proj="attn.c_proj",
    mlp_norm="ln_2",
    up_proj="mlp.c_fc",
    down_proj="mlp.c_proj",
    norm="transformer.ln_f",
)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return weight_map(spec, _HUGGING_FACE.beside(tensors), transposed=True)


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    return weight_map(spec, replace(GGUF, qkv=("attn_qkv",)))


GPT2 = Architecture(
    name="gpt2",
    classes=("GPT2LMHeadModel",),
    model_types=("gpt2",),
    gguf_names=("gpt2",),
    spec_from_config=gpt2_from_config,
    spec_from_gguf=gpt2_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
    ignored_endings=(".attn.bias", ".attn.masked_bias"),
)
