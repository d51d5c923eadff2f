//! What a step works in: buffers, activation tiles, per-worker scratch, phases. Sized at load for the largest batch;
//! untouched pages take no memory.

use std::cell::UnsafeCell;
use std::sync::Mutex;

use crate::activations::{Activations, TILE_SIZES};
use crate::arena::Mapping;
use crate::attention::{AttentionScratch, Merge, Unit};
use crate::buffer_plan::{plan_buffers, row_stride};
use crate::error::CpuError;
use crate::executor::CpuExecutor;
use crate::experts::{ExpertRows, Room};
use crate::linear::PanelScratch;
use crate::phases::Phases;
use crate::plan::Step;
use crate::sampling::{RowResult, Sampler};
use crate::screen::Screen;
use crate::simd::LANES;

/// Rows of logits computed and sampled at a time: whole tiles.
pub(crate) const LOGITS_ROWS: usize = 3 * TILE_SIZES[0];

/// Rows of floats in the workspace's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// Byte offset of the first row.
    pub(crate) offset: usize,
    /// Floats of a row.
    pub(crate) width: usize,
    /// Floats from a row to the next.
    pub(crate) stride: usize,
}

/// What an executor's steps work in.
#[derive(Debug)]
pub(crate) struct Workspaces {
    /// Of steps that all workers do together.
    pub(crate) shared: Workspace,
    /// One per worker, of micro-batches; none if batches are not cut into such.
    pub(crate) own: Vec<Mutex<Workspace>>,
}

/// Buffers, tiles and per-worker scratch, sized for the largest batch.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) memory: Mapping,
    pub(crate) buffers: Vec<Buffer>,
    /// Byte offsets of each rope's cosines, then sines, `[tokens][pairs]`.
    pub(crate) ropes: Vec<(usize, usize)>,
    pub(crate) logits: usize,
    pub(crate) activations: Activations,
    pub(crate) workers: Vec<WorkerCell>,
    pub(crate) phases: Phases,
    /// Per KV group.
    pub(crate) units: Vec<Vec<Unit>>,
    pub(crate) merges: Vec<Vec<Merge>>,
    pub(crate) partials: Vec<f32>,
    pub(crate) results: Vec<ResultCell>,
    pub(crate) screen: Screen,
    /// `None` for models without experts.
    pub(crate) experts: Option<ExpertRows>,
}

/// One worker's scratch; only that worker touches it during a step.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) panel: PanelScratch,
    pub(crate) attention: AttentionScratch,
    pub(crate) sampler: Sampler,
    /// Of a row's experts.
    pub(crate) scores: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct WorkerCell(pub(crate) UnsafeCell<Worker>);

// SAFETY: cell `i` is used by worker `i` alone.
unsafe impl Sync for WorkerCell {}

#[derive(Debug)]
pub(crate) struct ResultCell(pub(crate) UnsafeCell<Option<RowResult>>);

// SAFETY: a row is sampled by the one worker that claimed it, and read after the step.
unsafe impl Sync for ResultCell {}

impl Workspace {
    /// Room for steps of `workers`.
    pub(crate) fn new(
        executor: &CpuExecutor,
        activations: Activations,
        workers: usize,
    ) -> Result<Self, CpuError> {
        let program = &executor.program;
        let mut bytes = 0_usize;
        let mut take = |floats: usize| {
            let at = bytes;
            bytes += (floats * 4).next_multiple_of(64);
            at
        };
        let rows = executor.max_tokens;
        // The logits' buffer is not materialised: `Step::Logits` works in its own rows.
        let plan = plan_buffers(program, &executor.steps, rows);
        let first = take(plan.floats);
        let buffers = program
            .buffers
            .iter()
            .zip(plan.offsets)
            .map(|(buffer, offset)| Buffer {
                offset: first + 4 * offset.unwrap_or(0),
                width: buffer.width,
                stride: row_stride(buffer.width),
            })
            .collect();
        let ropes = program
            .ropes
            .iter()
            .map(|rope| {
                (
                    take(rows * rope.inv_freq.len()),
                    take(rows * rope.inv_freq.len()),
                )
            })
            .collect();
        let logits = take(LOGITS_ROWS * row_stride(program.vocab_size));
        let k_head_dim = program
            .kv_groups
            .iter()
            .map(|group| group.k_head_dim)
            .max()
            .unwrap_or(0);
        let v_head_dim = program
            .kv_groups
            .iter()
            .map(|group| group.v_head_dim)
            .max()
            .unwrap_or(0);
        let chunks = rows.div_ceil(LOGITS_ROWS);
        let room = executor.moes.iter().map(|moe| Room::of(moe, rows));
        let experts = room
            .reduce(Room::union)
            .map(|room| ExpertRows::new(room, executor.moes.len(), &mut take));
        let num_experts = executor.moes.iter().map(|moe| moe.down.len()).max();
        let num_experts = num_experts.unwrap_or(0);
        // Attention may take two phases, experts six, every chunk of logits two, or three if it is screened.
        let phases = executor.steps.iter().map(|step| match step {
            Step::Moe(_) => 6,
            _ => 2,
        });
        let phases = phases.sum::<usize>() + 3 * chunks;
        Ok(Self {
            memory: Mapping::new(bytes, "activations")?,
            buffers,
            ropes,
            logits,
            activations,
            workers: (0..workers)
                .map(|_| {
                    WorkerCell(UnsafeCell::new(Worker {
                        panel: PanelScratch::new(rows),
                        attention: AttentionScratch::new(k_head_dim, v_head_dim),
                        sampler: Sampler::new(program.vocab_size),
                        scores: vec![0.0; num_experts],
                    }))
                })
                .collect(),
            phases: Phases::new(phases, workers),
            units: vec![Vec::new(); program.kv_groups.len()],
            merges: vec![Vec::new(); program.kv_groups.len()],
            partials: Vec::new(),
            results: (0..rows)
                .map(|_| ResultCell(UnsafeCell::new(None)))
                .collect(),
            screen: Screen::new(program.vocab_size.div_ceil(2 * LANES)),
            experts,
        })
    }
}
