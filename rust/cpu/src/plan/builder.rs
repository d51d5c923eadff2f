//! From a program's ops to steps: row-local ops are gathered, gates are applied by the products in front of them.

use inferlib_program::program::{BufferId, Op, Program, Rows, WeightId};

use super::{HeadLinearStep, MoeStep, RowOp, Step};
use crate::activations::Need;

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

    fn push(&mut self, op: &Op, need: &impl Fn(WeightId) -> Need) {
        match RowOp::of(self.program, op) {
            Some((rows, op)) => self.row(rows, op),
            None => self.push_step(op, need),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per op")]
    fn push_step(&mut self, op: &Op, need: &impl Fn(WeightId) -> Need) {
        match *op {
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
            _ => unreachable!("`RowOp::of` knows all others"),
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
