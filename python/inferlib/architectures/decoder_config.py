"""The parts of a decoder as most families write them in ``config.json`` and in GGUF metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import ModelFormatError, UnsupportedModelError
from ..model_spec import Activation, AttentionSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec
from .rope import MOST_HEAD_ELEMENTS, rope_from_config, rope_from_gguf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .architecture import GgufHeader
    from .fields import Fields

_MOST_LAYERS = 10_000
_MOST_EXPERTS = 200_000
"""Of all layers: each has tensors of its own in a checkpoint."""
_NORM_EPS = {
    "rms": ("rms_norm_eps",),
    "layer": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
}
_GGUF_NORM_EPS = {
    "rms": "attention.layer_norm_rms_epsilon",
    "layer": "attention.layer_norm_epsilon",
}

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def activation_from_config(config: Fields, *keys: str) -> Activation:
    """The activation under the first of ``keys`` that is present."""
    name = config.text(*keys)
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    known = ", ".join(_ACTIVATIONS)
    raise UnsupportedModelError(
        f"{config.source} asks for the activation {name!r}; supported are {known}"
    )


def head_dim_from_config(config: Fields) -> int:
    """``head_dim``, or an equal share of ``hidden_size``."""
    head_dim = config.optional_size("head_dim")
    if head_dim is None:
        hidden_size = config.size("hidden_size")
        num_heads = config.size("num_attention_heads")
        if hidden_size % num_heads:
            expected = f"a divisor of the hidden_size {hidden_size} where there is no head_dim"
            raise config.invalid("num_attention_heads", expected, num_heads)
        head_dim = hidden_size // num_heads
    if head_dim % 2 or head_dim > MOST_HEAD_ELEMENTS:
        expected = f"even, and at most {MOST_HEAD_ELEMENTS}"
        raise config.invalid("head_dim", expected, head_dim)
    return head_dim


def attention_from_config(
    config: Fields, *, default_theta: float = 10_000.0, layer_type: str | None = None
) -> AttentionSpec:
    """Grouped attention over all positions, without biases; for RoPE see ``rope_from_config``."""
    num_heads = config.size("num_attention_heads")
    num_kv_heads = config.size("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        expected = f"a divisor of num_attention_heads {num_heads}"
        raise config.invalid("num_key_value_heads", expected, num_kv_heads)
    head_dim = head_dim_from_config(config)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope_from_config(
            config, head_dim=head_dim, default_theta=default_theta, layer_type=layer_type
        ),
    )


def mlp_from_config(config: Fields) -> MlpSpec:
    """Gated MLP without biases."""
    return MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=activation_from_config(config, "hidden_act", "hidden_activation"),
    )


def experts_from_config(
    config: Fields, *, size_key: str, activation: Activation, bias: bool = False
) -> MoeSpec:
    """A mixture of experts whose chosen ones are weighed by their own softmax."""
    num_experts = config.size("num_local_experts", "num_experts", "n_routed_experts")
    top_k = config.size("num_experts_per_tok")
    if top_k > num_experts:
        raise config.invalid("num_experts_per_tok", f"at most {num_experts}", top_k)
    most = _MOST_EXPERTS // num_layers_from_config(config)
    if num_experts > most:
        raise config.invalid("num_local_experts", f"at most {most}", num_experts)
    return MoeSpec(
        num_experts=num_experts,
        top_k=top_k,
        intermediate_size=config.size(size_key),
        activation=activation,
        bias=bias,
    )


def num_layers_from_config(config: Fields) -> int:
    """``num_hidden_layers``."""
    num_layers = config.size("num_hidden_layers")
    if num_layers > _MOST_LAYERS:
        raise config.invalid("num_hidden_layers", f"at most {_MOST_LAYERS}", num_layers)
    return num_layers


def layer_types_from_config(config: Fields) -> list[str] | None:
    """``layer_types``, one per layer, or ``None`` if the file has none."""
    layer_types = config.texts("layer_types")
    if not layer_types:
        return None
    num_layers = num_layers_from_config(config)
    if len(layer_types) != num_layers:
        expected = f"as many as num_hidden_layers {num_layers}"
        raise config.invalid("layer_types", expected, f"{len(layer_types)} entries")
    for layer_type in layer_types:
        if layer_type not in {"full_attention", "sliding_attention"}:
            raise UnsupportedModelError(
                f"{config.source} has layers of type {layer_type!r}; "
                "supported are full_attention and sliding_attention"
            )
    return layer_types


def model_from_config(
    config: Fields,
    architecture: str,
    layers: Sequence[LayerSpec],
    *,
    norm: Literal["rms", "layer"] = "rms",
    default_tied: bool = False,
) -> ModelSpec:
    """The model around ``layers``."""
    return ModelSpec(
        architecture=architecture,
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        layers=tuple(layers),
        norm=norm,
        norm_eps=config.positive(*_NORM_EPS[norm]),
        max_position_embeddings=config.size("max_position_embeddings"),
        tied_embeddings=config.flag("tie_word_embeddings", default=default_tied),
    )


def attention_from_gguf(header: GgufHeader, *, truncate: bool = True) -> AttentionSpec:
    """Grouped attention over all positions; biases where the file has their tensors."""
    metadata = header.metadata
    num_heads = metadata.size(header.key("attention.head_count"))
    kv_key = header.key("attention.head_count_kv")
    num_kv_heads = metadata.size(kv_key, default=num_heads)
    if num_heads % num_kv_heads:
        raise metadata.invalid(kv_key, f"a divisor of {num_heads} heads", num_kv_heads)
    head_dim = head_dim_from_gguf(header)
    return AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope_from_gguf(
            metadata,
            header.architecture,
            head_dim=head_dim,
            factors=_rope_factors(header),
            truncate=truncate,
        ),
        qkv_bias=any(f"blk.0.attn_{name}.bias" in header.shapes for name in ("q", "qkv")),
        o_bias="blk.0.attn_output.bias" in header.shapes,
    )


def _rope_factors(header: GgufHeader) -> tuple[float, ...] | None:
    """By what the frequencies are divided: of two sets, the one for the model's context."""
    longest = header.metadata.size(header.key("context_length"))
    original_key = header.key("rope.scaling.original_context_length")
    original = header.metadata.size(original_key, default=longest)
    kind = "rope_factors_long.weight" if longest > original else "rope_factors_short.weight"
    return header.rope_factors.get("rope_freqs.weight", header.rope_factors.get(kind))


def head_dim_from_gguf(header: GgufHeader) -> int:
    """``attention.key_length``, or an equal share of the embedding."""
    metadata = header.metadata
    key = header.key("attention.key_length")
    head_dim = metadata.optional_size(key)
    if head_dim is None:
        hidden_size = metadata.size(header.key("embedding_length"))
        count_key = header.key("attention.head_count")
        num_heads = metadata.size(count_key)
        if hidden_size % num_heads:
            raise metadata.invalid(count_key, f"a divisor of {hidden_size}", num_heads)
        head_dim = hidden_size // num_heads
    if head_dim % 2 or head_dim > MOST_HEAD_ELEMENTS:
        raise metadata.invalid(key, f"even, and at most {MOST_HEAD_ELEMENTS}", head_dim)
    value_key = header.key("attention.value_length")
    if metadata.size(value_key, default=head_dim) != head_dim:
        raise metadata.invalid(value_key, f"the key_length {head_dim}", metadata.size(value_key))
    return head_dim


def mlp_from_gguf(header: GgufHeader, activation: Activation, *, gated: bool = True) -> MlpSpec:
    """An MLP; biases where the file has their tensors."""
    return MlpSpec(
        intermediate_size=header.metadata.size(header.key("feed_forward_length")),
        activation=activation,
        gated=gated,
        bias="blk.0.ffn_down.bias" in header.shapes,
    )


def experts_from_gguf(
    header: GgufHeader, activation: Activation, *, size_key: str = "expert_feed_forward_length"
) -> MoeSpec:
    """A mixture of experts; biases where the file has their tensors."""
    metadata = header.metadata
    count_key, used_key = header.key("expert_count"), header.key("expert_used_count")
    num_experts, top_k = metadata.size(count_key), metadata.size(used_key)
    if top_k > num_experts:
        raise metadata.invalid(used_key, f"at most the {num_experts} of {count_key}", top_k)
    return MoeSpec(
        num_experts=num_experts,
        top_k=top_k,
        intermediate_size=metadata.size(header.key(size_key)),
        activation=activation,
        bias="blk.0.ffn_down_exps.bias" in header.shapes,
    )


def num_layers_from_gguf(header: GgufHeader) -> int:
    """``block_count``."""
    key = header.key("block_count")
    num_layers = header.metadata.size(key)
    if num_layers > _MOST_LAYERS:
        raise header.metadata.invalid(key, f"at most {_MOST_LAYERS}", num_layers)
    return num_layers


def model_from_gguf(
    header: GgufHeader,
    architecture: str,
    layers: Sequence[LayerSpec],
    *,
    norm: Literal["rms", "layer"] = "rms",
) -> ModelSpec:
    """The model around ``layers``; tied embeddings where the file has no ``output.weight``."""
    metadata = header.metadata
    embedding = header.shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ModelFormatError(f"{metadata.source} has no matrix 'token_embd.weight'")
    return ModelSpec(
        architecture=architecture,
        vocab_size=embedding[0],
        hidden_size=metadata.size(header.key("embedding_length")),
        layers=tuple(layers),
        norm=norm,
        norm_eps=metadata.positive(header.key(_GGUF_NORM_EPS[norm])),
        max_position_embeddings=metadata.size(header.key("context_length")),
        tied_embeddings="output.weight" not in header.shapes,
    )
