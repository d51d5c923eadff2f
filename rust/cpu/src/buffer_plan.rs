//! Which buffers of a program may lie in the same memory: those that no step needs at the same time.
//!
//! The unit is a step, not an op: within a step workers are at different rows, so that a buffer that is done with in one
//! row is still read in another. Saves more than a third of the workspace, which is why 512 rows of it fit a cache.

use inferlib_program::program::{BufferId, Program};

use crate::plan::{RowOp, Step};

/// Where buffers lie, in floats.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BufferPlan {
    /// First float of each buffer; `None` for one that no step touches.
    pub(crate) offsets: Vec<Option<usize>>,
    /// Floats of all of them.
    pub(crate) floats: usize,
}

/// Floats from a row of `width` to the next: an odd number of cache lines, so that the same columns of many rows lie in
/// different sets of the caches. Widths are often powers of 2, and the 12 rows that a tile writes then share a few sets,
/// from which they drive out what the tile reads: at 1,536 columns products of many rows ran at four fifths of the speed.
pub(crate) fn row_stride(width: usize) -> usize {
    (width.div_ceil(LINE) | 1) * LINE
}

/// Floats of a cache line.
const LINE: usize = 16;

/// Lay out `program`'s buffers for `rows` rows, each row [`row_stride`] after the one before it.
pub(crate) fn plan_buffers(program: &Program, steps: &[Step], rows: usize) -> BufferPlan {
    let count = program.buffers.len();
    let conflicts = conflicts(program, steps);
    let size = |i: usize| rows * row_stride(program.buffers[i].width);
    let mut order: Vec<usize> = (0..count).filter(|&i| conflicts[i][i]).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(size(i)));
    let mut offsets = vec![None; count];
    let mut floats = 0;
    for &i in &order {
        let mut taken: Vec<(usize, usize)> = (0..count)
            .filter(|&j| conflicts[i][j])
            .filter_map(|j| offsets[j].map(|start| (start, start + size(j))))
            .collect();
        taken.sort_unstable();
        let mut start = 0;
        for (from, to) in taken {
            if start + size(i) <= from {
                break;
            }
            start = start.max(to);
        }
        offsets[i] = Some(start);
        floats = floats.max(start + size(i));
    }
    BufferPlan { offsets, floats }
}

/// `[i][j]`: whether some step needs both; `[i][i]`: whether any step touches `i`.
fn conflicts(program: &Program, steps: &[Step]) -> Vec<Vec<bool>> {
    let count = program.buffers.len();
    let mut conflicts = vec![vec![false; count]; count];
    // What is read later; backwards from the last step.
    let mut live = vec![false; count];
    for step in steps.iter().rev() {
        let uses = uses(program, step);
        let mut needed = live.clone();
        for access in &uses {
            needed[access.buffer.0 as usize] = true;
        }
        // In each row the ops run in order: a buffer that is written whole first was not needed before.
        for access in uses.iter().rev() {
            let buffer = access.buffer.0 as usize;
            match access.kind {
                Kind::Reads => live[buffer] = true,
                Kind::WritesWhole => live[buffer] = false,
                Kind::WritesPart => {}
            }
        }
        for (i, row) in conflicts.iter_mut().enumerate() {
            for (j, conflict) in row.iter_mut().enumerate() {
                *conflict |= needed[i] && needed[j];
            }
        }
    }
    conflicts
}

/// One op's access to one buffer, in the order in which they happen within a row.
struct Access {
    buffer: BufferId,
    kind: Kind,
}

enum Kind {
    Reads,
    /// Some columns; the others stay.
    WritesPart,
    /// All columns of each row of the step.
    WritesWhole,
}

fn reads(buffer: BufferId) -> Access {
    Access {
        buffer,
        kind: Kind::Reads,
    }
}

fn writes(buffer: BufferId) -> Access {
    Access {
        buffer,
        kind: Kind::WritesWhole,
    }
}

fn writes_part(buffer: BufferId) -> Access {
    Access {
        buffer,
        kind: Kind::WritesPart,
    }
}

fn uses(program: &Program, step: &Step) -> Vec<Access> {
    match step {
        Step::Rows { ops, .. } => ops.iter().flat_map(|op| row_uses(program, op)).collect(),
        // What a product reads was packed into tiles.
        Step::Linear { out, .. } => vec![writes(*out)],
        Step::Attention { q, out, .. } => vec![reads(*q), writes_part(*out)],
        // Copied elements and products are written by different workers, at different times.
        Step::HeadLinear(step) => vec![reads(step.x), writes(step.out)],
        Step::Moe(moe) => vec![reads(moe.x), reads(moe.router_logits), writes(moe.out)],
        Step::Logits { .. } => Vec::new(),
    }
}

fn row_uses(program: &Program, op: &RowOp) -> Vec<Access> {
    match *op {
        RowOp::Angles { .. } => Vec::new(),
        RowOp::Embedding { out, .. }
        | RowOp::PositionEmbedding { out, .. }
        | RowOp::SegmentEmbedding { out, .. } => vec![writes(out)],
        RowOp::Scale { x, .. } => vec![reads(x), writes(x)],
        RowOp::RmsNorm {
            x, start, len, out, ..
        } => {
            let whole = start == 0 && len == program.buffers[out.0 as usize].width;
            let write = if whole { writes(out) } else { writes_part(out) };
            vec![reads(x), write]
        }
        RowOp::Rope { x, .. } => vec![reads(x), writes_part(x)],
        RowOp::StoreKv { x, .. } | RowOp::Pack { x, .. } | RowOp::Capture { x, .. } => {
            vec![reads(x)]
        }
        RowOp::LayerNorm { x, out, .. }
        | RowOp::Activation { x, out, .. }
        | RowOp::ActAndMul { x, out, .. }
        | RowOp::Gather { x, out }
        | RowOp::Pool { x, out, .. } => {
            vec![reads(x), writes(out)]
        }
        // Whatever row the product was for, `out` has all of its columns already.
        RowOp::Adapt { x, out, .. } => vec![reads(x), reads(out), writes_part(out)],
        RowOp::Add { a, b, out } => vec![reads(a), reads(b), writes(out)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::Need;
    use inferlib_program::program::{Activation, Buffer, Rows, WeightId};

    const W: WeightId = WeightId(0);

    fn program(widths: &[usize]) -> Program {
        let buffer = |&width| Buffer {
            name: String::new(),
            rows: Rows::Tokens,
            width,
        };
        Program {
            buffers: widths.iter().map(buffer).collect(),
            ..Program::default()
        }
    }

    fn rows(ops: Vec<RowOp>) -> Step {
        Step::Rows {
            rows: Rows::Tokens,
            ops,
        }
    }

    fn linear(out: u32) -> Step {
        Step::Linear {
            rows: Rows::Tokens,
            weight: W,
            bias: None,
            gated: None,
            out: BufferId(out),
        }
    }

    fn pack(x: u32) -> RowOp {
        RowOp::Pack {
            x: BufferId(x),
            need: Need::default(),
        }
    }

    fn embedding(out: u32) -> RowOp {
        RowOp::Embedding {
            weight: W,
            scale: 1.0,
            out: BufferId(out),
        }
    }

    fn add(a: u32, b: u32, out: u32) -> RowOp {
        RowOp::Add {
            a: BufferId(a),
            b: BufferId(b),
            out: BufferId(out),
        }
    }

    fn overlap(plan: &BufferPlan, program: &Program, rows: usize, i: usize, j: usize) -> bool {
        let range = |i: usize| {
            let start = plan.offsets[i].expect("it is used");
            start..start + rows * row_stride(program.buffers[i].width)
        };
        let (a, b) = (range(i), range(j));
        a.start < b.end && b.start < a.end
    }

    /// hidden 0, branch 1, wide 2, inner 3: a layer's residual stream and its two branches, twice.
    fn layers() -> (Program, Vec<Step>) {
        let mut steps = vec![rows(vec![embedding(0), pack(0)])];
        for _ in 0..2 {
            steps.extend([
                linear(1),
                rows(vec![add(0, 1, 0), pack(0)]),
                linear(2),
                rows(vec![
                    RowOp::ActAndMul {
                        x: BufferId(2),
                        activation: Activation::Silu,
                        out: BufferId(3),
                    },
                    pack(3),
                ]),
                linear(1),
                rows(vec![add(0, 1, 0), pack(0)]),
            ]);
        }
        (program(&[16, 16, 96, 48, 7]), steps)
    }

    #[test]
    fn what_a_later_layer_reads_is_kept_and_what_is_written_anew_is_not() {
        let (program, steps) = layers();
        let plan = plan_buffers(&program, &steps, 4);
        for other in 1..4 {
            assert!(!overlap(&plan, &program, 4, 0, other), "hidden and {other}");
        }
        assert!(!overlap(&plan, &program, 4, 2, 3), "both in one step");
        assert!(overlap(&plan, &program, 4, 1, 2) || overlap(&plan, &program, 4, 1, 3));
        assert_eq!(plan.offsets[4], None, "no step touches it");
        assert_eq!(plan.floats, 4 * (16 + 112 + 48));
    }

    #[test]
    fn buffers_of_one_step_are_apart_though_one_row_is_done_with_the_first() {
        let program = program(&[32, 16]);
        let copy = RowOp::ActAndMul {
            x: BufferId(0),
            activation: Activation::Silu,
            out: BufferId(1),
        };
        let steps = [linear(0), rows(vec![copy, pack(1)])];
        let plan = plan_buffers(&program, &steps, 8);
        assert!(!overlap(&plan, &program, 8, 0, 1));
    }

    #[test]
    fn a_part_that_is_written_keeps_the_rest_alive() {
        // 0 is written, then normalised in part beside a use of 1, then read: it lives all along.
        let program = program(&[32, 32]);
        let norm = RowOp::RmsNorm {
            x: BufferId(0),
            start: 0,
            len: 16,
            weight: W,
            eps: 0.0,
            out: BufferId(0),
        };
        let steps = [
            linear(0),
            linear(1),
            rows(vec![pack(1)]),
            rows(vec![norm, pack(0)]),
        ];
        let plan = plan_buffers(&program, &steps, 1);
        assert!(!overlap(&plan, &program, 1, 0, 1));
        assert_eq!(plan.floats, 2 * 48);
    }
}
