//! Ops that only read and write one row, and those of them that a program names.

use inferlib_program::program::{
    Activation, BufferId, KvLayer, Op, PooledRow, Program, RopeId, Rows, WeightId,
};

use crate::activations::Need;

/// Work on one row; rows are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RowOp {
    /// Sines and cosines of the row's position.
    Angles {
        rope: usize,
    },
    Embedding {
        weight: WeightId,
        scale: f32,
        out: BufferId,
    },
    /// Of the row's position.
    PositionEmbedding {
        weight: WeightId,
        out: BufferId,
    },
    /// Of the text that the row belongs to.
    SegmentEmbedding {
        weight: WeightId,
        out: BufferId,
    },
    LayerNorm {
        x: BufferId,
        weight: WeightId,
        bias: Option<WeightId>,
        eps: f32,
        out: BufferId,
    },
    RmsNorm {
        x: BufferId,
        start: usize,
        len: usize,
        weight: WeightId,
        eps: f32,
        out: BufferId,
    },
    Rope {
        x: BufferId,
        start: usize,
        num_heads: usize,
        head_dim: usize,
        rope: RopeId,
    },
    StoreKv {
        x: BufferId,
        k_start: usize,
        v_start: usize,
        kv: KvLayer,
    },
    ActAndMul {
        x: BufferId,
        activation: Activation,
        out: BufferId,
    },
    Activation {
        x: BufferId,
        activation: Activation,
        out: BufferId,
    },
    Scale {
        x: BufferId,
        scale: f32,
    },
    Add {
        a: BufferId,
        b: BufferId,
        out: BufferId,
    },
    Gather {
        x: BufferId,
        out: BufferId,
    },
    /// The row is a sequence.
    Pool {
        x: BufferId,
        row: PooledRow,
        out: BufferId,
    },
    /// Hand the row out, if the batch says so.
    Capture {
        /// The point's number in the program.
        point: usize,
        x: BufferId,
    },
    /// Add what the row's adapter makes of `x` to the product of a matrix with it.
    Adapt {
        weight: WeightId,
        x: BufferId,
        out: BufferId,
    },
    /// Into the tiles that the next linear reads.
    Pack {
        x: BufferId,
        need: Need,
    },
}

impl RowOp {
    /// What an op of `program` does to each row, and to which rows; `None` if it is a step of its own.
    pub(super) fn of(program: &Program, op: &Op) -> Option<(Rows, Self)> {
        let rows_of = |buffer: BufferId| program.buffers[buffer.0 as usize].rows;
        Some(match *op {
            Op::Embedding { weight, scale, out } => {
                (Rows::Tokens, Self::Embedding { weight, scale, out })
            }
            Op::PositionEmbedding { weight, out } => {
                (Rows::Tokens, Self::PositionEmbedding { weight, out })
            }
            Op::SegmentEmbedding { weight, out } => {
                (Rows::Tokens, Self::SegmentEmbedding { weight, out })
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => (
                rows_of(x),
                Self::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps,
                    out,
                },
            ),
            Op::RmsNorm {
                x,
                start,
                len,
                weight,
                eps,
                out,
            } => (
                rows_of(x),
                Self::RmsNorm {
                    x,
                    start,
                    len,
                    weight,
                    eps,
                    out,
                },
            ),
            Op::Rope {
                x,
                start,
                num_heads,
                head_dim,
                rope,
            } => (
                rows_of(x),
                Self::Rope {
                    x,
                    start,
                    num_heads,
                    head_dim,
                    rope,
                },
            ),
            Op::StoreKv {
                x,
                k_start,
                v_start,
                kv,
            } => (
                rows_of(x),
                Self::StoreKv {
                    x,
                    k_start,
                    v_start,
                    kv,
                },
            ),
            Op::ActAndMul { x, activation, out } => {
                (rows_of(x), Self::ActAndMul { x, activation, out })
            }
            Op::Activation { x, activation, out } => {
                (rows_of(x), Self::Activation { x, activation, out })
            }
            Op::Scale { x, scale } => (rows_of(x), Self::Scale { x, scale }),
            Op::Add { a, b, out } => (rows_of(out), Self::Add { a, b, out }),
            Op::GatherRows { x, out } => (Rows::Sampled, Self::Gather { x, out }),
            Op::Pool { x, row, out } => (Rows::Sequences, Self::Pool { x, row, out }),
            Op::Linear { .. }
            | Op::HeadLinear { .. }
            | Op::Attention { .. }
            | Op::Moe { .. }
            | Op::LmHead { .. }
            | Op::Capture { .. } => return None,
        })
    }
}
