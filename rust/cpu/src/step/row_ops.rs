//! Row-local ops: what a phase of rows, or the tail of another phase, does to each row.

use inferlib_program::program::PooledRow;

use crate::activations::TILE_SIZES;
use crate::adapters::Adapter;
use crate::phases::Share;
use crate::plan::{RowOp, Step};
use crate::rows::rope_angles;
use crate::step::{Run, Way};
use crate::workspace::Worker;

impl Run<'_> {
    /// A phase of rows, its tail the phases of rows after it. Rows that are packed into one tile go to one worker, so
    /// that no two write the same cache lines.
    pub(super) fn rows_phase(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        ops: &[RowOp],
        total: usize,
        tail: &[Step],
    ) -> bool {
        let tile = TILE_SIZES[0];
        let packs = ops.iter().any(|op| matches!(op, RowOp::Pack { .. }));
        let together = if packs && (total <= tile || total.div_ceil(tile) >= self.workers()) {
            tile
        } else {
            1
        };
        self.phase(
            way,
            scratch,
            (total.div_ceil(together), Share::Stretch),
            |_, units| {
                for row in units.start * together..total.min(units.end * together) {
                    self.row_ops(ops, row, total);
                }
            },
            |_| self.tail(tail),
        )
    }

    /// Phases of few rows, done by whoever finished the phase before them.
    pub(super) fn tail(&self, steps: &[Step]) {
        for step in steps {
            if let Step::Rows { rows, ops } = step {
                let total = self.num_rows(*rows);
                for row in 0..total {
                    self.row_ops(ops, row, total);
                }
            }
        }
    }

    fn row_ops(&self, ops: &[RowOp], row: usize, total: usize) {
        for op in ops {
            self.row_op(op, row, total);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per op")]
    fn row_op(&self, op: &RowOp, row: usize, total: usize) {
        let executor = self.executor;
        let kernels = &executor.kernels;
        let vector = |weight| executor.vector(weight).unwrap_or(&[]);
        // SAFETY: rows are claimed once, buffers hold `max_tokens` rows of the recorded widths (checked when the program
        // was recorded), slots and ids were checked by `check_batch`, the table's features are available.
        unsafe {
            match *op {
                RowOp::Angles { rope } => {
                    let declared = &executor.program.ropes[rope];
                    let (cos, sin) = self.angles(rope, row);
                    let pairs = declared.inv_freq.len();
                    rope_angles(
                        self.batch.positions[row],
                        &declared.inv_freq,
                        declared.scale,
                        std::slice::from_raw_parts_mut(cos, pairs),
                        std::slice::from_raw_parts_mut(sin, pairs),
                    );
                }
                RowOp::Embedding { weight, scale, out } => {
                    let width = self.buffer(out).width;
                    let to = self.row(out, row);
                    if let Some(matrix) = executor.matrix(weight) {
                        let token = self.batch.token_ids[row].unsigned_abs() as usize;
                        matrix.row(token, std::slice::from_raw_parts_mut(to, width));
                    }
                    #[expect(clippy::float_cmp, reason = "1 means: no scale")]
                    if scale != 1.0 {
                        (kernels.scale)(to, width, scale);
                    }
                }
                RowOp::PositionEmbedding { weight, out } => {
                    let width = self.buffer(out).width;
                    if let Some(matrix) = executor.matrix(weight) {
                        // Beyond the last learned position the row is NaN, which reaches the logits.
                        let position = self.batch.positions[row].unsigned_abs() as usize;
                        let to = std::slice::from_raw_parts_mut(self.row(out, row), width);
                        matrix.row(position, to);
                    }
                }
                RowOp::SegmentEmbedding { weight, out } => {
                    let width = self.buffer(out).width;
                    if let Some(matrix) = executor.matrix(weight) {
                        // None means that all are of the first text.
                        let segment = self.batch.segment_ids.get(row).copied().unwrap_or(0);
                        let to = std::slice::from_raw_parts_mut(self.row(out, row), width);
                        matrix.row(segment.unsigned_abs() as usize, to);
                    }
                }
                RowOp::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps,
                    out,
                } => {
                    let bias = bias.map(vector);
                    (kernels.layer_norm)(
                        self.row(x, row),
                        vector(weight),
                        bias,
                        eps,
                        self.row(out, row),
                    );
                }
                RowOp::RmsNorm {
                    x,
                    start,
                    len,
                    weight,
                    eps,
                    out,
                } => {
                    let (from, to) = (self.row(x, row).add(start), self.row(out, row).add(start));
                    (kernels.rms_norm)(from, len, vector(weight), eps, to);
                }
                RowOp::Rope {
                    x,
                    start,
                    num_heads,
                    head_dim,
                    rope,
                } => {
                    let rope = rope.0 as usize;
                    let (cos, sin) = self.angles(rope, row);
                    let half = executor.program.ropes[rope].inv_freq.len();
                    (kernels.rope)(
                        self.row(x, row).add(start),
                        num_heads,
                        head_dim,
                        half,
                        cos,
                        sin,
                    );
                }
                RowOp::StoreKv {
                    x,
                    k_start,
                    v_start,
                    kv,
                } => {
                    let slot =
                        self.batch.groups[kv.group].slot_mapping[row].unsigned_abs() as usize;
                    let cache = executor.caches[kv.group].layer(kv.layer);
                    let from = self.row(x, row);
                    (executor.kv_kernels.store)(&cache, slot, from.add(k_start), from.add(v_start));
                }
                RowOp::ActAndMul { x, activation, out } => {
                    (kernels.act_and_mul)(
                        self.row(x, row),
                        self.buffer(out).width,
                        activation,
                        self.row(out, row),
                    );
                }
                RowOp::Activation { x, activation, out } => {
                    (kernels.activation)(
                        self.row(x, row),
                        self.buffer(out).width,
                        activation,
                        self.row(out, row),
                    );
                }
                RowOp::Scale { x, scale } => {
                    (kernels.scale)(self.row(x, row), self.buffer(x).width, scale);
                }
                RowOp::Add { a, b, out } => {
                    (kernels.add)(
                        self.row(a, row),
                        self.row(b, row),
                        self.buffer(out).width,
                        self.row(out, row),
                    );
                }
                RowOp::Gather { x, out } => {
                    let from = self.row(x, self.batch.logits_indices[row].unsigned_abs() as usize);
                    std::ptr::copy_nonoverlapping(from, self.row(out, row), self.buffer(out).width);
                }
                RowOp::Pool {
                    x,
                    row: pooled,
                    out,
                } => {
                    let start = |sequence: usize| {
                        self.batch.query_start_loc[sequence].unsigned_abs() as usize
                    };
                    let from = match pooled {
                        PooledRow::First => start(row),
                        PooledRow::Last => start(row + 1) - 1,
                    };
                    let from = self.row(x, from);
                    std::ptr::copy_nonoverlapping(from, self.row(out, row), self.buffer(out).width);
                }
                RowOp::Capture { point, x } => {
                    if let Some(Some(to)) = self.captured.get(point).map(|rows| rows.row(row)) {
                        std::ptr::copy_nonoverlapping(self.row(x, row), to, self.buffer(x).width);
                    }
                }
                RowOp::Adapt { weight, x, out } => {
                    for part in self.adapter(row).map_or(&[][..], |own| own.parts(weight)) {
                        (kernels.adapt)(self.row(x, row), part, self.row(out, row));
                    }
                }
                RowOp::Pack { x, need } => {
                    (kernels.pack_row)(
                        self.row(x, row),
                        self.buffer(x).width,
                        row,
                        total,
                        need,
                        self.activations,
                    );
                }
            }
        }
    }

    /// What a row of tokens is adapted with.
    fn adapter(&self, row: usize) -> Option<&Adapter> {
        let adapters = &self.batch.adapters;
        if adapters.is_empty() {
            return None;
        }
        let starts = &self.batch.query_start_loc;
        let ends_before = |&start: &i32| start.unsigned_abs() as usize <= row;
        let sequence = starts.partition_point(ends_before) - 1;
        self.executor.adapters.get(&adapters[sequence])
    }

    fn angles(&self, rope: usize, row: usize) -> (*mut f32, *mut f32) {
        let (cos, sin) = self.workspace.ropes[rope];
        let pairs = self.executor.program.ropes[rope].inv_freq.len();
        let at = |offset: usize| self.floats(offset).wrapping_add(row * pairs);
        (at(cos), at(sin))
    }
}
