//! A mixture of experts: route, group, gate and up, down, add. Six phases, three where rows are few.

use std::ops::Range;

use inferlib_program::program::Routing;

use crate::experts::{ExpertRows, Group, GroupTile, Grouping, MoeWeights};
use crate::linear::{LinearTask, linear};
use crate::matrix::Matrix;
use crate::phases::Share;
use crate::plan::{MoeStep, Step};
use crate::routing::Choice;
use crate::step::{Run, TAIL_ROWS, Way};
use crate::workspace::{Buffer, Worker};

/// One mixture in one step.
struct Mixture<'a> {
    step: &'a MoeStep,
    weights: &'a MoeWeights,
    rows: &'a ExpertRows,
    /// Grouped rows of gate and up, the activated ones, and the results.
    buffers: [Buffer; 3],
}

impl Mixture<'_> {
    /// What was grouped in an earlier phase.
    fn grouping(&self) -> &Grouping {
        // SAFETY: one worker groups, once in a step, in the tail of a phase that is over when others read.
        unsafe { &*self.rows.grouping(self.step.index) }
    }
}

impl Run<'_> {
    /// False if the step ends here.
    pub(super) fn experts(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        step: &MoeStep,
        tail: &[Step],
    ) -> bool {
        let executor = self.executor;
        let weights = &executor.moes[step.index];
        let (Some(rows), Some(down)) = (&self.workspace.experts, weights.down.first()) else {
            return true; // refused by the recorder
        };
        let mixture = Mixture {
            step,
            weights,
            rows,
            buffers: rows.buffers(down.in_features, down.out_features),
        };
        let total = self.batch.num_tokens();
        let few = total * step.top_k <= TAIL_ROWS;

        let group = |_: &mut Worker| {
            self.group(&mixture, total);
            if few {
                for tile in &mixture.grouping().tiles {
                    self.pack_input(&mixture, tile);
                }
            }
        };
        let route = |scratch: &mut Worker, rows: Range<usize>| {
            rows.for_each(|row| self.route(&mixture, row, &mut scratch.scores));
        };
        if !self.phase(way, scratch, (total, Share::Stretch), route, group) {
            return false;
        }

        let grouping = mixture.grouping();
        let num_tiles = grouping.tiles.len();
        if !few {
            let pack = |_: &mut Worker, range: Range<usize>| {
                for tile in &grouping.tiles[range] {
                    self.pack_input(&mixture, tile);
                }
            };
            if !self.phase(way, scratch, (num_tiles, Share::Stretch), pack, |_| ()) {
                return false;
            }
        }

        let activate = |_: &mut Worker| {
            if few {
                for tile in &grouping.tiles {
                    self.pack_inner(&mixture, tile);
                }
            }
        };
        if !self.products(way, scratch, &mixture, gate_up_task, activate) {
            return false;
        }
        if !few {
            let pack = |_: &mut Worker, range: Range<usize>| {
                for tile in &grouping.tiles[range] {
                    self.pack_inner(&mixture, tile);
                }
            };
            if !self.phase(way, scratch, (num_tiles, Share::Stretch), pack, |_| ()) {
                return false;
            }
        }

        let combine = |_: &mut Worker| {
            if few {
                (0..total).for_each(|row| self.combine(&mixture, row));
                self.tail(tail);
            }
        };
        if !self.products(way, scratch, &mixture, down_task, combine) || few {
            return few && !executor.pool.stopped();
        }
        let combine = |_: &mut Worker, range: Range<usize>| {
            range.for_each(|row| self.combine(&mixture, row));
        };
        self.phase(way, scratch, (total, Share::Stretch), combine, |_| {
            self.tail(tail);
        })
    }

    /// One product of every group; `task_of` says which.
    fn products(
        &self,
        way: &mut Way,
        scratch: &mut Worker,
        mixture: &Mixture<'_>,
        task_of: TaskOf,
        tail: impl FnOnce(&mut Worker),
    ) -> bool {
        let groups = &mixture.grouping().groups;
        // Every expert has as many pairs as the first.
        let pairs = groups
            .first()
            .map_or(0, |group| task_of(self, mixture, *group).num_pairs());
        let multiply = |scratch: &mut Worker, range: Range<usize>| {
            let mut unit = range.start;
            while unit < range.end {
                let (group, first) = (unit / pairs, unit % pairs);
                let count = (pairs - first).min(range.end - unit);
                let task = task_of(self, mixture, groups[group]);
                // SAFETY: the group's tiles were packed in an earlier phase; pairs are claimed once; the scratch has room
                // for as many rows as a batch has; features are available.
                unsafe {
                    linear(
                        &self.executor.kernels,
                        &task,
                        first..first + count,
                        &mut scratch.panel,
                    );
                }
                unit += count;
            }
        };
        let units = (groups.len() * pairs, Share::Stretch);
        self.phase(way, scratch, units, multiply, tail)
    }

    /// Choose the experts of a row; `scores` has room for those of all experts.
    fn route(&self, mixture: &Mixture<'_>, row: usize, scores: &mut [f32]) {
        let (step, kernels) = (mixture.step, &self.executor.kernels);
        let (chosen, weights) = self.choices(mixture);
        let experts = self.buffer(step.router_logits).width;
        let at = row * step.top_k;
        // SAFETY: the row was claimed once, and the arrays have `top_k` places for it.
        let (logits, chosen, weights) = unsafe {
            (
                std::slice::from_raw_parts(self.row(step.router_logits, row), experts),
                std::slice::from_raw_parts_mut(chosen.add(at), step.top_k),
                std::slice::from_raw_parts_mut(weights.add(at), step.top_k),
            )
        };
        let routing = &step.routing;
        if *routing == Routing::default() {
            // SAFETY: features are available.
            unsafe { (kernels.route)(logits, step.normalise, chosen, weights) };
            return;
        }
        let scores = &mut scores[..experts];
        // SAFETY: features are available.
        unsafe { (kernels.scores)(logits, routing.scoring, scores) };
        let choice = Choice {
            scores,
            bias: routing.bias.and_then(|bias| self.executor.vector(bias)),
            groups: routing.groups,
            normalise: step.normalise,
            scale: routing.scale,
        };
        choice.choose(chosen, weights);
    }

    /// The chosen experts and their weights, `[rows][top_k]`.
    fn choices(&self, mixture: &Mixture<'_>) -> (*mut i32, *mut f32) {
        let chosen = self.floats(mixture.rows.chosen).cast();
        (chosen, self.floats(mixture.rows.weights))
    }

    fn group(&self, mixture: &Mixture<'_>, total: usize) {
        let top_k = mixture.step.top_k;
        let (chosen, _) = self.choices(mixture);
        // SAFETY: all rows are routed, and this is the only worker in the phase's tail.
        unsafe {
            let chosen = std::slice::from_raw_parts(chosen, total * top_k);
            let grouping = &mut *mixture.rows.grouping(mixture.step.index);
            grouping.group(chosen, top_k, mixture.weights.down.len());
        }
    }

    /// Pack the rows of the batch that a tile's grouped rows are.
    fn pack_input(&self, mixture: &Mixture<'_>, tile: &GroupTile) {
        let x = mixture.step.x;
        let grouping = mixture.grouping();
        let group = grouping.groups[tile.group];
        let source = |row: usize| {
            self.row(x, grouping.sources[group.first + row])
                .cast_const()
        };
        self.pack_tile(mixture, tile, 0, self.buffer(x).width, source);
    }

    /// Activate a tile's rows, unless their product did, and pack them.
    fn pack_inner(&self, mixture: &Mixture<'_>, tile: &GroupTile) {
        let [wide, inner, _] = &mixture.buffers;
        let first = mixture.grouping().groups[tile.group].first;
        if !mixture.weights.fused {
            for row in tile.rows.0..tile.rows.1 {
                // SAFETY: the tile was claimed once; the rows have these widths.
                unsafe {
                    (self.executor.kernels.act_and_mul)(
                        self.grouped(wide, first + row),
                        inner.width,
                        mixture.step.activation,
                        self.grouped(inner, first + row),
                    );
                }
            }
        }
        let source = |row: usize| self.grouped(inner, first + row).cast_const();
        self.pack_tile(mixture, tile, 1, inner.width, source);
    }

    fn pack_tile(
        &self,
        mixture: &Mixture<'_>,
        tile: &GroupTile,
        product: usize,
        width: usize,
        source: impl Fn(usize) -> *const f32,
    ) {
        let group = mixture.grouping().groups[tile.group];
        let to = self.activations.skip_tiles(group.first, width);
        for row in tile.rows.0..tile.rows.1 {
            // SAFETY: the tile was claimed once; the activations have room for all grouped rows.
            unsafe {
                let need = mixture.weights.needs[product];
                (self.executor.kernels.pack_row)(source(row), width, row, group.rows, need, to);
            }
        }
    }

    /// Add the results of a row's experts.
    fn combine(&self, mixture: &Mixture<'_>, row: usize) {
        let [_, _, results] = &mixture.buffers;
        let (_, weights) = self.choices(mixture);
        let top_k = mixture.step.top_k;
        let places = &mixture.grouping().places[row * top_k..][..top_k];
        let out = self.row(mixture.step.out, row);
        // SAFETY: the row was claimed once; results have the width of `out`.
        unsafe {
            std::ptr::write_bytes(out, 0, results.width);
            for (i, &place) in places.iter().enumerate() {
                let weight = *weights.add(row * top_k + i);
                let result = self.grouped(results, place);
                (self.executor.kernels.add_scaled)(result, results.width, weight, out);
            }
        }
    }

    fn grouped(&self, buffer: &Buffer, row: usize) -> *mut f32 {
        self.floats(buffer.offset).wrapping_add(row * buffer.stride)
    }

    fn group_task<'a>(
        &self,
        group: Group,
        matrix: &'a Matrix,
        biases: &'a [f32],
        out: &Buffer,
    ) -> LinearTask<'a> {
        let bias = biases.chunks(matrix.out_features).nth(group.expert);
        LinearTask {
            matrix,
            input: self.activations.skip_tiles(group.first, matrix.in_features),
            rows: group.rows,
            bias,
            out: self.grouped(out, group.first),
            out_stride: out.stride,
            gated: None,
            precision: self.executor.precision,
        }
    }
}

/// A product of one group.
type TaskOf = for<'a> fn(&Run<'_>, &Mixture<'a>, Group) -> LinearTask<'a>;

fn gate_up_task<'a>(run: &Run<'_>, mixture: &Mixture<'a>, group: Group) -> LinearTask<'a> {
    let weights = mixture.weights;
    let [wide, inner, _] = &mixture.buffers;
    let out = if weights.fused { inner } else { wide };
    let matrix = &weights.gate_up[group.expert];
    LinearTask {
        gated: weights.fused.then_some(mixture.step.activation),
        ..run.group_task(group, matrix, &weights.gate_up_bias, out)
    }
}

fn down_task<'a>(run: &Run<'_>, mixture: &Mixture<'a>, group: Group) -> LinearTask<'a> {
    let weights = mixture.weights;
    let matrix = &weights.down[group.expert];
    run.group_task(group, matrix, &weights.down_bias, &mixture.buffers[2])
}
