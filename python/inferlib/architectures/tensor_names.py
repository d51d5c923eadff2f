"""From canonical weights to a checkpoint's tensors: names, order of fused parts, transforms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..model_spec import AttentionSpec, MoeSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from ..model_spec import MlpSpec, ModelSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRows:
    """Take the same rows of every head out of a projection that stores head by head.

    Attributes:
        num_heads: Heads.
        stored: Rows of a head in the tensor.
        first: First row of a head that is taken.
        count: Rows of a head that are taken.
    """

    num_heads: int
    stored: int
    first: int
    count: int

    def row_order(self) -> NDArray[np.int32]:
        """``[num_heads * count]``: which row of the tensor is row ``r`` of the result."""
        rows = np.arange(self.num_heads * self.stored, dtype=np.int32)
        heads = rows.reshape(self.num_heads, self.stored)
        taken = heads[:, self.first : self.first + self.count]
        return np.ascontiguousarray(taken).reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeFirst:
    """Bring the rows with positions to the front of every head (latent attention).

    Attributes:
        num_heads: Heads.
        nope_dim: Rows without positions, which are stored first.
        rope_dim: Rows with positions.
        interleaved: Whether neighbours are rotated where we rotate ``(i, i + rope_dim / 2)``.
    """

    num_heads: int
    nope_dim: int
    rope_dim: int
    interleaved: bool

    def row_order(self) -> NDArray[np.int32]:
        """Which row of the tensor is row ``r`` of the result."""
        stored = self.nope_dim + self.rope_dim
        rows = np.arange(self.num_heads * stored, dtype=np.int32)
        heads = rows.reshape(self.num_heads, stored)
        nope, rope = heads[:, : self.nope_dim], heads[:, self.nope_dim :]
        if self.interleaved:
            pairs = rope.reshape(self.num_heads, self.rope_dim // 2, 2)
            rope = pairs.transpose(0, 2, 1).reshape(self.num_heads, self.rope_dim)
        return np.ascontiguousarray(np.concatenate([rope, nope], axis=1)).reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsFrom:
    """Some rows of a table, one after another (learned positions that begin behind padding's).

    Attributes:
        first: First row.
        count: How many.
    """

    first: int
    count: int

    def row_order(self) -> NDArray[np.int32]:
        """``[count]``: which row of the tensor is row ``r`` of the result."""
        return np.arange(self.first, self.first + self.count, dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transposed:
    """The tensor is stored ``[..., in_features, out_features]``; some or all columns are taken.

    Attributes:
        first: First column.
        step: From a column to the next: 2 where gate and up are interleaved (gpt-oss).
    """

    first: int = 0
    step: int = 1

    def matrix(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """``[..., out_features, in_features]``."""
        return array[..., self.first :: self.step].swapaxes(-1, -2)

    def vector(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same columns of a bias, flat."""
        return array[..., self.first :: self.step].reshape(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransposedHeads:
    """Of a projection that stores head by head, the first rows of every head, transposed.

    Attributes:
        num_heads: Heads.
        count: Rows of a head that are taken.
    """

    num_heads: int
    count: int

    def matrix(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """``[num_heads, in_features, count]`` of ``[num_heads * stored, in_features]``."""
        heads = array.reshape(self.num_heads, -1, array.shape[-1])
        return heads[:, : self.count].swapaxes(-1, -2)


RowOrder = UnpermuteQk | HeadRows | RopeFirst | RowsFrom
Recast = Transposed | TransposedHeads
"""What moves elements within rows: such a matrix is held as float32."""
Transform = RowOrder | AddOne | Recast


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a checkpoint, as a whole weight or as some rows of a fused one.

    Attributes:
        tensor: Its name in the checkpoint.
        rows: How many rows (of a vector: elements) it gives.
        transform: What has to be done to it.
        shape: Its shape in the checkpoint, if that is not ``rows`` by the weight's columns.
    """

    tensor: str
    rows: int
    transform: Transform | None = None
    shape: tuple[int, ...] | None = None


WeightMap = dict[str, tuple[Part, ...]]
"""Canonical name → parts, stacked by rows. May hold more than a model has (biases): its program
decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNames:
    """What one format calls the tensors of a decoder.

    Names of a layer stand after ``layer`` with its number; names of linears and norms lack
    ``.weight`` and ``.bias``. ``qkv`` and ``gate_up`` are as many tensors as the checkpoint keeps
    them in. ``up_proj`` is that of an MLP without a gate. ``experts`` are gate, up and down: a
    tensor for each expert where the name has a place for its number, else one tensor of all.
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
    up_proj: str
    position_embedding: str
    sinks: str
    router: str
    experts: tuple[str, str, str]

    def beside(self, tensors: Collection[str]) -> DecoderNames:
        """The same names under the prefix that the tensors of a checkpoint have."""
        leaf = self.embed_tokens.rpartition(".")[2]
        own = self.embed_tokens.removesuffix(leaf)
        for prefix in (own, *_OTHER_PREFIXES):
            if f"{prefix}{leaf}.weight" in tensors:
                return replace(
                    self,
                    embed_tokens=prefix + leaf,
                    position_embedding=prefix + self.position_embedding.removeprefix(own),
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
    up_proj="mlp.up_proj",
    position_embedding="model.embed_positions",
    sinks="self_attn.sinks",
    router="mlp.gate",
    experts=(
        "mlp.experts.{}.gate_proj",
        "mlp.experts.{}.up_proj",
        "mlp.experts.{}.down_proj",
    ),
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
    up_proj="ffn_up",
    position_embedding="position_embd",
    sinks="attn_sinks.weight",
    router="ffn_gate_inp",
    experts=("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
)


def weight_map(
    spec: ModelSpec,
    names: DecoderNames,
    *,
    permuted_qk: bool = False,
    norm_transform: Transform | None = None,
    transposed: bool = False,
) -> WeightMap:
    """Map every canonical weight of a decoder.

    Args:
        spec: Gives the sizes of fused parts.
        names: Of the checkpoint's format.
        permuted_qk: Whether the rows of q and k are stored for interleaved RoPE.
        norm_transform: Applied to every norm's weight.
        transposed: Whether the layers' matrices are stored ``[in_features, out_features]`` (GPT-2).
    """
    return _Mapping(spec, names, permuted_qk, norm_transform, transposed).weights()


@dataclass(slots=True)
class _Mapping:
    """The weight map in the making."""

    spec: ModelSpec
    names: DecoderNames
    permuted_qk: bool
    norm_transform: Transform | None
    transposed: bool
    _weights: WeightMap = field(default_factory=dict)

    def weights(self) -> WeightMap:
        spec, names = self.spec, self.names
        self._table("embed_tokens", names.embed_tokens, spec.vocab_size)
        if spec.learned_positions is not None:
            self._table("position_embedding", names.position_embedding, spec.learned_positions)
        for index, layer in enumerate(spec.layers):
            own, tensor = f"layers.{index}", names.layer.format(index)
            self._norm(f"{own}.attn_norm", tensor + names.attn_norm, spec.hidden_size)
            if isinstance(layer.attention, AttentionSpec):  # latent attention has other names
                self._attention(own, tensor, layer.attention)
            self._mlp(own, tensor, layer.mlp)
        self._norm("norm", names.norm, spec.hidden_size)
        self._table("lm_head", names.lm_head, spec.vocab_size)
        return self._weights

    def _attention(self, canonical: str, tensor: str, attention: AttentionSpec) -> None:
        names, hidden_size = self.names, self.spec.hidden_size
        own = f"{canonical}.self_attn"
        parts = _qkv(attention, names.qkv, permuted_qk=self.permuted_qk)
        self._linear(
            f"{own}.qkv_proj",
            [(tensor + name, rows, transform) for name, rows, transform in parts],
            columns=hidden_size,
        )
        per_head = attention.qk_norm == "head"
        q_width = attention.head_dim if per_head else attention.q_size
        k_width = attention.head_dim if per_head else attention.kv_size
        self._norm(f"{own}.q_norm", tensor + names.q_norm, q_width)
        self._norm(f"{own}.k_norm", tensor + names.k_norm, k_width)
        self._weights[f"{own}.sinks"] = (Part(tensor + names.sinks, attention.num_heads),)
        o_proj = [(tensor + names.o_proj, hidden_size, None)]
        self._linear(f"{own}.o_proj", o_proj, columns=attention.q_size)
        self._norm(f"{canonical}.post_attn_norm", tensor + names.post_attn_norm, hidden_size)

    def _mlp(self, canonical: str, tensor: str, mlp: MlpSpec | MoeSpec) -> None:
        names, hidden_size = self.names, self.spec.hidden_size
        own, inner = f"{canonical}.mlp", mlp.intermediate_size
        self._norm(f"{canonical}.mlp_norm", tensor + names.mlp_norm, hidden_size)
        if isinstance(mlp, MoeSpec):
            router = [(tensor + names.router, mlp.num_experts, None)]
            self._linear(f"{own}.router", router, columns=hidden_size)
            shapes = [(inner, hidden_size), (inner, hidden_size), (hidden_size, inner)]
            for kind, name, shape in zip(
                ("gate", "up", "down"), names.experts, shapes, strict=True
            ):
                self._experts(f"{own}.experts.{kind}_proj", tensor + name, mlp.num_experts, *shape)
        else:
            if mlp.gated:
                rows = 2 * inner // len(names.gate_up)
                gate_up = [(tensor + name, rows, None) for name in names.gate_up]
                self._linear(f"{own}.gate_up_proj", gate_up, columns=hidden_size)
            else:
                up = [(tensor + names.up_proj, inner, None)]
                self._linear(f"{own}.up_proj", up, columns=hidden_size)
            down = [(tensor + names.down_proj, hidden_size, None)]
            self._linear(f"{own}.down_proj", down, columns=inner)
        self._norm(f"{canonical}.post_mlp_norm", tensor + names.post_mlp_norm, hidden_size)

    def _table(self, canonical: str, tensor: str, rows: int) -> None:
        self._weights[f"{canonical}.weight"] = (Part(f"{tensor}.weight", rows),)

    def _norm(self, canonical: str, tensor: str, width: int) -> None:
        self._weights[f"{canonical}.weight"] = (
            Part(f"{tensor}.weight", width, self.norm_transform),
        )
        self._weights[f"{canonical}.bias"] = (Part(f"{tensor}.bias", width),)

    def _linear(
        self, canonical: str, parts: Iterable[tuple[str, int, Transform | None]], *, columns: int
    ) -> None:
        parts = tuple(parts)
        weights = tuple(Part(f"{name}.weight", rows, transform) for name, rows, transform in parts)
        if self.transposed:
            weights = tuple(
                Part(part.tensor, part.rows, Transposed(), shape=(columns, part.rows))
                for part in weights
            )
        self._weights[f"{canonical}.weight"] = weights
        self._weights[f"{canonical}.bias"] = tuple(
            Part(f"{name}.bias", rows, transform) for name, rows, transform in parts
        )

    def _experts(self, canonical: str, tensor: str, experts: int, rows: int, columns: int) -> None:
        for kind, shape in (("weight", (experts, rows, columns)), ("bias", (experts, rows))):
            if "{}" in tensor:
                parts = tuple(Part(f"{tensor.format(i)}.{kind}", rows) for i in range(experts))
            else:
                parts = (Part(f"{tensor}.{kind}", experts * rows, shape=shape),)
            self._weights[f"{canonical}.{kind}"] = parts


def _qkv(
    attention: AttentionSpec, names: tuple[str, ...], *, permuted_qk: bool
) -> list[tuple[str, int, Transform | None]]:
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
