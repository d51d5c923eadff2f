//! One step: the plan over one batch, on all workers, phase by phase.

mod captured;
mod experts;
mod head_linear;
mod logits;
mod micro_batches;
mod row_ops;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use inferlib_program::program::{Activation, BufferId, Rows, WeightId};
use inferlib_program::{Batch, StepOutput};

use crate::activations::ActivationsView;
use crate::attention::AttentionTask;
use crate::attention_plan::plan_attention;
use crate::check::check_batch;
use crate::error::CpuError;
use crate::executor::CpuExecutor;
use crate::linear::{LinearTask, linear};
use crate::phases::Share;
use crate::plan::Step;
use crate::workspace::{Buffer, Worker, Workspace, Workspaces};
use captured::Captured;
use micro_batches::run_apart;

/// Most rows of a phase of rows that becomes the tail of the phase before: one worker's time for them is less than that of
/// one more agreement of all.
const TAIL_ROWS: usize = 12;
/// Fewest rows of a product that are a part of their own: a part reads all of the matrix.
const PART_ROWS: usize = 96;
/// Most merges of partial attention results that are done in the tail of their attention.
const TAIL_MERGES: usize = 8;

/// Run the plan over `batch`.
pub(crate) fn run_step(
    executor: &CpuExecutor,
    workspaces: &mut Workspaces,
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
    let mut output = StepOutput::default();
    if let Some(captures) = run_apart(executor, &workspaces.own, batch)? {
        output.captures = captures;
        return Ok(output);
    }
    let workspace = &mut workspaces.shared;
    let aborted = AtomicBool::new(false);
    output.captures = captured::room(&executor.program, batch);
    let run = Run::begin(executor, workspace, batch, &mut output.captures, &aborted);
    executor.pool.run(&|worker| run.work(worker))?;
    if aborted.load(Ordering::Acquire) {
        return Err(CpuError::Aborted);
    }
    for cell in &mut workspace.results[..batch.num_sampled()] {
        let result = cell.0.get_mut().take();
        let Some(result) = result else {
            return Err(CpuError::Panic {
                message: "a row was not sampled".to_owned(),
            });
        };
        let row = output.token_ids.len();
        output
            .mirostat_mu
            .extend(result.mirostat_mu.map(|mu| (row, mu)));
        output
            .logits
            .extend(result.logits.map(|logits| (row, logits)));
        output.token_ids.push(result.token_id);
        output.status.push(result.status);
        output.logprobs.push(result.logprobs);
    }
    Ok(output)
}

/// Run the plan over `batch`, of which nothing is sampled, on the calling worker alone, in a workspace of one worker; what
/// was captured, or `None` if the step ended before.
fn run_alone(
    executor: &CpuExecutor,
    workspace: &mut Workspace,
    batch: &Batch,
    aborted: &AtomicBool,
) -> Option<Vec<Vec<f32>>> {
    let mut captures = captured::room(&executor.program, batch);
    Run::begin(executor, workspace, batch, &mut captures, aborted).work(0);
    (!executor.pool.stopped()).then_some(captures)
}

/// A step in flight, shared by its workers.
struct Run<'a> {
    executor: &'a CpuExecutor,
    batch: &'a Batch,
    workspace: &'a Workspace,
    /// By capture point; empty if nothing is captured.
    captured: Vec<Captured>,
    activations: ActivationsView,
    partials: *mut f32,
    partial_stride: usize,
    aborted: &'a AtomicBool,
}

// SAFETY: the raw pointers lead to buffers in which each worker writes only rows, panels or units that it claimed; what
// others wrote is read in later phases.
unsafe impl Sync for Run<'_> {}

/// What becomes of a linear's sums.
struct Product<'a> {
    bias: Option<&'a [f32]>,
    gated: Option<Activation>,
    out: *mut f32,
    stride: usize,
}

/// One worker's way through the plan.
struct Way {
    worker: usize,
    /// Index of the next phase: all workers count alike.
    phase: usize,
}

impl<'a> Run<'a> {
    /// A step of as many workers as the workspace has room for; what is captured goes to `captures`, see
    /// [`captured::room`], which must outlive the run.
    fn begin(
        executor: &'a CpuExecutor,
        workspace: &'a mut Workspace,
        batch: &'a Batch,
        captures: &mut [Vec<f32>],
        aborted: &'a AtomicBool,
    ) -> Self {
        let partial_stride = plan_attention(executor, workspace, batch);
        workspace.phases.begin_step();
        let activations = workspace.activations.view();
        let partials = workspace.partials.as_mut_ptr();
        Self {
            executor,
            batch,
            workspace,
            captured: captured::places(&executor.program, batch, captures),
            activations,
            partials,
            partial_stride,
            aborted,
        }
    }
}

impl Run<'_> {
    fn work(&self, worker: usize) {
        let mut way = Way { worker, phase: 0 };
        // SAFETY: this worker's own cell.
        let scratch = unsafe { &mut *self.workspace.workers[worker].0.get() };
        let mut steps = &self.executor.steps[..];
        while let Some((step, rest)) = steps.split_first() {
            let (tail, rest) = rest.split_at(self.tail_len(rest));
            let go_on = match step {
                Step::Rows { rows, ops } => {
                    self.rows_phase(&mut way, scratch, ops, self.num_rows(*rows), tail)
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
                        out: self.row(*out, 0),
                        stride: self.buffer(*out).stride,
                    };
                    let task =
                        self.product(*weight, self.num_rows(*rows), self.activations, &product);
                    self.linear(&mut way, scratch, task.as_ref(), tail)
                }
                Step::Attention { .. } => self.attention(&mut way, scratch, step, tail),
                Step::HeadLinear(step) => self.head_linear(&mut way, scratch, step, tail),
                Step::Moe(moe) => self.experts(&mut way, scratch, moe, tail),
                Step::Logits { .. } => self.logits(&mut way, scratch, step),
            };
            if !go_on {
                return;
            }
            steps = rest;
        }
    }

    /// How many of the steps, from the first, are small enough for a tail.
    fn tail_len(&self, steps: &[Step]) -> usize {
        let small = |step: &&Step| matches!(step, Step::Rows { rows, .. } if self.num_rows(*rows) <= TAIL_ROWS);
        steps.iter().take_while(small).count()
    }

    /// One phase of units; false if the step ends here. Worker 0 looks whether it was aborted.
    fn phase(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        units: (usize, Share),
        mut work: impl FnMut(&mut Worker, Range<usize>),
        tail: impl FnOnce(&mut Worker),
    ) -> bool {
        let pool = &self.executor.pool;
        if way.worker == 0 && self.executor.abort.load(Ordering::Acquire) {
            self.aborted.store(true, Ordering::Release);
            pool.stop();
            return false;
        }
        let phase = (way.phase, way.worker);
        way.phase += 1;
        self.workspace
            .phases
            .run(pool, phase, units, scratch, &mut work, tail)
    }

    fn num_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.batch.num_tokens(),
            Rows::Sampled => self.batch.num_sampled(),
            Rows::Sequences => self.batch.num_seqs(),
        }
    }

    fn buffer(&self, id: BufferId) -> &Buffer {
        &self.workspace.buffers[id.0 as usize]
    }

    fn row(&self, id: BufferId, row: usize) -> *mut f32 {
        let buffer = self.buffer(id);
        let base: *mut f32 = self.floats(buffer.offset);
        base.wrapping_add(row * buffer.stride)
    }

    /// The workspace's memory from a byte on.
    fn floats(&self, offset: usize) -> *mut f32 {
        self.workspace.memory.as_ptr().wrapping_add(offset).cast()
    }

    /// The product of `rows` packed rows with a matrix; `None` without rows.
    fn product<'a>(
        &'a self,
        weight: WeightId,
        rows: usize,
        input: ActivationsView,
        product: &Product<'a>,
    ) -> Option<LinearTask<'a>> {
        let matrix = self.executor.matrix(weight).filter(|_| rows > 0)?;
        Some(LinearTask {
            matrix,
            input,
            rows,
            bias: product.bias,
            out: product.out,
            out_stride: product.stride,
            gated: product.gated,
            precision: self.executor.precision,
        })
    }

    fn linear(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        task: Option<&LinearTask<'_>>,
        tail: &[Step],
    ) -> bool {
        let pairs = task.map_or(0, LinearTask::num_pairs);
        let parts = task.map_or(1, |task| self.num_parts(task.rows));
        self.phase(
            way,
            scratch,
            (parts * pairs, Share::Stretch),
            |scratch, units| {
                let Some(task) = task else { return };
                for part in units.start / pairs..units.end.div_ceil(pairs) {
                    let first = part * pairs;
                    let range =
                        units.start.max(first) - first..units.end.min(first + pairs) - first;
                    let task = task.part(part, parts);
                    // SAFETY: tiles were packed in an earlier phase; units are claimed once; features are available.
                    unsafe { linear(&self.executor.kernels, &task, range, &mut scratch.panel) };
                }
            },
            |_| self.tail(tail),
        )
    }

    /// Who takes part.
    fn workers(&self) -> usize {
        self.workspace.workers.len()
    }

    /// Into how many parts the rows of a product are cut. What a worker made of its rows it finds in its own caches in the
    /// next phase; with too few rows it would read the matrix for too little.
    fn num_parts(&self, rows: usize) -> usize {
        (rows / PART_ROWS).clamp(1, self.workers())
    }

    fn attention(&self, way: &mut Way, scratch: &mut Worker, step: &Step, tail: &[Step]) -> bool {
        let Step::Attention {
            q,
            q_start,
            num_heads,
            kv,
            scale,
            softcap,
            sinks,
            out,
        } = *step
        else {
            return true;
        };
        let cache = &self.executor.caches[kv.group];
        let task = AttentionTask {
            q: self.row(q, 0).wrapping_add(q_start),
            q_stride: self.buffer(q).stride,
            out: self.row(out, 0),
            out_stride: self.buffer(out).stride,
            num_heads,
            scale,
            softcap,
            sinks: sinks.and_then(|sinks| self.executor.vector(sinks)),
            window: cache.group.window,
            bidirectional: cache.group.bidirectional,
            cache: cache.layer(kv.layer),
            positions: &self.batch.positions,
            block_tables: &self.batch.groups[kv.group].block_tables,
            partials: self.partials,
            partial_stride: self.partial_stride,
        };
        let kernels = &self.executor.kernels;
        let unit = self.executor.kv_kernels.attention;
        let units = &self.workspace.units[kv.group];
        let merges = &self.workspace.merges[kv.group];
        let merge = |scratch: &mut Worker, range: Range<usize>| {
            for i in range {
                // SAFETY: the partials were written before; merges are claimed once.
                unsafe { (kernels.attention_merge)(&task, merges[i], &mut scratch.attention) };
            }
        };
        let few = merges.len() <= TAIL_MERGES;
        let attended = self.phase(
            way,
            scratch,
            (units.len(), Share::Turns),
            |scratch, range| {
                for i in range {
                    // The next in turn, unless another worker takes it.
                    let next = units.get(i + self.workers()).copied();
                    // SAFETY: units are claimed once; the batch was checked; features are available.
                    unsafe { unit(&task, units[i], next, &mut scratch.attention) };
                }
            },
            |scratch| {
                if few {
                    merge(scratch, 0..merges.len());
                    self.tail(tail);
                }
            },
        );
        if few || !attended {
            return attended;
        }
        self.phase(way, scratch, (merges.len(), Share::Turns), merge, |_| {
            self.tail(tail);
        })
    }
}
