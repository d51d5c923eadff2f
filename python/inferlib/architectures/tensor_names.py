"""From canonical weights to a checkpoint's tensors: names, order of fused parts, transforms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from ..model_spec import LayerSpec, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpermuteQk:
    """Undo the order in which GGUF stores the rows of q and k for Llama models.

    llama.cpp rotates neighbours ``(2 i, 2 i + 1)``, Hugging Face and we rotate ``(i, i + head_dim /
    2)``. Whole rows move, so a quantized matrix stays exactly what it was.
    """

    num_heads: int
    head_dim: int

    def row_order(self) -> NDArray[np.int32]:
        """``[num_heads * head_dim]``: which row of the tensor is row ``r`` of the result."""
        rows = np.arange(self.num_heads * self.head_dim, dtype=np.int32)
        stored = rows.reshape(self.num_heads, self.head_dim // 2, 2)
        return np.ascontiguousarray(stored.transpose(0, 2, 1)).reshape(-1)


@dataclass(frozen=True, slots=True)
class AddOne:
    """Add one to every element: Hugging Face stores Gemma's norms as ``w - 1``."""


Transform = UnpermuteQk | AddOne


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a checkpoint, as a whole weight or as some rows of a fused one.

    Attributes:
        tensor: Its name in the checkpoint.
        rows: How many rows (of a vector: elements) it gives.
        transform: What has to be done to it.
    """

    tensor: str
    rows: int
    transform: Transform | None = None


WeightMap = dict[str, tuple[Part, ...]]
"""Canonical name → parts, stacked by rows. May hold more than a model has (biases): its program
decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNames:
    """What one format calls the tensors of a decoder.

    Names of a layer stand after ``layer`` with its number; names of linears and norms lack
    ``.weight`` and ``.bias``. ``qkv`` and ``gate_up`` are as many tensors as the checkpoint keeps
    them in.
    """

    embed_tokens: str
    layer: str
    attn_norm: str
    qkv: tuple[str, ...]
    o_proj: str
    mlp_norm: str
    gate_up: tuple[str, ...]
    down_proj: str
    norm: str
    lm_head: str
    q_norm: str
    k_norm: str
    post_attn_norm: str
    post_mlp_norm: str

    def beside(self, tensors: Collection[str]) -> DecoderNames:
        """The same names under the prefix that the tensors of a checkpoint have."""
        own = self.embed_tokens.removesuffix("embed_tokens")
        for prefix in (own, *_OTHER_PREFIXES):
            if f"{prefix}embed_tokens.weight" in tensors:
                return replace(
                    self,
                    embed_tokens=prefix + self.embed_tokens.removeprefix(own),
                    layer=prefix + self.layer.removeprefix(own),
                    norm=prefix + self.norm.removeprefix(own),
                )
        return self


# Of the language model in multimodal checkpoints (as transformers 4 and 5 write them), and of
# models without a head.
_OTHER_PREFIXES = ("language_model.model.", "model.language_model.", "")

HUGGING_FACE = DecoderNames(
    embed_tokens="model.embed_tokens",
    layer="model.layers.{}.",
    attn_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    o_proj="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate_up=("mlp.gate_proj", "mlp.up_proj"),
    down_proj="mlp.down_proj",
    norm="model.norm",
    lm_head="lm_head",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    post_attn_norm="post_attention_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)

GGUF = DecoderNames(
    embed_tokens="token_embd",
    layer="blk.{}.",
    attn_norm="attn_norm",
    qkv=("attn_q", "attn_k", "attn_v"),
    o_proj="attn_output",
    mlp_norm="ffn_norm",
    gate_up=("ffn_gate", "ffn_up"),
    down_proj="ffn_down",
    norm="output_norm",
    lm_head="output",
    q_norm="attn_q_norm",
    k_norm="attn_k_norm",
    post_attn_norm="post_attention_norm",
    post_mlp_norm="post_ffw_norm",
)


def weight_map(
    spec: ModelSpec,
    names: DecoderNames,
    *,
    permuted_qk: bool = False,
    norm_transform: Transform | None = None,
) -> WeightMap:
    """Map every canonical weight of a decoder.

    Args:
        spec: Gives the sizes of fused parts.
        names: Of the checkpoint's format.
        permuted_qk: Whether the rows of q and k are stored for interleaved RoPE.
        norm_transform: Applied to every norm.
    """
    weights: WeightMap = {}

    def norm(canonical: str, tensor: str, width: int) -> None:
        weights[f"{canonical}.weight"] = (Part(f"{tensor}.weight", width, norm_transform),)

    def linear(canonical: str, parts: Iterable[tuple[str, int, Transform | None]]) -> None:
        for kind in ("weight", "bias"):
            weights[f"{canonical}.{kind}"] = tuple(
                Part(f"{tensor}.{kind}", rows, transform) for tensor, rows, transform in parts
            )

    linear("embed_tokens", [(names.embed_tokens, spec.vocab_size, None)])
    for index, layer in enumerate(spec.layers):
        canonical, tensor = f"layers.{index}", names.layer.format(index)
        attention = layer.attention
        norm(f"{canonical}.attn_norm", tensor + names.attn_norm, spec.hidden_size)
        linear(
            f"{canonical}.self_attn.qkv_proj",
            [
                (tensor + name, rows, transform)
                for name, rows, transform in _qkv(layer, names.qkv, permuted_qk=permuted_qk)
            ],
        )
        per_head = attention.qk_norm == "head"
        q_width = attention.head_dim if per_head else attention.q_size
        k_width = attention.head_dim if per_head else attention.kv_size
        norm(f"{canonical}.self_attn.q_norm", tensor + names.q_norm, q_width)
        norm(f"{canonical}.self_attn.k_norm", tensor + names.k_norm, k_width)
        linear(f"{canonical}.self_attn.o_proj", [(tensor + names.o_proj, spec.hidden_size, None)])
        norm(f"{canonical}.post_attn_norm", tensor + names.post_attn_norm, spec.hidden_size)
        norm(f"{canonical}.mlp_norm", tensor + names.mlp_norm, spec.hidden_size)
        rows = 2 * layer.mlp.intermediate_size // len(names.gate_up)
        linear(
            f"{canonical}.mlp.gate_up_proj",
            [(tensor + name, rows, None) for name in names.gate_up],
        )
        linear(f"{canonical}.mlp.down_proj", [(tensor + names.down_proj, spec.hidden_size, None)])
        norm(f"{canonical}.post_mlp_norm", tensor + names.post_mlp_norm, spec.hidden_size)
    norm("norm", names.norm, spec.hidden_size)
    linear("lm_head", [(names.lm_head, spec.vocab_size, None)])
    return weights


def _qkv(
    layer: LayerSpec, names: tuple[str, ...], *, permuted_qk: bool
) -> list[tuple[str, int, Transform | None]]:
    attention = layer.attention
    if len(names) == 1:
        return [(names[0], attention.q_size + 2 * attention.kv_size, None)]
    q, k, v = names
    q_transform = k_transform = None
    if permuted_qk:
        head_dim = attention.head_dim
        q_transform = UnpermuteQk(num_heads=attention.num_heads, head_dim=head_dim)
        k_transform = UnpermuteQk(num_heads=attention.num_kv_heads, head_dim=head_dim)
    return [
        (q, attention.q_size, q_transform),
        (k, attention.kv_size, k_transform),
        (v, attention.kv_size, None),
    ]
