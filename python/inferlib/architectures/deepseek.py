"""DeepSeek 2, 3 and R1: latent attention, many small experts beside a shared one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import LatentAttentionSpec, LayerSpec, MlpSpec, MoeSpec
from .architecture import Architecture
from .decoder_config import (
    activation_from_config,
    experts_from_config,
    experts_from_gguf,
    mlp_from_config,
    mlp_from_gguf,
    model_from_config,
    model_from_gguf,
    num_layers_from_config,
    num_layers_from_gguf,
)
from .rope import (
    rope_from_config,
    rope_from_gguf,
    yarn_attention_scale,
    yarn_attention_scale_from_gguf,
)
from .tensor_names import (
    GGUF,
    HUGGING_FACE,
    HeadRows,
    Part,
    RopeFirst,
    TransposedHeads,
    weight_map,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_SIGMOID = 2  # expert_gating_func


def deepseek2_from_config(config: Fields) -> ModelSpec:
    """DeepSeek 2: experts by softmax, groups as good as their best expert."""
    if config.text("topk_method", default="greedy") not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(
            f"{config.source} asks for the topk_method {config.text('topk_method')!r}; supported "
            "are greedy and group_limited_greedy"
        )
    grouped = config.text("topk_method", default="greedy") == "group_limited_greedy"
    experts = replace(
        _experts_from_config(config, scored=1 if grouped else None),
        normalise=False,
    )
    return _from_config(config, "deepseek2", experts)


def deepseek3_from_config(config: Fields) -> ModelSpec:
    """DeepSeek 3: experts by sigmoid, a bias for the choice, groups as good as their best two."""
    for key, known in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        if config.text(key, default=known) != known:
            raise UnsupportedModelError(
                f"{key!r} of {config.source} is not the supported {known!r}"
            )
    experts = replace(
        _experts_from_config(config, scored=2),
        normalise=config.flag("norm_topk_prob", default=True),
        scoring="sigmoid",
        score_bias=True,
    )
    return _from_config(config, "deepseek3", experts)


def _experts_from_config(config: Fields, *, scored: int | None) -> MoeSpec:
    activation = activation_from_config(config, "hidden_act")
    experts = experts_from_config(config, size_key="moe_intermediate_size", activation=activation)
    count = config.size("n_group", default=1)
    if experts.num_experts % count:
        raise config.invalid("n_group", f"a divisor of {experts.num_experts} experts", count)
    shared = config.optional_size("n_shared_experts")
    return replace(
        experts,
        groups=_groups(count, config.size("topk_group", default=count), scored),
        weight_scale=config.positive("routed_scaling_factor", default=1.0),
        shared=_shared(shared, experts),
    )


def _groups(count: int, kept: int, scored: int | None) -> tuple[int, int, int] | None:
    """``None`` where every group may be chosen from."""
    return None if scored is None or kept == count else (count, kept, scored)


def _shared(count: int | None, experts: MoeSpec) -> MlpSpec | None:
    """The shared experts as one MLP: they have no weights of their own."""
    if not count:
        return None
    size = count * experts.intermediate_size
    return MlpSpec(intermediate_size=size, activation=experts.activation)


def _from_config(config: Fields, architecture: str, experts: MoeSpec) -> ModelSpec:
    rope_dim, nope_dim = config.size("qk_rope_head_dim"), config.size("qk_nope_head_dim")
    attention = LatentAttentionSpec(
        num_heads=config.size("num_attention_heads"),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        v_head_dim=config.size("v_head_dim"),
        latent_dim=config.size("kv_lora_rank"),
        query_latent_dim=config.optional_size("q_lora_rank"),
        scale=(nope_dim + rope_dim) ** -0.5 * yarn_attention_scale(config),
        rope=rope_from_config(config, head_dim=rope_dim),
        bias=config.flag("attention_bias", default=False),
    )
    dense = LayerSpec(attention=attention, mlp=mlp_from_config(config))
    num_dense = config.optional_size("first_k_dense_replace") or 0
    return model_from_config(
        config, architecture, _layers(dense, experts, num_dense, num_layers_from_config(config))
    )


def _layers(dense: LayerSpec, experts: MoeSpec, num_dense: int, num_layers: int) -> list[LayerSpec]:
    """The first layers have an MLP, the others experts."""
    num_dense = min(num_dense, num_layers)
    return [dense] * num_dense + [replace(dense, mlp=experts)] * (num_layers - num_dense)


def _deepseek_from_gguf(header: GgufHeader) -> ModelSpec:
    """DeepSeek 2 and 3: GGUF has one name for both, and says what makes scores."""
    metadata = header.metadata
    latent_dim = metadata.size(header.key("attention.kv_lora_rank"))
    rope_dim = metadata.size(header.key("rope.dimension_count"))
    qk_head_dim = metadata.size(header.key("attention.key_length_mla"))
    if qk_head_dim <= rope_dim:
        key = header.key("attention.key_length_mla")
        raise metadata.invalid(key, f"above the {rope_dim} elements with positions", qk_head_dim)
    attention = LatentAttentionSpec(
        num_heads=metadata.size(header.key("attention.head_count")),
        nope_dim=qk_head_dim - rope_dim,
        rope_dim=rope_dim,
        v_head_dim=metadata.size(header.key("attention.value_length_mla")),
        latent_dim=latent_dim,
        query_latent_dim=metadata.optional_size(header.key("attention.q_lora_rank")),
        scale=qk_head_dim**-0.5 * yarn_attention_scale_from_gguf(metadata, header.architecture),
        # YaRN's factor on cosine and sine is 1 here: it is in the scale of the scores.
        rope=replace(rope_from_gguf(metadata, header.architecture, head_dim=rope_dim), scale=1.0),
    )
    experts = experts_from_gguf(header, "silu")
    count = metadata.size(header.key("expert_group_count"), default=1)
    kept = metadata.size(header.key("expert_group_used_count"), default=count)
    sigmoid = metadata.size(header.key("expert_gating_func"), default=1) == _SIGMOID
    experts = replace(
        experts,
        normalise=metadata.flag(header.key("expert_weights_norm"), default=False),
        scoring="sigmoid" if sigmoid else "softmax",
        score_bias=any(name.endswith("exp_probs_b.bias") for name in header.shapes),
        groups=_groups(count, kept, 2 if sigmoid else 1),
        weight_scale=metadata.positive(header.key("expert_weights_scale"), default=1.0),
        shared=_shared(metadata.optional_size(header.key("expert_shared_count")), experts),
    )
    dense = LayerSpec(attention=attention, mlp=mlp_from_gguf(header, "silu"))
    num_dense = metadata.optional_size(header.key("leading_dense_block_count")) or 0
    layers = _layers(dense, experts, num_dense, num_layers_from_gguf(header))
    return model_from_gguf(header, "deepseek3" if sigmoid else "deepseek2", layers)


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    names = HUGGING_FACE.beside(tensors)
    weights = weight_map(spec, names)
    for index, layer in enumerate(spec.layers):
        if not isinstance(layer.attention, LatentAttentionSpec):
            continue
        own, tensor = f"layers.{index}.", names.layer.format(index)
        attention = layer.attention
        to_latent = attention.query_latent_dim is not None
        query = f"{tensor}self_attn.{'q_b_proj' if to_latent else 'q_proj'}"
        names_of_layer = [tensor + name for name in _HUGGING_FACE_NAMES]
        _projections(weights, own, attention, spec.hidden_size, query, names_of_layer)
        # Keys and values lie in one tensor, head by head.
        fused = f"{tensor}self_attn.kv_b_proj.weight"
        heads, stored = attention.num_heads, attention.nope_dim + attention.v_head_dim
        shape = (heads * stored, attention.latent_dim)
        weights[f"{own}self_attn.k_absorb.weight"] = (
            Part(
                fused,
                heads * attention.latent_dim,
                TransposedHeads(num_heads=heads, count=attention.nope_dim),
                shape,
            ),
        )
        values = HeadRows(
            num_heads=heads, stored=stored, first=attention.nope_dim, count=attention.v_head_dim
        )
        weights[f"{own}self_attn.v_absorb.weight"] = (
            Part(fused, heads * attention.v_head_dim, values, shape),
        )
        bias = f"{tensor}mlp.gate.e_score_correction_bias"
        _mixture(
            weights, own, layer, spec.hidden_size, f"{tensor}mlp.shared_experts.{{}}_proj", bias
        )
    return weights


def _weights_from_gguf(spec: ModelSpec) -> WeightMap:
    weights = weight_map(spec, GGUF)
    for index, layer in enumerate(spec.layers):
        if not isinstance(layer.attention, LatentAttentionSpec):
            continue
        own, tensor = f"layers.{index}.", f"blk.{index}."
        attention = layer.attention
        query = f"{tensor}{'attn_q_b' if attention.query_latent_dim is not None else 'attn_q'}"
        names_of_layer = [tensor + name for name in _GGUF_NAMES]
        _projections(weights, own, attention, spec.hidden_size, query, names_of_layer)
        for name, shape in (
            ("k", (attention.num_heads, attention.latent_dim, attention.nope_dim)),
            ("v", (attention.num_heads, attention.v_head_dim, attention.latent_dim)),
        ):
            weights[f"{own}self_attn.{name}_absorb.weight"] = (
                Part(f"{tensor}attn_{name}_b.weight", shape[0] * shape[1], shape=shape),
            )
        shared, bias = f"{tensor}ffn_{{}}_shexp", f"{tensor}exp_probs_b.bias"
        _mixture(weights, own, layer, spec.hidden_size, shared, bias)
    return weights


_HUGGING_FACE_NAMES = tuple(
    f"self_attn.{name}"
    for name in ("q_a_proj", "q_a_layernorm", "kv_a_proj_with_mqa", "kv_a_layernorm", "o_proj")
)
_GGUF_NAMES = ("attn_q_a", "attn_q_a_norm", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_output")


def _projections(
    weights: WeightMap,
    own: str,
    attention: LatentAttentionSpec,
    hidden_size: int,
    query: str,
    names: list[str],
) -> None:
    """Add what both formats have, each under its own names; both rotate neighbours."""
    q_a, q_a_norm, kv_a, kv_a_norm, o_proj = names
    queries = RopeFirst(
        num_heads=attention.num_heads,
        nope_dim=attention.nope_dim,
        rope_dim=attention.rope_dim,
        interleaved=True,
    )
    latents = replace(queries, num_heads=1, nope_dim=attention.latent_dim)
    query_latent = attention.query_latent_dim or 0
    for name, tensor_name, rows, transform in (
        ("q_a_proj", q_a, query_latent, None),
        ("q_proj", query, attention.num_heads * attention.qk_head_dim, queries),
        ("kv_a_proj", kv_a, attention.rope_dim + attention.latent_dim, latents),
        ("o_proj", o_proj, hidden_size, None),
        ("q_a_norm", q_a_norm, query_latent, None),
        ("kv_a_norm", kv_a_norm, attention.latent_dim, None),
    ):
        for kind in ("weight", "bias"):
            part = Part(f"{tensor_name}.{kind}", rows, transform)
            weights[f"{own}self_attn.{name}.{kind}"] = (part,)


def _mixture(
    weights: WeightMap, own: str, layer: LayerSpec, hidden_size: int, shared: str, bias: str
) -> None:
    """Add the shared experts and the bias of the choice; ``shared`` has a place for a name."""
    if not isinstance(layer.mlp, MoeSpec):
        return
    weights[f"{own}mlp.score_bias"] = (Part(bias, layer.mlp.num_experts),)
    if layer.mlp.shared is None:
        return
    size = layer.mlp.shared.intermediate_size
    weights[f"{own}mlp.shared.gate_up_proj.weight"] = tuple(
        Part(f"{shared.format(name)}.weight", size) for name in ("gate", "up")
    )
    weights[f"{own}mlp.shared.down_proj.weight"] = (
        Part(f"{shared.format('down')}.weight", hidden_size),
    )


DEEPSEEK3 = Architecture(
    name="deepseek3",
    classes=("DeepseekV3ForCausalLM",),
    model_types=("deepseek_v3", "kimi_k2"),
    gguf_names=(),
    spec_from_config=deepseek3_from_config,
    spec_from_gguf=_deepseek_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=_weights_from_gguf,
    ignored=("model.layers.61.",),
)
DEEPSEEK2 = replace(
    DEEPSEEK3,
    name="deepseek2",
    classes=("DeepseekV2ForCausalLM",),
    model_types=("deepseek_v2",),
    gguf_names=("deepseek2",),
    spec_from_config=deepseek2_from_config,
    ignored=(),
)
