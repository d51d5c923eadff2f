//! A program as the executor runs it: row-local ops gathered into steps. With few rows such a step is the tail of the one
//! before it (see [`crate::phases`]), so that a layer is five phases: qkv, attention, o, gate and up, down.
//!
//! A layer becomes: rows (norm, pack) → linear (qkv) → rows (qk-norm, rope, store K and V) → attention → rows (pack) →
//! linear (o) → rows (add, norm, pack) → linear (gate, up, activation) → rows (pack) → linear (down).
//!
//! | file | holds |
//! |---|---|
//! | `plan/builder.rs` | the steps of a program's ops |
//! | `plan/row_op.rs` | what is done to one row |

mod builder;
mod row_op;
#[cfg(test)]
mod tests;

use inferlib_program::program::{Activation, BufferId, KvLayer, Routing, Rows, WeightId};

pub(crate) use builder::build;
pub(crate) use row_op::RowOp;

/// What all workers do together before they go on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Rows {
        rows: Rows,
        ops: Vec<RowOp>,
    },
    Linear {
        rows: Rows,
        weight: WeightId,
        bias: Option<WeightId>,
        /// `out = act(first half) * second half` of the product.
        gated: Option<Activation>,
        out: BufferId,
    },
    HeadLinear(HeadLinearStep),
    Attention {
        q: BufferId,
        q_start: usize,
        num_heads: usize,
        kv: KvLayer,
        scale: f32,
        softcap: Option<f32>,
        sinks: Option<WeightId>,
        out: BufferId,
    },
    Moe(MoeStep),
    /// Logits and sampling, a few rows at a time.
    Logits {
        /// Columns of the packed rows.
        width: usize,
        weight: WeightId,
        softcap: Option<f32>,
        /// The capture point of the logits.
        point: Option<usize>,
    },
}

/// A matrix per head: see [`inferlib_program::program::Op::HeadLinear`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeadLinearStep {
    pub(crate) rows: Rows,
    pub(crate) x: BufferId,
    pub(crate) pass: usize,
    pub(crate) weight: WeightId,
    pub(crate) out: BufferId,
    /// Which of the program's products by head it is.
    pub(crate) index: usize,
}

/// A mixture of experts: see [`inferlib_program::program::Op::Moe`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MoeStep {
    pub(crate) x: BufferId,
    pub(crate) router_logits: BufferId,
    pub(crate) gate: WeightId,
    pub(crate) up: WeightId,
    pub(crate) down: WeightId,
    pub(crate) biases: Option<[WeightId; 3]>,
    pub(crate) top_k: usize,
    pub(crate) normalise: bool,
    pub(crate) routing: Routing,
    pub(crate) activation: Activation,
    pub(crate) out: BufferId,
    /// Which of the program's mixtures it is.
    pub(crate) index: usize,
}
