//! One step: the plan over one batch, on all workers, with a barrier between phases.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use inferlib_core::program::{Activation, BufferId, Rows, WeightId};
use inferlib_core::{Batch, StepOutput};

use crate::activations::ActivationsView;
use crate::attention::AttentionTask;
use crate::attention_plan::plan_attention;
use crate::check::check_batch;
use crate::error::CpuError;
use crate::executor::CpuExecutor;
use crate::linear::{LinearTask, linear};
use crate::plan::{RowOp, Step};
use crate::rows::rope_angles;
use crate::workspace::{LOGITS_ROWS, Worker, Workspace};

/// Run the plan over `batch`.
pub(crate) fn run_step(
    executor: &CpuExecutor,
    workspace: &mut Workspace,
    batch: &Batch,
) -> Result<StepOutput, CpuError> {
    check_batch(executor, batch)?;
    for (cache, group) in executor.caches.iter().zip(&batch.groups) {
        for pair in group.block_copies.chunks_exact(2) {
            cache.copy_block(
                pair[0].unsigned_abs() as usize,
                pair[1].unsigned_abs() as usize,
            );
        }
    }
    let partial_stride = plan_attention(executor, workspace, batch);
    for counter in &workspace.counters {
        counter.0.store(0, Ordering::Relaxed);
    }
    let activations = workspace.activations.view();
    let partials = workspace.partials.as_mut_ptr();
    let run = Run {
        executor,
        batch,
        workspace,
        activations,
        partials,
        partial_stride,
        stop_at: AtomicUsize::new(usize::MAX),
        aborted: AtomicBool::new(false),
    };
    executor.pool.run(&|worker| run.work(worker))?;
    if run.aborted.load(Ordering::Acquire) {
        return Err(CpuError::Aborted);
    }
    let mut output = StepOutput::default();
    for cell in &mut workspace.results[..batch.num_sampled()] {
        let result = cell.0.get_mut().take();
        let Some(result) = result else {
            return Err(CpuError::Panic {
                message: "a row was not sampled".to_owned(),
            });
        };
        output.token_ids.push(result.token_id);
        output.status.push(result.status);
        output.logprobs.push(result.logprobs);
    }
    Ok(output)
}

/// A step in flight, shared by its workers.
struct Run<'a> {
    executor: &'a CpuExecutor,
    batch: &'a Batch,
    workspace: &'a Workspace,
    activations: ActivationsView,
    partials: *mut f32,
    partial_stride: usize,
    /// The barrier after which every worker leaves.
    stop_at: AtomicUsize,
    aborted: AtomicBool,
}

// SAFETY: the raw pointers lead to buffers in which each worker writes only rows, panels or units that it claimed;
// phases that read what others wrote come after a barrier.
unsafe impl Sync for Run<'_> {}

/// What becomes of a linear's sums.
struct Product<'a> {
    bias: Option<&'a [f32]>,
    gated: Option<Activation>,
    out: *mut f32,
}

/// One worker's way through the plan.
struct Way {
    worker: usize,
    barriers: usize,
    counter: usize,
}

impl Run<'_> {
    fn work(&self, worker: usize) {
        let mut way = Way {
            worker,
            barriers: 0,
            counter: 0,
        };
        // SAFETY: this worker's own cell.
        let scratch = unsafe { &mut *self.workspace.workers[worker].0.get() };
        for step in &self.executor.steps {
            let go_on = match step {
                Step::Rows { rows, ops } => {
                    self.row_ops(&mut way, *rows, ops);
                    self.barrier(&mut way)
                }
                Step::Linear {
                    rows,
                    weight,
                    bias,
                    gated,
                    out,
                } => {
                    let bias = bias.and_then(|bias| self.executor.vector(bias));
                    let product = Product {
                        bias,
                        gated: *gated,
                        out: self.buffer(*out).0,
                    };
                    self.linear(&mut way, scratch, *weight, self.num_rows(*rows), &product);
                    self.barrier(&mut way)
                }
                Step::Attention { .. } => self.attention(&mut way, scratch, step),
                Step::Logits { .. } => self.logits(&mut way, scratch, step),
            };
            if !go_on {
                return;
            }
        }
    }

    /// Meet the others; false if the step was aborted. Worker 0 decides before it arrives, so all leave at the same one.
    fn barrier(&self, way: &mut Way) -> bool {
        way.barriers += 1;
        if way.worker == 0 && self.executor.abort.load(Ordering::Acquire) {
            self.aborted.store(true, Ordering::Release);
            self.stop_at.store(way.barriers, Ordering::Release);
        }
        self.executor.pool.barrier();
        self.stop_at.load(Ordering::Acquire) != way.barriers
    }

    /// Units `0..total` for this worker: a static share of most, then single ones from a shared counter.
    fn claim(
        &self,
        way: &mut Way,
        total: usize,
        static_share: usize,
        mut run: impl FnMut(Range<usize>),
    ) {
        let counter = &self.workspace.counters[way.counter].0;
        way.counter += 1;
        let size = self.executor.threads();
        if size == 1 {
            run(0..total);
            return;
        }
        let share = total * static_share / 100 / size;
        if share > 0 {
            run(way.worker * share..(way.worker + 1) * share);
        }
        let piece = (total / (size * 32)).max(1);
        loop {
            let from = share * size + counter.fetch_add(piece, Ordering::Relaxed);
            if from >= total {
                return;
            }
            run(from..total.min(from + piece));
        }
    }

    fn num_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.batch.num_tokens(),
            Rows::Sampled => self.batch.num_sampled(),
            Rows::Sequences => self.batch.num_seqs(),
        }
    }

    /// First element and width.
    fn buffer(&self, id: BufferId) -> (*mut f32, usize) {
        let (offset, width) = self.workspace.buffers[id.0 as usize];
        (
            self.workspace.memory.as_ptr().wrapping_add(offset).cast(),
            width,
        )
    }

    fn row(&self, id: BufferId, row: usize) -> *mut f32 {
        let (base, width) = self.buffer(id);
        base.wrapping_add(row * width)
    }

    fn row_ops(&self, way: &mut Way, rows: Rows, ops: &[RowOp]) {
        let total = self.num_rows(rows);
        self.claim(way, total, 75, |range| {
            for row in range {
                for op in ops {
                    self.row_op(op, row, total);
                }
            }
        });
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
                    let width = self.buffer(out).1;
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
                    let store = if executor.exact() {
                        kernels.store_kv_single
                    } else {
                        kernels.store_kv_half
                    };
                    store(&cache, slot, from.add(k_start), from.add(v_start));
                }
                RowOp::ActAndMul { x, activation, out } => {
                    (kernels.act_and_mul)(
                        self.row(x, row),
                        self.buffer(out).1,
                        activation,
                        self.row(out, row),
                    );
                }
                RowOp::Add { a, b, out } => {
                    (kernels.add)(
                        self.row(a, row),
                        self.row(b, row),
                        self.buffer(out).1,
                        self.row(out, row),
                    );
                }
                RowOp::Gather { x, out } => {
                    let from = self.row(x, self.batch.logits_indices[row].unsigned_abs() as usize);
                    std::ptr::copy_nonoverlapping(from, self.row(out, row), self.buffer(out).1);
                }
                RowOp::Pack { x, need } => {
                    (kernels.pack_row)(
                        self.row(x, row),
                        self.buffer(x).1,
                        row,
                        total,
                        need,
                        self.activations,
                    );
                }
            }
        }
    }

    fn angles(&self, rope: usize, row: usize) -> (*mut f32, *mut f32) {
        let (cos, sin) = self.workspace.ropes[rope];
        let pairs = self.executor.program.ropes[rope].inv_freq.len();
        let at = |offset: usize| {
            self.workspace
                .memory
                .as_ptr()
                .wrapping_add(offset)
                .cast::<f32>()
                .wrapping_add(row * pairs)
        };
        (at(cos), at(sin))
    }

    fn linear(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        weight: WeightId,
        rows: usize,
        product: &Product<'_>,
    ) {
        let Some(matrix) = self.executor.matrix(weight) else {
            return;
        };
        let task = LinearTask {
            matrix,
            input: self.activations,
            rows,
            bias: product.bias,
            out: product.out,
            gated: product.gated,
            precision: self.executor.precision,
        };
        if rows == 0 {
            way.counter += 1;
            return;
        }
        self.claim(way, task.num_pairs(), 80, |panels| {
            // SAFETY: tiles were packed before the last barrier; panels are claimed once; features are available.
            unsafe { linear(&self.executor.kernels, &task, panels, &mut scratch.panel) };
        });
    }

    fn attention(&self, way: &mut Way, scratch: &mut Worker, step: &Step) -> bool {
        let Step::Attention {
            q,
            q_start,
            num_heads,
            kv,
            scale,
            softcap,
            out,
        } = *step
        else {
            return true;
        };
        let cache = &self.executor.caches[kv.group];
        let (q_base, q_stride) = self.buffer(q);
        let (out_base, out_stride) = self.buffer(out);
        let task = AttentionTask {
            q: q_base.wrapping_add(q_start),
            q_stride,
            out: out_base,
            out_stride,
            num_heads,
            scale,
            softcap,
            window: cache.group.window,
            cache: cache.layer(kv.layer),
            positions: &self.batch.positions,
            block_tables: &self.batch.groups[kv.group].block_tables,
            partials: self.partials,
            partial_stride: self.partial_stride,
        };
        let kernels = &self.executor.kernels;
        let unit = if self.executor.exact() {
            kernels.attention_single
        } else {
            kernels.attention_half
        };
        let units = &self.workspace.units[kv.group];
        self.claim(way, units.len(), 0, |range| {
            for i in range {
                // SAFETY: units are claimed once; the batch was checked; features are available.
                unsafe { unit(&task, units[i], &mut scratch.attention) };
            }
        });
        if !self.barrier(way) {
            return false;
        }
        let merges = &self.workspace.merges[kv.group];
        if merges.is_empty() {
            way.counter += 1;
            return true;
        }
        self.claim(way, merges.len(), 0, |range| {
            for i in range {
                // SAFETY: the partials were written before the barrier; merges are claimed once.
                unsafe { (kernels.attention_merge)(&task, merges[i], &mut scratch.attention) };
            }
        });
        self.barrier(way)
    }

    fn logits(&self, way: &mut Way, scratch: &mut Worker, step: &Step) -> bool {
        let Step::Logits {
            x,
            weight,
            need,
            softcap,
        } = *step
        else {
            return true;
        };
        let vocab_size = self.executor.program.vocab_size;
        let logits: *mut f32 = self
            .workspace
            .memory
            .as_ptr()
            .wrapping_add(self.workspace.logits)
            .cast();
        let kernels = &self.executor.kernels;
        let total = self.batch.num_sampled();
        let mut first = 0;
        while first < total {
            let rows = LOGITS_ROWS.min(total - first);
            self.claim(way, rows, 75, |range| {
                for row in range {
                    let (from, width) = (self.row(x, first + row), self.buffer(x).1);
                    // SAFETY: rows are claimed once; the tiles have room; features are available.
                    unsafe { (kernels.pack_row)(from, width, row, rows, need, self.activations) };
                }
            });
            if !self.barrier(way) {
                return false;
            }
            let product = Product {
                bias: None,
                gated: None,
                out: logits,
            };
            self.linear(way, scratch, weight, rows, &product);
            if !self.barrier(way) {
                return false;
            }
            self.claim(way, rows, 0, |range| {
                for row in range {
                    // SAFETY: the row's logits and its result cell belong to the worker that claimed it.
                    unsafe {
                        let p = logits.add(row * vocab_size);
                        if let Some(cap) = softcap {
                            (kernels.softcap)(p, vocab_size, cap);
                        }
                        let sampled = &self.batch.sampled[first + row];
                        let start = sampled.history_start as usize;
                        let len =
                            (sampled.history_prompt_len + sampled.history_output_len) as usize;
                        let history = &self.batch.history[start..start + len];
                        let logits = std::slice::from_raw_parts_mut(p, vocab_size);
                        let result = &mut *self.workspace.results[first + row].0.get();
                        (kernels.sample)(&mut scratch.sampler, logits, sampled, history, result);
                    }
                }
            });
            if !self.barrier(way) {
                return false;
            }
            first += rows;
        }
        true
    }
}
