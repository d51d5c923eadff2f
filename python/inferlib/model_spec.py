"""The frozen description of a model, between ``architectures/`` and ``transformer.py``.

Layers describe themselves, so that windows, rotary tables or MLPs may differ from one to the next;
models whose layers are all alike hold the same ``LayerSpec`` many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh", "gelu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary position embedding, frequency scaling already applied.

    Attributes:
        inv_freq: One frequency per pair of elements: pair ``i`` turns by ``position *
            inv_freq[i]``. Twice as many elements of each head are rotated; the rest pass through.
        scale: Multiplies cosine and sine (YaRN's attention factor).
    """

    inv_freq: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Causal attention with grouped KV heads.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: KV heads; divides ``num_heads``.
        head_dim: Elements of a head.
        scale: Multiplies the scores, usually ``head_dim ** -0.5``.
        rope: ``None`` for layers without positions.
        window: Tokens that a query may see, itself included; ``None`` means all.
        softcap: ``softcap * tanh(score / softcap)``; ``None`` means no cap.
        qkv_bias: Whether q, k and v projections have a bias.
        o_bias: Whether the output projection has one.
        qk_norm: RMS norm of queries and keys before RoPE: of each head, or of all heads of a token
            together.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["head", "token"] | None = None

    @property
    def q_size(self) -> int:
        """Elements of a token's queries."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of a token's keys, and of its values."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """Gated MLP: ``down(activation(gate(x)) * up(x))``.

    Attributes:
        intermediate_size: Rows of gate and of up.
        activation: Of the gate.
        bias: Whether the three projections have a bias.
    """

    intermediate_size: int
    activation: Activation
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Attention, then an MLP, each added to the residual stream.

    Attributes:
        attention: The first branch.
        mlp: The second branch.
        pre_norm: Whether a branch reads the normalised residual stream (or the stream itself).
        post_norm: Whether a branch's output is normalised before it is added.
    """

    attention: AttentionSpec
    mlp: MlpSpec
    pre_norm: bool = True
    post_norm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only language model.

    Attributes:
        architecture: The family's name, e.g. ``"llama"``.
        vocab_size: Rows of the embedding and width of the logits.
        hidden_size: Width of the residual stream.
        layers: In order.
        rms_norm_eps: Added to the mean square in every RMS norm.
        max_position_embeddings: Tokens of the longest sequence that the model was made for.
        embedding_scale: Multiplies the embedding (Gemma).
        tied_embeddings: Whether the logits use the embedding's weight.
        final_softcap: ``softcap * tanh(logit / softcap)``; ``None`` means no cap.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    rms_norm_eps: float
    max_position_embeddings: int
    embedding_scale: float = 1.0
    tied_embeddings: bool = False
    final_softcap: float | None = None

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.layers)
