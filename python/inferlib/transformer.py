"""The forward pass: one for all models, run once per model with a recorder.

Nothing is computed here. Each call on ``self.program`` appends one op over named buffers to a
``Program``; executors replay it for every batch. Read ``forward`` first: a decoder is embedding,
layers, norm, logits; an encoder ends with its hidden states, or with scores of whole sequences.

Buffers are shared by all layers. ``hidden`` is the residual stream; ``branch`` is what attention or
the MLP adds to it. Capture points carry the names that TransformerLens gave them
(``capture_points.py`` cuts further ones out of these). They lie where an executor's fused ops leave
a buffer whole: between gate and activation there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import ProgramRecorder
from .model_spec import LatentAttentionSpec, MoeSpec

if TYPE_CHECKING:
    from ._core import Buffer, Program, Weight
    from .model_spec import AttentionSpec, ClassifierSpec, LayerSpec, MlpSpec, ModelSpec


FINAL_HIDDEN = "ln_final"
"""The capture point of the last hidden states, ``[tokens, hidden_size]``, of every model."""
SCORES = "scores"
"""The capture point of a classifier's scores, ``[sequences, labels]``."""
LOGITS = "unembed"
"""The capture point of the logits, ``[sampled, vocab_size]``."""
QKV = "attn.hook_qkv"
"""In each block: queries, keys and values side by side, as attention reads them: after norms and
RoPE. ``[tokens, q_size + 2 * kv_size]``. Latent attention has none.
"""


def record(spec: ModelSpec) -> Program:
    """Record the forward pass of the model that ``spec`` describes.

    Raises:
        ModelError: The sizes in ``spec`` do not fit together.
    """
    return Transformer(spec).forward()


class Transformer:
    """Records one transformer."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.program: ProgramRecorder = ProgramRecorder()
        self.hidden: Buffer = self.tokens("hidden", spec.hidden_size)
        self.branch: Buffer = self.tokens("branch", spec.hidden_size)

    def forward(self) -> Program:
        """From token ids to logits, hidden states or scores."""
        spec, program, hidden = self.spec, self.program, self.hidden
        embed_tokens = self.weight("embed_tokens.weight", spec.vocab_size, spec.hidden_size)
        program.embedding(embed_tokens, scale=spec.embedding_scale, out=hidden)
        program.capture("hook_embed", hidden)
        if spec.learned_positions is not None:
            positions = self.tokens("positions", spec.hidden_size)
            table = self.weight(
                "position_embedding.weight", spec.learned_positions, spec.hidden_size
            )
            program.position_embedding(table, out=positions)
            program.capture("hook_pos_embed", positions)
            program.add(hidden, positions, out=hidden)
        if spec.segments is not None:
            segments = self.tokens("segments", spec.hidden_size)
            table = self.weight("segment_embedding.weight", spec.segments, spec.hidden_size)
            program.segment_embedding(table, out=segments)
            program.add(hidden, segments, out=hidden)
        if spec.embedding_norm:
            self.norm("embedding_norm", hidden, out=hidden)

        for index, layer in enumerate(spec.layers):
            self.layer(f"layers.{index}", f"blocks.{index}", layer)

        normed = hidden
        if spec.final_norm:
            normed = self.tokens("normed", spec.hidden_size)
            self.norm("norm", hidden, out=normed)
        program.capture(FINAL_HIDDEN, normed)
        if spec.classifier is not None:
            self.classifier(normed, spec.classifier)
        if spec.lm_head:
            self.lm_head(normed, embed_tokens)
        return program.finish()

    def classifier(self, normed: Buffer, spec: ClassifierSpec) -> None:
        """Scores of each sequence, from one of its rows."""
        program, hidden_size = self.program, self.spec.hidden_size
        pooled = program.buffer("pooled", "sequences", hidden_size)
        dense = program.buffer("classifier_dense", "sequences", hidden_size)
        scores = program.buffer("scores", "sequences", len(spec.labels))
        program.pool(normed, spec.row, out=pooled)
        self.linear("classifier.dense", pooled, bias=True, out=dense)
        program.activation(dense, "tanh", out=dense)
        self.linear("classifier.out", dense, bias=True, out=scores)
        program.capture(SCORES, scores)

    def lm_head(self, normed: Buffer, embed_tokens: Weight) -> None:
        """Logits of the rows that are wanted."""
        spec, program = self.spec, self.program
        sampled = program.buffer("sampled", "sampled", spec.hidden_size)
        logits = program.buffer("logits", "sampled", spec.vocab_size)
        lm_head = embed_tokens
        if not spec.tied_embeddings:
            lm_head = self.weight("lm_head.weight", spec.vocab_size, spec.hidden_size)
        program.gather_rows(normed, out=sampled)
        if spec.logits_scale != 1:  # as if the logits were multiplied
            program.scale(sampled, spec.logits_scale)
        program.lm_head(sampled, lm_head, softcap=spec.final_softcap, out=logits)
        program.capture(LOGITS, logits)

    def layer(self, name: str, block: str, layer: LayerSpec) -> None:
        """Add attention and the MLP to the residual stream, one after the other or in parallel."""
        program, hidden, branch = self.program, self.hidden, self.branch

        program.capture(f"{block}.hook_resid_pre", hidden)
        x = self.pre_norm(f"{name}.attn_norm", layer)
        if isinstance(layer.attention, LatentAttentionSpec):
            self.latent_attention(f"{name}.self_attn", block, x, layer.attention)
        else:
            self.attention(f"{name}.self_attn", block, x, layer.attention)
        self.post_norm(f"{name}.post_attn_norm", layer, branch)
        program.capture(f"{block}.hook_attn_out", branch)
        if layer.parallel:
            # The MLP reads the stream before attention is added to it.
            mlp_branch = self.tokens("mlp_branch", self.spec.hidden_size)
        else:
            self.add_branch(branch)
            program.capture(f"{block}.hook_resid_mid", hidden)
            self.norm_after(f"{name}.attn_norm", layer, f"{block}.hook_normalized_resid_mid")
            mlp_branch = branch

        x = self.pre_norm(f"{name}.mlp_norm", layer)
        if isinstance(layer.mlp, MoeSpec):
            self.experts(f"{name}.mlp", x, layer.mlp, out=mlp_branch)
        else:
            self.mlp(f"{name}.mlp", x, layer.mlp, out=mlp_branch, point=f"{block}.mlp.hook_post")
        self.post_norm(f"{name}.post_mlp_norm", layer, mlp_branch)
        program.capture(f"{block}.hook_mlp_out", mlp_branch)
        if layer.parallel:
            self.add_branch(branch)
        self.add_branch(mlp_branch)
        program.capture(f"{block}.hook_resid_post", hidden)
        self.norm_after(f"{name}.mlp_norm", layer, f"{block}.hook_normalized_resid_post")

    def norm_after(self, name: str, layer: LayerSpec, point: str) -> None:
        """Normalise the residual stream itself, if the layer says so."""
        if layer.norm_after:
            self.norm(name, self.hidden, out=self.hidden)
            self.program.capture(point, self.hidden)

    def add_branch(self, branch: Buffer) -> None:
        """Add what attention or the MLP gives to the residual stream."""
        if self.spec.residual_scale != 1:
            self.program.scale(branch, self.spec.residual_scale)
        self.program.add(self.hidden, branch, out=self.hidden)

    def attention(self, name: str, block: str, x: Buffer, spec: AttentionSpec) -> None:
        """Project ``x`` to queries, keys and values, attend, project back into ``branch``."""
        program = self.program
        qkv_size = spec.q_size + 2 * spec.kv_size
        k_start, v_start = spec.q_size, spec.q_size + spec.kv_size

        qkv = self.tokens("qkv", qkv_size)
        self.linear(f"{name}.qkv_proj", x, bias=spec.qkv_bias, out=qkv)
        if spec.qk_norm:
            self.head_norm(f"{name}.q_norm", qkv, 0, spec.q_size, spec)
            self.head_norm(f"{name}.k_norm", qkv, k_start, spec.kv_size, spec)
        if spec.rope:
            table = program.rotary_table(spec.rope.inv_freq, scale=spec.rope.scale)
            # Queries and keys lie side by side: one run of heads.
            num_heads = spec.num_heads + spec.num_kv_heads
            program.rope(qkv, table, start=0, num_heads=num_heads, head_dim=spec.head_dim)

        kv = program.kv_layer(
            num_kv_heads=spec.num_kv_heads,
            k_head_dim=spec.head_dim,
            v_head_dim=spec.head_dim,
            window=spec.window,
            bidirectional=spec.bidirectional,
        )
        heads = self.tokens("heads", spec.q_size)
        program.store_kv(qkv, kv, k_start=k_start, v_start=v_start)
        program.capture(f"{block}.{QKV}", qkv)
        program.attention(
            qkv,
            kv,
            num_heads=spec.num_heads,
            scale=spec.scale,
            softcap=spec.softcap,
            sinks=self.weight(f"{name}.sinks", spec.num_heads) if spec.sinks else None,
            out=heads,
        )
        program.capture(f"{block}.attn.hook_z", heads)
        self.linear(f"{name}.o_proj", heads, bias=spec.o_bias, out=self.branch)

    def latent_attention(self, name: str, block: str, x: Buffer, spec: LatentAttentionSpec) -> None:
        """Project ``x`` to queries and a latent, attend to latents, project back into ``branch``.

        In queries and in what is cached the elements with positions come first.
        """
        program, heads = self.program, spec.num_heads
        cached = spec.rope_dim + spec.latent_dim
        q_input = x
        if spec.query_latent_dim is not None:
            q_input = self.tokens("query_latent", spec.query_latent_dim)
            self.linear(f"{name}.q_a_proj", x, bias=spec.bias, out=q_input)
            self.rms_norm(f"{name}.q_a_norm", q_input, 0, spec.query_latent_dim, spec.norm_eps)
        q = self.tokens("q", heads * spec.qk_head_dim)
        self.linear(f"{name}.q_proj", q_input, bias=False, out=q)
        latent = self.tokens("latent", cached)
        self.linear(f"{name}.kv_a_proj", x, bias=spec.bias, out=latent)
        self.rms_norm(f"{name}.kv_a_norm", latent, spec.rope_dim, spec.latent_dim, spec.norm_eps)

        table = program.rotary_table(spec.rope.inv_freq, scale=spec.rope.scale)
        program.rope(q, table, start=0, num_heads=heads, head_dim=spec.qk_head_dim)
        program.rope(latent, table, start=0, num_heads=1, head_dim=cached)
        absorbed = self.tokens("absorbed", heads * cached)
        k_proj = self.weight(f"{name}.k_absorb.weight", heads, spec.latent_dim, spec.nope_dim)
        program.head_linear(q, k_proj, pass_through=spec.rope_dim, out=absorbed)

        kv = program.kv_layer(
            num_kv_heads=1, k_head_dim=cached, v_head_dim=spec.latent_dim, window=None
        )
        program.store_kv(latent, kv, k_start=0, v_start=spec.rope_dim)
        attended = self.tokens("attended", heads * spec.latent_dim)
        program.attention(absorbed, kv, num_heads=heads, scale=spec.scale, out=attended)
        values = self.tokens("heads", heads * spec.v_head_dim)
        v_proj = self.weight(f"{name}.v_absorb.weight", heads, spec.v_head_dim, spec.latent_dim)
        program.head_linear(attended, v_proj, out=values)
        program.capture(f"{block}.attn.hook_z", values)
        self.linear(f"{name}.o_proj", values, bias=spec.bias, out=self.branch)

    def mlp(
        self,
        name: str,
        x: Buffer,
        spec: MlpSpec,
        *,
        out: Buffer,
        buffers: str = "",
        point: str | None = None,
    ) -> None:
        """``out = down(activation(gate(x)) * up(x))``, or without a gate.

        ``buffers`` begins the names of its buffers: MLPs of another size have others. What ``down``
        reads is captured as ``point``.
        """
        inner = self.tokens(f"{buffers}inner", spec.intermediate_size)
        if spec.gated:
            gate_up = self.tokens(f"{buffers}gate_up", 2 * spec.intermediate_size)
            self.linear(f"{name}.gate_up_proj", x, bias=spec.bias, out=gate_up)
            self.program.act_and_mul(gate_up, spec.activation, out=inner)
        else:
            self.linear(f"{name}.up_proj", x, bias=spec.bias, out=inner)
            self.program.activation(inner, spec.activation, out=inner)
        if point is not None:
            self.program.capture(point, inner)
        self.linear(f"{name}.down_proj", inner, bias=spec.bias, out=out)

    def experts(self, name: str, x: Buffer, spec: MoeSpec, *, out: Buffer) -> None:
        """``out =`` the weighted sum of the experts that the router picks for each token."""
        experts, inner, hidden = spec.num_experts, spec.intermediate_size, x.width
        router_logits = self.tokens("router_logits", experts)
        self.linear(f"{name}.router", x, bias=spec.bias, out=router_logits)

        projections = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
        gate, up, down = (
            self.weight(f"{name}.experts.{projection}_proj.weight", experts, *shape)
            for projection, shape in projections.items()
        )
        biases = None
        if spec.bias:
            gate_bias, up_bias, down_bias = (
                self.weight(f"{name}.experts.{projection}_proj.bias", experts * rows)
                for projection, (rows, _) in projections.items()
            )
            biases = (gate_bias, up_bias, down_bias)
        self.program.moe(
            x,
            router_logits,
            gate=gate,
            up=up,
            down=down,
            biases=biases,
            top_k=spec.top_k,
            normalise=spec.normalise,
            activation=spec.activation,
            scoring=spec.scoring,
            score_bias=self.weight(f"{name}.score_bias", experts) if spec.score_bias else None,
            groups=spec.groups,
            weight_scale=spec.weight_scale,
            out=out,
        )
        if spec.shared is not None:
            shared = self.tokens("shared", out.width)
            self.mlp(f"{name}.shared", x, spec.shared, out=shared, buffers="shared_")
            self.program.add(out, shared, out=out)

    def pre_norm(self, name: str, layer: LayerSpec) -> Buffer:
        """What a branch reads: the residual stream, normalised if the layer says so."""
        if not layer.pre_norm:
            return self.hidden
        normed = self.tokens("normed", self.spec.hidden_size)
        self.norm(name, self.hidden, out=normed)
        return normed

    def post_norm(self, name: str, layer: LayerSpec, branch: Buffer) -> None:
        """Normalise what a branch adds, if the layer says so."""
        if layer.post_norm:
            self.norm(name, branch, out=branch)

    def norm(self, name: str, x: Buffer, *, out: Buffer) -> None:
        """The model's norm, over whole rows."""
        weight = self.weight(f"{name}.weight", x.width)
        eps = self.spec.norm_eps
        if self.spec.norm == "layer":
            bias = self.weight(f"{name}.bias", x.width)
            self.program.layer_norm(x, weight, bias, eps=eps, out=out)
        else:
            self.program.rms_norm(x, weight, eps=eps, out=out)

    def head_norm(self, name: str, qkv: Buffer, start: int, size: int, spec: AttentionSpec) -> None:
        """RMS norm of the heads in ``qkv[start : start + size]``, in place."""
        group = spec.head_dim if spec.qk_norm == "head" else size
        weight = self.weight(f"{name}.weight", group)
        eps = self.spec.norm_eps
        self.program.rms_norm(qkv, weight, eps=eps, start=start, length=size, out=qkv)

    def rms_norm(self, name: str, x: Buffer, start: int, size: int, eps: float) -> None:
        """RMS norm of ``x[start : start + size]``, in place."""
        weight = self.weight(f"{name}.weight", size)
        self.program.rms_norm(x, weight, eps=eps, start=start, length=size, out=x)

    def linear(self, name: str, x: Buffer, *, bias: bool, out: Buffer) -> None:
        """``out = x @ weight.T + bias``."""
        weight = self.weight(f"{name}.weight", out.width, x.width)
        bias_weight = self.weight(f"{name}.bias", out.width) if bias else None
        self.program.linear(x, weight, bias_weight, out=out)

    def tokens(self, name: str, width: int) -> Buffer:
        """A buffer with one row per token; the same name gives the same buffer."""
        return self.program.buffer(name, "tokens", width)

    def weight(self, name: str, *shape: int) -> Weight:
        """A weight by canonical name; ``loading.py`` finds it in the checkpoint."""
        return self.program.weight(name, shape)
