"""The frozen description of a model, between ``architectures/`` and ``transformer.py``.

Layers describe themselves, so that windows, rotary tables or MLPs may differ from one to the next;
models whose layers are all alike hold the same ``LayerSpec`` many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh", "gelu", "relu", "tanh", "clamped_swiglu"]
"""``clamped_swiglu`` is gpt-oss's: of gate and up together, so only for gated MLPs and experts."""


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
    """Attention with grouped KV heads, causal unless it says otherwise.

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
        sinks: Whether each head has a learned score that takes part in the softmax and adds nothing
            (gpt-oss).
        bidirectional: Whether a query sees what comes behind it, too (encoders).
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
    sinks: bool = False
    bidirectional: bool = False

    @property
    def q_size(self) -> int:
        """Elements of a token's queries."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of a token's keys, and of its values."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttentionSpec:
    """Causal attention to one latent per token, which all heads share (DeepSeek's MLA).

    A head's query is ``rope_dim`` elements with positions and ``nope_dim`` without. The latter are
    multiplied into the latent's space, so that K and V of all heads are the latent itself, and a
    head's result is multiplied out of it: cached are ``rope_dim + latent_dim`` elements per token.

    Attributes:
        num_heads: Query heads.
        nope_dim: Elements of a query or key without positions.
        rope_dim: Elements of a query or key with positions; all heads have the same keys.
        v_head_dim: Elements of a value.
        latent_dim: Elements of the latent (``kv_lora_rank``).
        query_latent_dim: Of the queries' own latent (``q_lora_rank``); ``None`` where queries are
            projected at once.
        scale: Multiplies the scores.
        rope: Of ``rope_dim`` elements.
        bias: Whether the projections to latents and the output projection have a bias.
        norm_eps: Added to the mean squares of the latents.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1 and appendix C.
    """

    num_heads: int
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    latent_dim: int
    query_latent_dim: int | None
    scale: float
    rope: RopeSpec
    bias: bool = False
    norm_eps: float = 1e-6

    @property
    def qk_head_dim(self) -> int:
        """Elements of a query before it is multiplied into the latent's space."""
        return self.nope_dim + self.rope_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """``down(activation(gate(x)) * up(x))``, or without a gate ``down(activation(up(x)))``.

    Attributes:
        intermediate_size: Rows of gate and of up.
        activation: Of the gate; without one, of up.
        gated: Whether there is a gate.
        bias: Whether the projections have a bias.
    """

    intermediate_size: int
    activation: Activation
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """A mixture of experts, each a gated MLP: a router picks ``top_k`` of them for each token.

    Attributes:
        num_experts: All of them.
        top_k: Experts that a token goes through: those of its largest router logits.
        intermediate_size: Rows of an expert's gate and of its up projection.
        activation: Of the gate.
        normalise: Whether the weights of the chosen experts sum to 1, or are their scores.
        bias: Whether the router and the experts' projections have biases.
        scoring: What makes scores of the router's logits.
        score_bias: Whether a learned bias is added to the scores for the choice alone.
        groups: Experts in so many runs, of which the best so many may be chosen from, each as good
            as the sum of its so many largest scores.
        weight_scale: Multiplies the weights.
        shared: An MLP that every token goes through as well.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    activation: Activation
    normalise: bool = True
    bias: bool = False
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    score_bias: bool = False
    groups: tuple[int, int, int] | None = None
    weight_scale: float = 1.0
    shared: MlpSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Attention, then an MLP, each added to the residual stream.

    Attributes:
        attention: The first branch.
        mlp: The second branch.
        pre_norm: Whether a branch reads the normalised residual stream (or the stream itself).
        post_norm: Whether a branch's output is normalised before it is added.
        norm_after: Whether the residual stream itself is normalised after each branch was added to
            it (BERT); then there is no ``pre_norm``.
        parallel: Whether both branches read the stream as it was before the layer (GPT-NeoX).
    """

    attention: AttentionSpec | LatentAttentionSpec
    mlp: MlpSpec | MoeSpec
    pre_norm: bool = True
    post_norm: bool = False
    norm_after: bool = False
    parallel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSpec:
    """Scores of a whole sequence: ``out(tanh(dense(row)))`` of one of its rows.

    Attributes:
        labels: What each score is of, in order.
        row: Which row stands for the sequence.
        several: Whether each label is true or false by itself (sigmoid), not one of all (softmax).
    """

    labels: tuple[str, ...]
    row: Literal["first", "last"] = "first"
    several: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A transformer: a decoder with logits, or an encoder with hidden states or scores.

    Attributes:
        architecture: The family's name, e.g. ``"llama"``.
        vocab_size: Rows of the embedding and width of the logits.
        hidden_size: Width of the residual stream.
        layers: In order.
        norm: Of whole rows: RMS norm, or layer norm with weight and bias. Norms of heads are RMS.
        norm_eps: Added to the mean square, or to the variance, in every norm.
        max_position_embeddings: Tokens of the longest sequence that the model was made for.
        learned_positions: Rows of a table that is added to the embedding by position (GPT-2);
            ``None`` where positions are RoPE's.
        first_position: The row of that table that a sequence begins with in the checkpoint
            (RoBERTa's begins behind padding).
        segments: Rows of a table that is added to the embedding by which of two texts a token
            belongs to (BERT); ``None`` where texts are not told apart.
        embedding_norm: Whether the embedding is normalised (encoders).
        embedding_scale: Multiplies the embedding (Gemma, Granite).
        residual_scale: Multiplies what a branch adds to the residual stream (Granite).
        logits_scale: Multiplies the logits (Granite).
        tied_embeddings: Whether the logits use the embedding's weight.
        final_softcap: ``softcap * tanh(logit / softcap)``; ``None`` means no cap.
        final_norm: Whether the stream is normalised after the last layer.
        lm_head: Whether there are logits.
        classifier: Scores of whole sequences; ``None`` if there are none.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    max_position_embeddings: int
    norm: Literal["rms", "layer"] = "rms"
    learned_positions: int | None = None
    first_position: int = 0
    segments: int | None = None
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    tied_embeddings: bool = False
    final_softcap: float | None = None
    final_norm: bool = True
    lm_head: bool = True
    classifier: ClassifierSpec | None = None

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.layers)
