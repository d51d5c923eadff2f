//! Logits and samples, a few rows at a time; a large matrix is screened first, if the rows allow it.

use std::ops::Range;

use crate::buffer_plan::row_stride;
use crate::formats::{BLOCK_COLS, Format, Q8Planes};
use crate::linear::bounds::Bounds;
use crate::linear::{LinearTask, bound, linear};
use crate::packing::Packing;
use crate::phases::Share;
use crate::plan::Step;
use crate::precision::Precision;
use crate::sampling::Deciding;
use crate::screen::{self, MAX_ROWS};
use crate::step::{Product, Run, Way};
use crate::workspace::{LOGITS_ROWS, Worker};

impl Run<'_> {
    /// False if the step ends here.
    pub(super) fn logits(&self, way: &mut Way, scratch: &mut Worker, step: &Step) -> bool {
        let Step::Logits {
            width,
            weight,
            softcap,
            point,
        } = *step
        else {
            return true;
        };
        let captured = point.and_then(|point| self.captured.get(point));
        let vocab_size = self.executor.program.vocab_size;
        let stride = row_stride(vocab_size);
        let logits = self.floats(self.workspace.logits);
        let kernels = &self.executor.kernels;
        let total = self.batch.num_sampled();
        let mut first = 0;
        while first < total {
            let rows = LOGITS_ROWS.min(total - first);
            let product = Product {
                bias: None,
                gated: None,
                out: logits,
                stride,
            };
            let input = self.activations.skip_tiles(first, width);
            let task = self.product(weight, rows, input, &product);
            // Screened logits are mostly -inf.
            let whole = captured.is_some_and(|wanted| wanted.any(first..first + rows));
            let screenable = task.as_ref().filter(|_| !whole);
            let deciding = screenable.and_then(|task| self.deciding(task));
            let multiplied = match (&task, &deciding) {
                (Some(task), Some((deciding, count))) => {
                    self.screened(way, scratch, task, &deciding[..*count])
                }
                _ => self.linear(way, scratch, task.as_ref(), &[]),
            };
            if !multiplied {
                return false;
            }
            let sample = |scratch: &mut Worker, range: Range<usize>| {
                for row in range {
                    // SAFETY: the row's logits, its result cell and its place among what is handed out belong to the worker
                    // that claimed it.
                    unsafe {
                        let p = logits.add(row * stride);
                        if let Some(cap) = softcap {
                            (kernels.softcap)(p, vocab_size, cap);
                        }
                        if let Some(to) = captured.and_then(|wanted| wanted.row(first + row)) {
                            std::ptr::copy_nonoverlapping(p, to, vocab_size);
                        }
                        let sampled = &self.batch.sampled[first + row];
                        let logits = std::slice::from_raw_parts_mut(p, vocab_size);
                        let result = &mut *self.workspace.results[first + row].0.get();
                        let history = self.history(first + row);
                        (kernels.sample)(&mut scratch.sampler, logits, sampled, history, result);
                    }
                }
            };
            if !self.phase(way, scratch, (rows, Share::Turns), sample, |_| ()) {
                return false;
            }
            first += rows;
        }
        true
    }

    /// The tokens that a sampled row's penalties look at.
    fn history(&self, row: usize) -> &[i32] {
        let sampled = &self.batch.sampled[row];
        let start = sampled.history_start as usize;
        let len = (sampled.history_prompt_len + sampled.history_output_len) as usize;
        &self.batch.history[start..start + len]
    }

    /// What decides the rows, if they are few, each by few logits, and the matrix is held in planes.
    fn deciding(&self, task: &LinearTask<'_>) -> Option<([Deciding; MAX_ROWS], usize)> {
        let [segment] = &task.matrix.segments[..] else {
            return None;
        };
        if segment.packing != Packing::Q8Planes || task.precision == Precision::Exact {
            return None;
        }
        let rows = self.batch.sampled.iter().enumerate();
        let rows = rows.map(|(i, row)| (row, self.history(i)));
        screen::deciding(rows, task.num_pairs())
    }

    /// Bound all logits, then compute those that may decide; the others are `-inf`.
    fn screened(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        task: &LinearTask<'_>,
        deciding: &[Deciding],
    ) -> bool {
        let executor = self.executor;
        let kernels = &executor.kernels;
        let (pairs, blocks) = (task.num_pairs(), task.matrix.in_features / BLOCK_COLS);
        let two_planes = task.precision == Precision::Balanced;
        // SAFETY: the rows, at most `MAX_ROWS`, are one tile and were packed in an earlier phase.
        let lengths = unsafe { screen::lengths(task.input, task.rows, blocks, two_planes) };
        let screen = &self.workspace.screen;
        let bounds = Bounds {
            lower: screen.lower.as_ptr().cast_mut(),
            upper: screen.upper.as_ptr().cast_mut(),
            pairs,
            first: 0,
            lengths: lengths.as_ptr(),
            offset: blocks * Q8Planes::SECOND_BYTES,
        };
        let bound = |scratch: &mut Worker, pairs: Range<usize>| {
            // SAFETY: as in `linear`; the screen has room for `MAX_ROWS` rows of all pairs.
            unsafe { bound(kernels, task, pairs, &mut scratch.panel, &bounds) };
        };
        let choose = |_: &mut Worker| {
            let count = task.rows * pairs;
            // SAFETY: all bounds are written, and this is the only worker in the phase's tail.
            unsafe {
                let chosen = &mut *screen.chosen.get();
                let lower = std::slice::from_raw_parts(bounds.lower, count);
                let upper = std::slice::from_raw_parts(bounds.upper, count);
                chosen.choose(deciding, lower, upper);
            }
        };
        if !self.phase(way, scratch, (pairs, Share::Stretch), bound, choose) {
            return false;
        }
        // SAFETY: the tail of the phase before is over.
        let chosen = unsafe { &(*screen.chosen.get()).pairs };
        let compute = |scratch: &mut Worker, range: Range<usize>| {
            for &pair in &chosen[range] {
                // SAFETY: as in `linear`.
                unsafe { linear(kernels, task, pair..pair + 1, &mut scratch.panel) };
            }
        };
        self.phase(
            way,
            scratch,
            (chosen.len(), Share::Stretch),
            compute,
            |_| (),
        )
    }
}
