//! The recorded forward pass: ops over named buffers, weights by canonical name, KV groups. Data only; an executor
//! (the CPU's in `rust/cpu`, CUDA's and the `NumPy` oracle in Python) replays it for every [`crate::Batch`].
//!
//! Dynamic dimensions are named by [`Rows`] and come from the batch, so a program is recorded once per model.

/// Which dimension of the batch a buffer's rows follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row per scheduled token.
    Tokens,
    /// One row per token whose logits are wanted (`Batch::logits_indices`).
    Sampled,
    /// One row per sequence of the batch.
    Sequences,
}

/// Index into [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Index into [`Program::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// Index into [`Program::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub u32);

/// A named `[rows, width]` float buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The recorder's name, e.g. `layers.3.attn_out`.
    pub name: String,
    /// What its rows count.
    pub rows: Rows,
    /// Elements per row.
    pub width: usize,
}

/// A weight that the program reads; `shape` is `[width]` for a vector, `[out_features, in_features]` for a matrix and
/// `[experts, out_features, in_features]` for the stacked matrices of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    /// Canonical name, e.g. `layers.3.self_attn.qkv_proj.weight`.
    pub name: String,
    /// One to three dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Rotary embedding: pair `i` of a head turns by `position * inv_freq[i]`; both halves are scaled by `scale`
/// (yarn's attention factor; 1 otherwise). Pairs are `(i, i + rotary_dim / 2)`, Hugging Face's layout.
///
/// Source: Su et al. 2021.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeDecl {
    /// One frequency per pair: `rotary_dim / 2` values, scaling already applied.
    pub inv_freq: Vec<f32>,
    /// Multiplies cosine and sine.
    pub scale: f32,
}

/// Layers that share one block table per sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Number of layers whose K and V live in each of the group's blocks.
    pub num_layers: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// Elements of a K head.
    pub k_head_dim: usize,
    /// Elements of a V head.
    pub v_head_dim: usize,
    /// Tokens that a query may see, itself included; `None` means all.
    pub window: Option<usize>,
    /// Whether a query sees what comes behind it, too: then a sequence is one step, and nothing of it is kept.
    pub bidirectional: bool,
}

/// Where one layer's K and V live: group and layer within the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayer {
    /// Index into [`Program::kv_groups`].
    pub group: usize,
    /// Layer within the group.
    pub layer: usize,
}

/// Activation of a gated or plain MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// Of gated MLPs alone (gpt-oss): with `g = min(gate, 7)` and `u = clamp(up, -7, 7)`,
    /// `g * sigmoid(1.702 g) * (u + 1)`.
    ClampedSwiglu,
}

/// How router logits become scores of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scoring {
    /// `softmax(logits)`.
    #[default]
    Softmax,
    /// `1 / (1 + exp(-logits))`, each for itself.
    Sigmoid,
}

/// Experts in `count` runs of equal length, of which a row may use the `kept` best; a run is as good as the sum of its
/// `scored` largest scores (`DeepSeek`'s limit on the machines that a row visits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Runs; they divide the experts evenly.
    pub count: usize,
    /// Runs that a row may use; together they have `top_k` experts or more.
    pub kept: usize,
    /// Scores that speak for a run: 1 or 2.
    pub scored: usize,
}

/// How a mixture chooses experts and weighs them, beyond the largest logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// From logits to scores.
    pub scoring: Scoring,
    /// `[experts]`, added to the scores for the choice alone.
    pub bias: Option<WeightId>,
    /// Limits the choice.
    pub groups: Option<ExpertGroups>,
    /// Multiplies the weights.
    pub scale: f32,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            scoring: Scoring::Softmax,
            bias: None,
            groups: None,
            scale: 1.0,
        }
    }
}

/// Which row of a sequence stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PooledRow {
    /// Its first one in the step (`[CLS]`).
    First,
    /// Its last one in the step.
    Last,
}

/// One step of the forward pass. Widths are those of the named buffers; every op reads whole rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[t] = weight[token_ids[t]] * scale`.
    Embedding {
        /// `[vocab_size, hidden_size]`.
        weight: WeightId,
        /// Multiplies the row (Gemma: `sqrt(hidden_size)`), 1 otherwise.
        scale: f32,
        /// `[tokens, hidden_size]`.
        out: BufferId,
    },
    /// `out[t] = weight[positions[t]]`: learned positions.
    PositionEmbedding {
        /// `[max_positions, hidden_size]`.
        weight: WeightId,
        /// `[tokens, hidden_size]`.
        out: BufferId,
    },
    /// `out[t] = weight[segment_ids[t]]`: which of two texts a token belongs to (BERT's token types).
    SegmentEmbedding {
        /// `[segments, hidden_size]`.
        weight: WeightId,
        /// `[tokens, hidden_size]`.
        out: BufferId,
    },
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, per group of `weight` width within the row (heads for qk-norm).
    RmsNorm {
        /// Input rows.
        x: BufferId,
        /// First element of `x` that is normalised.
        start: usize,
        /// Elements normalised from `start`, a multiple of the weight's width; the rest of the row is untouched.
        len: usize,
        /// `[group]`; Gemma's `1 + w` is already added by the loader.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// May equal `x` (qk-norm works in place on a slice of the fused qkv row).
        out: BufferId,
    },
    /// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, over whole rows.
    LayerNorm {
        /// Input rows.
        x: BufferId,
        /// `[width]`.
        weight: WeightId,
        /// `[width]`.
        bias: Option<WeightId>,
        /// Added to the variance (the mean squared deviation).
        eps: f32,
        /// May equal `x`.
        out: BufferId,
    },
    /// `out = x @ weight.T + bias`.
    Linear {
        /// `[rows, in_features]`.
        x: BufferId,
        /// `[out_features, in_features]`.
        weight: WeightId,
        /// `[out_features]`.
        bias: Option<WeightId>,
        /// `[rows, out_features]`.
        out: BufferId,
    },
    /// Each head's own matrix: with `x` as heads of `pass + in_features` and `out` as heads of `pass + out_features`
    /// elements, the first `pass` elements are copied, the others are `weight[head] @ x`. Latent attention puts its queries
    /// into the space of the cached latents with it, and their results back.
    HeadLinear {
        /// `[rows, heads * (pass + in_features)]`.
        x: BufferId,
        /// Elements of each head that are copied.
        pass: usize,
        /// `[heads, out_features, in_features]`.
        weight: WeightId,
        /// `[rows, heads * (pass + out_features)]`.
        out: BufferId,
    },
    /// Rotate the heads in `x[start .. start + num_heads * head_dim]`, in place, by the token's position.
    Rope {
        /// The fused qkv row, or any row of heads.
        x: BufferId,
        /// First element of the first head.
        start: usize,
        /// Heads rotated.
        num_heads: usize,
        /// Elements per head; `2 * inv_freq.len()` of them are rotated.
        head_dim: usize,
        /// Frequencies.
        rope: RopeId,
    },
    /// Write this step's K and V into the blocks at `Batch::slot_mapping`.
    StoreKv {
        /// Rows that hold K at `k_start` and V at `v_start`.
        x: BufferId,
        /// First element of K.
        k_start: usize,
        /// First element of V.
        v_start: usize,
        /// Where to.
        kv: KvLayer,
    },
    /// Attention from this step's queries to their sequences' blocks (this step's K and V included): causal, unless the
    /// group is bidirectional.
    Attention {
        /// Rows that hold the queries at `q_start`, `num_heads * head_dim` of them.
        q: BufferId,
        /// First element of the queries.
        q_start: usize,
        /// Query heads.
        num_heads: usize,
        /// Where from; the group gives KV heads, dimensions, window and direction.
        kv: KvLayer,
        /// Multiplies the scores.
        scale: f32,
        /// `softcap * tanh(score / softcap)`, Gemma 2.
        softcap: Option<f32>,
        /// `[num_heads]`: a score per head that takes part in the softmax and adds nothing (gpt-oss).
        sinks: Option<WeightId>,
        /// `[tokens, num_heads * v_head_dim]`.
        out: BufferId,
    },
    /// `out[i] = act(x[i]) * x[width + i]`: `x` is a fused `gate_up` row, `[rows, 2 * width]`.
    ActAndMul {
        /// Gate in the first half, up in the second.
        x: BufferId,
        /// Activation of the gate.
        activation: Activation,
        /// `[rows, width]`.
        out: BufferId,
    },
    /// `out = act(x)`; `out` may equal `x`.
    Activation {
        /// Input rows.
        x: BufferId,
        /// Which one.
        activation: Activation,
        /// `[rows, width]`.
        out: BufferId,
    },
    /// `x *= scale`, in place.
    Scale {
        /// Rows.
        x: BufferId,
        /// Finite.
        scale: f32,
    },
    /// A mixture of experts: each row goes through the `top_k` experts of its largest scores (the lower index on a tie),
    /// each a gated MLP: `out = Σ w_e down_e(act(gate_e(x)) * up_e(x))`, in descending order of the scores.
    Moe {
        /// `[tokens, hidden_size]`.
        x: BufferId,
        /// `[tokens, experts]`.
        router_logits: BufferId,
        /// `[experts, intermediate_size, hidden_size]`.
        gate: WeightId,
        /// As `gate`.
        up: WeightId,
        /// `[experts, hidden_size, intermediate_size]`.
        down: WeightId,
        /// Of gate and up `[experts * intermediate_size]`, of down `[experts * hidden_size]`: all or none.
        biases: Option<[WeightId; 3]>,
        /// Experts per row.
        top_k: usize,
        /// Whether the weights of the chosen experts sum to 1 (before `routing.scale`), or are their scores.
        normalise: bool,
        /// How they are chosen.
        routing: Routing,
        /// Of the gate.
        activation: Activation,
        /// `[tokens, hidden_size]`.
        out: BufferId,
    },
    /// `out = a + b`; `out` may equal either.
    Add {
        /// First summand.
        a: BufferId,
        /// Second summand.
        b: BufferId,
        /// Sum.
        out: BufferId,
    },
    /// `out[i] = x[logits_indices[i]]`.
    GatherRows {
        /// `[tokens, width]`.
        x: BufferId,
        /// `[sampled, width]`.
        out: BufferId,
    },
    /// `out[s] = x[first or last row of sequence s]`.
    Pool {
        /// `[tokens, width]`.
        x: BufferId,
        /// Which row.
        row: PooledRow,
        /// `[sequences, width]`.
        out: BufferId,
    },
    /// `out = x @ weight.T`, then `softcap * tanh(out / softcap)` if given: the logits.
    LmHead {
        /// `[sampled, hidden_size]`.
        x: BufferId,
        /// `[vocab_size, hidden_size]`; may be the embedding's weight.
        weight: WeightId,
        /// Gemma 2's final cap.
        softcap: Option<f32>,
        /// `[sampled, vocab_size]`.
        out: BufferId,
    },
    /// Off by default; when a request asks for `name`, rows of `x` are handed out here (see [`crate::CapturedRows`]).
    Capture {
        /// Stable name, e.g. `blocks.3.hook_resid_pre`.
        name: String,
        /// What is read.
        x: BufferId,
    },
}

/// One forward pass, frozen after recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Buffers by id.
    pub buffers: Vec<Buffer>,
    /// Weights by id.
    pub weights: Vec<WeightDecl>,
    /// Rotary tables by id.
    pub ropes: Vec<RopeDecl>,
    /// KV groups; a sequence has one block table in each.
    pub kv_groups: Vec<KvGroup>,
    /// In order of execution.
    pub ops: Vec<Op>,
    /// Token ids are below this: the width of the logits, or the rows of the embedding if there are none.
    pub vocab_size: usize,
}

impl Program {
    /// The capture points in order: a point's number is its place here.
    pub fn captures(&self) -> impl Iterator<Item = (&str, BufferId)> {
        self.ops.iter().filter_map(|op| match op {
            Op::Capture { name, x } => Some((name.as_str(), *x)),
            _ => None,
        })
    }

    /// Whether there are logits.
    #[must_use]
    pub fn has_lm_head(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::LmHead { .. }))
    }

    /// Whether tokens see what comes behind them, so that every sequence has to be one step.
    #[must_use]
    pub fn is_bidirectional(&self) -> bool {
        self.kv_groups.iter().any(|group| group.bidirectional)
    }
}
