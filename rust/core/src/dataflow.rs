//! What an op is called, what it reads and what it writes: for checks, texts and executors that plan buffers.

use crate::program::{Activation, BufferId, Op, Rows, WeightId};

impl Op {
    /// The op's name, the same for the recorder's call, the kernels and the tests.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Embedding { .. } => "embedding",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Linear { .. } => "linear",
            Self::Rope { .. } => "rope",
            Self::StoreKv { .. } => "store_kv",
            Self::Attention { .. } => "attention",
            Self::ActAndMul { .. } => "act_and_mul",
            Self::Add { .. } => "add",
            Self::GatherRows { .. } => "gather_rows",
            Self::LmHead { .. } => "lm_head",
            Self::Capture { .. } => "capture",
        }
    }

    /// The buffers that it reads. An op in place reads and writes the same one.
    #[must_use]
    pub fn reads(&self) -> [Option<BufferId>; 2] {
        match *self {
            Self::Embedding { .. } => [None, None],
            Self::Add { a, b, .. } => [Some(a), Some(b)],
            Self::RmsNorm { x, .. }
            | Self::Linear { x, .. }
            | Self::Rope { x, .. }
            | Self::StoreKv { x, .. }
            | Self::Attention { q: x, .. }
            | Self::ActAndMul { x, .. }
            | Self::GatherRows { x, .. }
            | Self::LmHead { x, .. }
            | Self::Capture { x, .. } => [Some(x), None],
        }
    }

    /// The buffer that it writes.
    #[must_use]
    pub fn writes(&self) -> Option<BufferId> {
        match *self {
            Self::Embedding { out, .. }
            | Self::RmsNorm { out, .. }
            | Self::Linear { out, .. }
            | Self::Rope { x: out, .. }
            | Self::Attention { out, .. }
            | Self::ActAndMul { out, .. }
            | Self::Add { out, .. }
            | Self::GatherRows { out, .. }
            | Self::LmHead { out, .. } => Some(out),
            Self::StoreKv { .. } | Self::Capture { .. } => None,
        }
    }

    /// The weights that it reads.
    #[must_use]
    pub fn weights(&self) -> [Option<WeightId>; 2] {
        match *self {
            Self::Embedding { weight, .. }
            | Self::RmsNorm { weight, .. }
            | Self::LmHead { weight, .. } => [Some(weight), None],
            Self::Linear { weight, bias, .. } => [Some(weight), bias],
            Self::Rope { .. }
            | Self::StoreKv { .. }
            | Self::Attention { .. }
            | Self::ActAndMul { .. }
            | Self::Add { .. }
            | Self::GatherRows { .. }
            | Self::Capture { .. } => [None, None],
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

impl Activation {
    /// `silu`, `gelu_tanh` or `gelu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
            Self::Gelu => "gelu",
        }
    }

    /// The reverse of [`Activation::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Silu, Self::GeluTanh, Self::Gelu]
            .into_iter()
            .find(|activation| activation.name() == name)
    }
}
