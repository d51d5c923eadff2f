//! A program as the executor runs it: row-local ops gathered into steps. With few rows such a step is the tail of the one
//! before it (see [`crate::phases`]), so that a layer is five phases: qkv, attention, o, gate and up, down.
//!
//! A layer becomes: rows (norm, pack) → linear (qkv) → rows (qk-norm, rope, store K and V) → attention → rows (pack) →
//! linear (o) → rows (add, norm, pack) → linear (gate, up, activation) → rows (pack) → linear (down).

use inferlib_program::program::{
    Activation, BufferId, KvLayer, Op, PooledRow, Program, RopeId, Routing, Rows, WeightId,
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

/// A matrix per head: see [`Op::HeadLinear`].
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

/// A mixture of experts: see [`Op::Moe`].
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

/// Builds the steps; `adapts` is whether rows may have adapters (then gate and up are a product of their own, and what a
/// product reads is kept until it is adapted); `need` says what a matrix wants of its input, `halves` whether its halves are packed alike, so that
/// a gate and its up projection can be multiplied together.
pub(crate) fn build(
    program: &Program,
    adapts: bool,
    need: impl Fn(WeightId) -> Need,
    halves: impl Fn(WeightId) -> bool,
) -> Vec<Step> {
    let mut builder = Builder {
        program,
        adapts,
        steps: Vec::new(),
        num_captures: 0,
    };
    for rope in 0..program.ropes.len() {
        builder.row(Rows::Tokens, RowOp::Angles { rope });
    }
    for (i, op) in program.ops.iter().enumerate() {
        if adapts || !builder.fuse_gate(op, &program.ops[i + 1..], &halves) {
            builder.push(op, &need);
        }
    }
    builder.steps
}

struct Builder<'a> {
    program: &'a Program,
    adapts: bool,
    steps: Vec<Step>,
    /// Capture points so far.
    num_captures: usize,
}

impl Builder<'_> {
    /// Let the linear that computed gate and up apply the activation too, if nothing later wants their product.
    fn fuse_gate(&mut self, op: &Op, later: &[Op], halves: impl Fn(WeightId) -> bool) -> bool {
        let Op::ActAndMul { x, activation, out } = *op else {
            return false;
        };
        if is_read(later, x) {
            return false;
        }
        match self.steps.last_mut() {
            Some(Step::Linear {
                weight,
                bias: None,
                gated: gated @ None,
                out: product,
                ..
            }) if *product == x && halves(*weight) => {
                *gated = Some(activation);
                *product = out;
                true
            }
            _ => false,
        }
    }

    fn rows_of(&self, buffer: BufferId) -> Rows {
        self.program.buffers[buffer.0 as usize].rows
    }

    /// Append to the current phase, or begin one.
    fn row(&mut self, rows: Rows, op: RowOp) {
        if let Some(Step::Rows { rows: current, ops }) = self.steps.last_mut()
            && *current == rows
        {
            ops.push(op);
            return;
        }
        self.steps.push(Step::Rows {
            rows,
            ops: vec![op],
        });
    }

    #[expect(clippy::too_many_lines, reason = "one arm per op")]
    fn push(&mut self, op: &Op, need: &impl Fn(WeightId) -> Need) {
        match *op {
            Op::Embedding { weight, scale, out } => {
                self.row(Rows::Tokens, RowOp::Embedding { weight, scale, out });
            }
            Op::PositionEmbedding { weight, out } => {
                self.row(Rows::Tokens, RowOp::PositionEmbedding { weight, out });
            }
            Op::SegmentEmbedding { weight, out } => {
                self.row(Rows::Tokens, RowOp::SegmentEmbedding { weight, out });
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                self.row(
                    self.rows_of(x),
                    RowOp::LayerNorm {
                        x,
                        weight,
                        bias,
                        eps,
                        out,
                    },
                );
            }
            Op::RmsNorm {
                x,
                start,
                len,
                weight,
                eps,
                out,
            } => {
                self.row(
                    self.rows_of(x),
                    RowOp::RmsNorm {
                        x,
                        start,
                        len,
                        weight,
                        eps,
                        out,
                    },
                );
            }
            Op::Rope {
                x,
                start,
                num_heads,
                head_dim,
                rope,
            } => {
                self.row(
                    self.rows_of(x),
                    RowOp::Rope {
                        x,
                        start,
                        num_heads,
                        head_dim,
                        rope,
                    },
                );
            }
            Op::StoreKv {
                x,
                k_start,
                v_start,
                kv,
            } => {
                self.row(
                    self.rows_of(x),
                    RowOp::StoreKv {
                        x,
                        k_start,
                        v_start,
                        kv,
                    },
                );
            }
            Op::ActAndMul { x, activation, out } => {
                self.row(self.rows_of(x), RowOp::ActAndMul { x, activation, out });
            }
            Op::Activation { x, activation, out } => {
                self.row(self.rows_of(x), RowOp::Activation { x, activation, out });
            }
            Op::Scale { x, scale } => self.row(self.rows_of(x), RowOp::Scale { x, scale }),
            Op::Moe {
                x,
                router_logits,
                gate,
                up,
                down,
                biases,
                top_k,
                normalise,
                routing,
                activation,
                out,
            } => {
                let is_moe = |step: &&Step| matches!(step, Step::Moe(_));
                let index = self.steps.iter().filter(is_moe).count();
                self.steps.push(Step::Moe(MoeStep {
                    x,
                    router_logits,
                    gate,
                    up,
                    down,
                    biases,
                    top_k,
                    normalise,
                    routing,
                    activation,
                    out,
                    index,
                }));
            }
            Op::Add { a, b, out } => self.row(self.rows_of(out), RowOp::Add { a, b, out }),
            Op::GatherRows { x, out } => self.row(Rows::Sampled, RowOp::Gather { x, out }),
            Op::Pool { x, row, out } => self.row(Rows::Sequences, RowOp::Pool { x, row, out }),
            Op::Linear {
                x,
                weight,
                bias,
                out,
            } => {
                let rows = self.rows_of(x);
                self.row(
                    rows,
                    RowOp::Pack {
                        x,
                        need: need(weight),
                    },
                );
                self.steps.push(Step::Linear {
                    rows,
                    weight,
                    bias,
                    gated: None,
                    out,
                });
                if self.adapts && rows == Rows::Tokens {
                    self.row(rows, RowOp::Adapt { weight, x, out });
                }
            }
            Op::HeadLinear {
                x,
                pass,
                weight,
                out,
            } => {
                let by_head = |step: &&Step| matches!(step, Step::HeadLinear(_));
                let index = self.steps.iter().filter(by_head).count();
                self.steps.push(Step::HeadLinear(HeadLinearStep {
                    rows: self.rows_of(x),
                    x,
                    pass,
                    weight,
                    out,
                    index,
                }));
            }
            Op::Attention {
                q,
                q_start,
                num_heads,
                kv,
                scale,
                softcap,
                sinks,
                out,
            } => {
                self.steps.push(Step::Attention {
                    q,
                    q_start,
                    num_heads,
                    kv,
                    scale,
                    softcap,
                    sinks,
                    out,
                });
            }
            Op::LmHead {
                x, weight, softcap, ..
            } => {
                self.row(
                    self.rows_of(x),
                    RowOp::Pack {
                        x,
                        need: need(weight),
                    },
                );
                self.steps.push(Step::Logits {
                    width: self.program.buffers[x.0 as usize].width,
                    weight,
                    softcap,
                    point: None,
                });
            }
            Op::Capture { x, .. } => {
                let point = self.num_captures;
                self.num_captures += 1;
                if let Some(Step::Logits { point: logits, .. }) = self.steps.last_mut() {
                    *logits = Some(point); // they are not kept: the step itself hands them out
                } else {
                    self.row(self.rows_of(x), RowOp::Capture { point, x });
                }
            }
        }
    }
}

/// Whether one of the ops reads what is in `buffer` now: before another product overwrites it.
fn is_read(ops: &[Op], buffer: BufferId) -> bool {
    let touches = |op: &&Op| {
        let product = matches!(op, Op::Linear { out, .. } if *out == buffer);
        product || op.reads().contains(&Some(buffer))
    };
    let first = ops.iter().find(touches);
    first.is_some_and(|op| op.reads().contains(&Some(buffer)))
}

#[cfg(test)]
mod tests {
    use inferlib_program::program::Buffer;

    use super::*;

    const HIDDEN: BufferId = BufferId(0);
    const BOTH: BufferId = BufferId(1);
    const INNER: BufferId = BufferId(2);

    fn linear(x: BufferId, weight: u32, out: BufferId) -> Op {
        Op::Linear {
            x,
            weight: WeightId(weight),
            bias: None,
            out,
        }
    }

    /// Two layers over the same buffers, as a model has them.
    fn layers(extra: Option<Op>) -> Program {
        let gate = || Op::ActAndMul {
            x: BOTH,
            activation: Activation::Silu,
            out: INNER,
        };
        let layer = |extra: Option<Op>| {
            let mut ops = vec![linear(HIDDEN, 0, BOTH), gate()];
            ops.extend(extra);
            ops.push(linear(INNER, 1, HIDDEN));
            ops
        };
        let width = |width| Buffer {
            name: String::new(),
            rows: Rows::Tokens,
            width,
        };
        Program {
            buffers: [16, 64, 32].map(width).to_vec(),
            ops: [layer(extra), layer(None)].concat(),
            ..Program::default()
        }
    }

    fn gated(program: &Program) -> Vec<bool> {
        let steps = build(program, false, |_| Need::default(), |_| true);
        let linear = |step: &Step| match step {
            Step::Linear { gated, .. } => Some(gated.is_some()),
            _ => None,
        };
        steps.iter().filter_map(linear).collect()
    }

    #[test]
    fn every_layers_gate_is_applied_by_its_product() {
        assert_eq!(gated(&layers(None)), [true, false, true, false]);
    }

    #[test]
    fn a_product_that_is_read_again_is_kept() {
        let add = Op::Add {
            a: BOTH,
            b: BOTH,
            out: BOTH,
        };
        assert_eq!(gated(&layers(Some(add))), [false, false, true, false]);
    }

    #[test]
    fn logits_are_handed_out_by_their_own_step() {
        let capture = |name: &str, x| Op::Capture {
            name: name.to_owned(),
            x,
        };
        let mut program = layers(None);
        program.ops.extend([
            capture("stream", HIDDEN),
            Op::LmHead {
                x: HIDDEN,
                weight: WeightId(2),
                softcap: None,
                out: BOTH,
            },
            capture("logits", BOTH),
        ]);
        let steps = build(&program, false, |_| Need::default(), |_| true);
        let last = steps.last();
        assert!(matches!(last, Some(Step::Logits { point: Some(1), .. })));
    }
}
