//! What an op is called, what it reads and what it writes: for checks, texts and executors that plan buffers.

use crate::program::{Activation, BufferId, Op, PooledRow, Rows, Scoring, WeightId};

impl Op {
    /// The op's name, the same for the recorder's call, the kernels and the tests.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Embedding { .. } => "embedding",
            Self::PositionEmbedding { .. } => "position_embedding",
            Self::SegmentEmbedding { .. } => "segment_embedding",
            Self::RmsNorm { .. } => "rms_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Linear { .. } => "linear",
            Self::HeadLinear { .. } => "head_linear",
            Self::Rope { .. } => "rope",
            Self::StoreKv { .. } => "store_kv",
            Self::Attention { .. } => "attention",
            Self::ActAndMul { .. } => "act_and_mul",
            Self::Activation { .. } => "activation",
            Self::Scale { .. } => "scale",
            Self::Moe { .. } => "moe",
            Self::Add { .. } => "add",
            Self::GatherRows { .. } => "gather_rows",
            Self::Pool { .. } => "pool",
            Self::LmHead { .. } => "lm_head",
            Self::Capture { .. } => "capture",
        }
    }

    /// The buffers that it reads. An op in place reads and writes the same one.
    #[must_use]
    pub fn reads(&self) -> [Option<BufferId>; 2] {
        match *self {
            Self::Embedding { .. }
            | Self::PositionEmbedding { .. }
            | Self::SegmentEmbedding { .. } => [None, None],
            Self::Add { a, b, .. } => [Some(a), Some(b)],
            Self::Moe {
                x, router_logits, ..
            } => [Some(x), Some(router_logits)],
            Self::RmsNorm { x, .. }
            | Self::LayerNorm { x, .. }
            | Self::Linear { x, .. }
            | Self::HeadLinear { x, .. }
            | Self::Rope { x, .. }
            | Self::StoreKv { x, .. }
            | Self::Attention { q: x, .. }
            | Self::ActAndMul { x, .. }
            | Self::Activation { x, .. }
            | Self::Scale { x, .. }
            | Self::GatherRows { x, .. }
            | Self::Pool { x, .. }
            | Self::LmHead { x, .. }
            | Self::Capture { x, .. } => [Some(x), None],
        }
    }

    /// The buffer that it writes.
    #[must_use]
    pub fn writes(&self) -> Option<BufferId> {
        match *self {
            Self::Embedding { out, .. }
            | Self::PositionEmbedding { out, .. }
            | Self::SegmentEmbedding { out, .. }
            | Self::RmsNorm { out, .. }
            | Self::LayerNorm { out, .. }
            | Self::Linear { out, .. }
            | Self::HeadLinear { out, .. }
            | Self::Rope { x: out, .. }
            | Self::Attention { out, .. }
            | Self::ActAndMul { out, .. }
            | Self::Activation { out, .. }
            | Self::Scale { x: out, .. }
            | Self::Moe { out, .. }
            | Self::Add { out, .. }
            | Self::GatherRows { out, .. }
            | Self::Pool { out, .. }
            | Self::LmHead { out, .. } => Some(out),
            Self::StoreKv { .. } | Self::Capture { .. } => None,
        }
    }

    /// The weights that it reads.
    #[must_use]
    pub fn weights(&self) -> Vec<WeightId> {
        match *self {
            Self::Embedding { weight, .. }
            | Self::PositionEmbedding { weight, .. }
            | Self::SegmentEmbedding { weight, .. }
            | Self::RmsNorm { weight, .. }
            | Self::HeadLinear { weight, .. }
            | Self::LmHead { weight, .. } => vec![weight],
            Self::Linear { weight, bias, .. } | Self::LayerNorm { weight, bias, .. } => {
                [Some(weight), bias].into_iter().flatten().collect()
            }
            Self::Attention { sinks, .. } => sinks.into_iter().collect(),
            Self::Moe {
                gate,
                up,
                down,
                biases,
                routing,
                ..
            } => {
                let vectors = biases.into_iter().flatten().chain(routing.bias);
                [gate, up, down].into_iter().chain(vectors).collect()
            }
            Self::Rope { .. }
            | Self::StoreKv { .. }
            | Self::ActAndMul { .. }
            | Self::Activation { .. }
            | Self::Scale { .. }
            | Self::Add { .. }
            | Self::GatherRows { .. }
            | Self::Pool { .. }
            | Self::Capture { .. } => Vec::new(),
        }
    }
}

impl Rows {
    /// `tokens`, `sampled` or `sequences`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Sampled => "sampled",
            Self::Sequences => "sequences",
        }
    }

    /// The reverse of [`Rows::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Tokens, Self::Sampled, Self::Sequences]
            .into_iter()
            .find(|rows| rows.name() == name)
    }
}

impl Scoring {
    /// `softmax` or `sigmoid`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
        }
    }

    /// The reverse of [`Scoring::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Softmax, Self::Sigmoid]
            .into_iter()
            .find(|scoring| scoring.name() == name)
    }
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Silu,
        Self::GeluTanh,
        Self::Gelu,
        Self::Relu,
        Self::Tanh,
        Self::ClampedSwiglu,
    ];

    /// `silu`, `gelu_tanh`, `gelu`, `relu`, `tanh` or `clamped_swiglu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
            Self::Gelu => "gelu",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::ClampedSwiglu => "clamped_swiglu",
        }
    }

    /// The reverse of [`Activation::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|activation| activation.name() == name)
    }
}

impl PooledRow {
    /// `first` or `last`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }

    /// The reverse of [`PooledRow::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::First, Self::Last]
            .into_iter()
            .find(|row| row.name() == name)
    }
}
