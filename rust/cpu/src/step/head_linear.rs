//! A matrix per head: pack (and copy what passes), multiply. Two phases.

use std::ops::Range;

use crate::activations::tiles;
use crate::head_linear::TILE_ROWS;
use crate::linear::{LinearTask, linear};
use crate::phases::Share;
use crate::plan::{HeadLinearStep, Step};
use crate::step::{Run, Way};
use crate::workspace::Worker;

impl Run<'_> {
    /// False if the step ends here.
    pub(super) fn head_linear(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        step: &HeadLinearStep,
        tail: &[Step],
    ) -> bool {
        let weights = &self.executor.head_linears[step.index];
        let Some(first) = weights.heads.first() else {
            return true; // refused by the recorder
        };
        let rows = self.num_rows(step.rows);
        let (in_features, out_features) = (first.in_features, first.out_features);
        let (x_head, out_head) = (step.pass + in_features, step.pass + out_features);
        let input = |head: usize| {
            let before = head * rows.next_multiple_of(TILE_ROWS);
            self.activations.skip_tiles(before, in_features)
        };

        // A worker packs whole tiles of a head.
        let num_tiles = tiles(rows).count();
        let pack = |_: &mut Worker, units: Range<usize>| {
            for unit in units {
                let (head, tile) = (unit / num_tiles, unit % num_tiles);
                let Some((first, size)) = tiles(rows).nth(tile) else {
                    continue;
                };
                for row in first..first + size {
                    let x = self.row(step.x, row).wrapping_add(head * x_head);
                    let out = self.row(step.out, row).wrapping_add(head * out_head);
                    // SAFETY: the tile of this head was claimed once; `x` and `out` are different buffers whose rows have
                    // room for all heads; the activations have room for the rows of all heads.
                    unsafe {
                        std::ptr::copy_nonoverlapping(x, out, step.pass);
                        (self.executor.kernels.pack_row)(
                            x.wrapping_add(step.pass),
                            in_features,
                            row,
                            rows,
                            weights.need,
                            input(head),
                        );
                    }
                }
            }
        };
        let units = (weights.heads.len() * num_tiles, Share::Stretch);
        if !self.phase(way, scratch, units, pack, |_| ()) {
            return false;
        }

        let task_of = |head: usize| LinearTask {
            matrix: &weights.heads[head],
            input: input(head),
            rows,
            bias: None,
            out: self
                .row(step.out, 0)
                .wrapping_add(head * out_head + step.pass),
            out_stride: self.buffer(step.out).stride,
            gated: None,
            precision: self.executor.precision,
        };
        // Every head has as many pairs as the first.
        let pairs = if rows == 0 { 0 } else { task_of(0).num_pairs() };
        let multiply = |scratch: &mut Worker, units: Range<usize>| {
            let mut unit = units.start;
            while unit < units.end {
                let (head, first) = (unit / pairs, unit % pairs);
                let count = (pairs - first).min(units.end - unit);
                // SAFETY: the head's tiles were packed in the phase before; pairs are claimed once; the scratch has room for
                // as many rows as a batch has; features are available.
                unsafe {
                    linear(
                        &self.executor.kernels,
                        &task_of(head),
                        first..first + count,
                        &mut scratch.panel,
                    );
                }
                unit += count;
            }
        };
        let units = (weights.heads.len() * pairs, Share::Stretch);
        self.phase(way, scratch, units, multiply, |_| self.tail(tail))
    }
}
