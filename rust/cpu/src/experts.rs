//! A mixture of experts: each expert's packed weights, and the rows of a step grouped by the experts that they go to.
//!
//! Every expert multiplies its rows as a batch of its own. A row's products do not depend on how many rows there are, and
//! its experts' results are added in the order of its own router logits, so that batch mates change nothing.

use std::cell::UnsafeCell;

use crate::activations::{Need, TILE_SIZES};
use crate::buffer_plan::row_stride;
use crate::executor::CpuExecutor;
use crate::matrix::Matrix;
use crate::plan::MoeStep;
use crate::workspace::Buffer;

/// Most rows of a tile: groups begin at multiples of it.
pub(crate) const TILE_ROWS: usize = TILE_SIZES[0];

/// The weights of one mixture, expert by expert.
#[derive(Debug, Default)]
pub(crate) struct MoeWeights {
    /// Gate above up.
    pub(crate) gate_up: Vec<Matrix>,
    pub(crate) down: Vec<Matrix>,
    /// `[experts][2 * intermediate_size]`, as `gate_up`; empty without biases.
    pub(crate) gate_up_bias: Vec<f32>,
    /// `[experts][hidden_size]`; empty without biases.
    pub(crate) down_bias: Vec<f32>,
    /// What the inputs of gate and up are packed for, and those of down.
    pub(crate) needs: [Need; 2],
    /// Whether the product of gate and up applies the activation.
    pub(crate) fused: bool,
    pub(crate) top_k: usize,
}

impl MoeWeights {
    /// The experts of a step whose weights are all there.
    pub(crate) fn new(executor: &CpuExecutor, moe: &MoeStep) -> Self {
        let matrices = [moe.gate, moe.up, moe.down].map(|weight| executor.matrix(weight));
        let [Some(gate), Some(up), Some(down)] = matrices else {
            return Self::default(); // refused by the recorder
        };
        let both = gate.segments.iter().zip(&up.segments);
        let gate_up: Vec<Matrix> = both
            .map(|(gate_rows, up_rows)| Matrix::stacked([gate_rows, up_rows], gate.in_features))
            .collect();
        let of_one = |rows| Matrix::stacked([rows], down.in_features);
        let vector = |weight| executor.vector(weight).unwrap_or_default();
        let (mut gate_up_bias, mut down_bias) = (Vec::new(), Vec::new());
        if let Some([gate, up, down]) = moe.biases {
            let inner = vector(gate).len() / gate_up.len().max(1);
            let both = vector(gate).chunks(inner).zip(vector(up).chunks(inner));
            gate_up_bias.extend(both.flat_map(|(gate, up)| gate.iter().chain(up)));
            down_bias.extend(vector(down));
        }
        let precision = executor.precision;
        Self {
            fused: moe.biases.is_none() && gate_up.iter().all(Matrix::halves_alike),
            down: down.segments.iter().map(of_one).collect(),
            needs: [
                gate.need(precision).union(up.need(precision)),
                down.need(precision),
            ],
            gate_up,
            gate_up_bias,
            down_bias,
            top_k: moe.top_k,
        }
    }

    fn widths(&self) -> [usize; 2] {
        let first = |matrices: &[Matrix]| matrices.first().map_or(0, |matrix| matrix.out_features);
        [first(&self.gate_up), first(&self.down)]
    }
}

/// What the rows of a step take at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Choices: rows of the batch times experts of each.
    choices: usize,
    experts: usize,
    /// Choices grouped by expert, every group from a whole tile on.
    pub(crate) padded_rows: usize,
    /// Floats of a row of gate and up, and of a row of results.
    widths: [usize; 2],
}

impl Room {
    /// Of a mixture and a batch of `rows`.
    pub(crate) fn of(moe: &MoeWeights, rows: usize) -> Self {
        let (choices, experts) = (rows * moe.top_k, moe.down.len());
        Self {
            choices,
            experts,
            padded_rows: choices + experts.min(choices) * (TILE_ROWS - 1),
            widths: moe.widths(),
        }
    }

    /// Enough for both.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            choices: self.choices.max(other.choices),
            experts: self.experts.max(other.experts),
            padded_rows: self.padded_rows.max(other.padded_rows),
            widths: [0, 1].map(|i| self.widths[i].max(other.widths[i])),
        }
    }
}

/// The rows that go to one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) expert: usize,
    /// First grouped row: a multiple of [`TILE_ROWS`].
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

/// Up to [`TILE_ROWS`] rows of a group, which one worker packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupTile {
    pub(crate) group: usize,
    /// First row within the group, and one past the last.
    pub(crate) rows: (usize, usize),
}

/// A step's choices, grouped.
#[derive(Debug, Default)]
pub(crate) struct Grouping {
    pub(crate) groups: Vec<Group>,
    pub(crate) tiles: Vec<GroupTile>,
    /// Grouped row of each choice, `[rows][top_k]`.
    pub(crate) places: Vec<usize>,
    /// Row of the batch behind each grouped row.
    pub(crate) sources: Vec<usize>,
    counts: Vec<usize>,
}

impl Grouping {
    fn with_room(room: Room) -> Self {
        let groups = room.experts.min(room.choices);
        Self {
            groups: Vec::with_capacity(groups),
            tiles: Vec::with_capacity(groups + room.choices / TILE_ROWS),
            places: Vec::with_capacity(room.choices),
            sources: vec![0; room.padded_rows],
            counts: Vec::with_capacity(room.experts),
        }
    }

    /// Group `chosen`, `[rows][top_k]` experts below `experts`: experts in ascending order, in a group the rows in the
    /// batch's. Allocates nothing.
    pub(crate) fn group(&mut self, chosen: &[i32], top_k: usize, experts: usize) {
        self.groups.clear();
        self.tiles.clear();
        self.places.clear();
        self.counts.clear();
        self.counts.resize(experts, 0);
        for &expert in chosen {
            self.counts[expert.unsigned_abs() as usize] += 1;
        }
        let mut first = 0;
        for (expert, count) in self.counts.iter_mut().enumerate() {
            let rows = *count;
            if rows == 0 {
                continue;
            }
            let group = self.groups.len();
            self.groups.push(Group {
                expert,
                first,
                rows,
            });
            let tiles = (0..rows).step_by(TILE_ROWS);
            self.tiles.extend(tiles.map(|row| GroupTile {
                group,
                rows: (row, rows.min(row + TILE_ROWS)),
            }));
            *count = first; // from here on the expert's next place
            first += rows.next_multiple_of(TILE_ROWS);
        }
        for (choice, &expert) in chosen.iter().enumerate() {
            let next = &mut self.counts[expert.unsigned_abs() as usize];
            self.places.push(*next);
            self.sources[*next] = choice / top_k;
            *next += 1;
        }
    }
}

/// Where a step's grouped rows lie in the workspace.
#[derive(Debug)]
pub(crate) struct ExpertRows {
    /// Byte offset of the chosen experts, `[rows][top_k]` int32.
    pub(crate) chosen: usize,
    /// Byte offset of their weights, float32.
    pub(crate) weights: usize,
    /// Byte offsets of the grouped rows of gate and up, of the activated ones, and of the results.
    wide: usize,
    inner: usize,
    results: usize,
    /// One per mixture: who comes late to a phase that is over still reads how many units it had, and must not see the
    /// next layer's.
    groupings: Vec<UnsafeCell<Grouping>>,
}

// SAFETY: a mixture's rows are grouped once in a step, by one worker, in the tail of a phase; all read the grouping in later
// phases of the step.
unsafe impl Sync for ExpertRows {}

impl ExpertRows {
    /// Take the room of `mixtures` layers, counted in floats.
    pub(crate) fn new(room: Room, mixtures: usize, take: &mut impl FnMut(usize) -> usize) -> Self {
        let [wide, result] = room.widths;
        Self {
            chosen: take(room.choices),
            weights: take(room.choices),
            wide: take(room.padded_rows * row_stride(wide)),
            inner: take(room.padded_rows * row_stride(wide / 2)),
            results: take(room.padded_rows * row_stride(result)),
            groupings: (0..mixtures)
                .map(|_| UnsafeCell::new(Grouping::with_room(room)))
                .collect(),
        }
    }

    /// The grouping of a mixture; whoever writes is alone in a phase's tail.
    pub(crate) fn grouping(&self, mixture: usize) -> *mut Grouping {
        self.groupings[mixture].get()
    }

    /// The grouped rows of gate and up, the activated ones, and the results of experts of these widths.
    pub(crate) fn buffers(&self, inner: usize, result: usize) -> [Buffer; 3] {
        let buffer = |offset, width| Buffer {
            offset,
            width,
            stride: row_stride(width),
        };
        [
            buffer(self.wide, 2 * inner),
            buffer(self.inner, inner),
            buffer(self.results, result),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_expert_in_whole_tiles_and_found_again() {
        for (rows, top_k, experts) in [(1, 1, 1), (1, 2, 4), (7, 2, 3), (40, 3, 8), (33, 8, 64)] {
            let room = Room {
                choices: rows * top_k,
                experts,
                padded_rows: rows * top_k + experts.min(rows * top_k) * (TILE_ROWS - 1),
                widths: [0, 0],
            };
            let mut grouping = Grouping::with_room(room);
            for seed in 0..3 {
                let chosen: Vec<i32> = (0..rows * top_k)
                    .map(|i| i32::try_from((i * 7 + i / 5 + seed) % experts).expect("few"))
                    .collect();
                grouping.group(&chosen, top_k, experts);
                assert_eq!(grouping.places.len(), chosen.len());
                let mut seen = vec![0; grouping.groups.len()];
                for (choice, &place) in grouping.places.iter().enumerate() {
                    let holds = |g: &Group| (g.first..g.first + g.rows).contains(&place);
                    let group = grouping.groups.iter().position(holds).expect("a group");
                    assert_eq!(
                        grouping.groups[group].expert,
                        chosen[choice].unsigned_abs() as usize
                    );
                    assert_eq!(grouping.sources[place], choice / top_k);
                    seen[group] += 1;
                }
                let mut covered = vec![0; grouping.groups.len()];
                for tile in &grouping.tiles {
                    assert!(tile.rows.1 - tile.rows.0 <= TILE_ROWS);
                    assert_eq!(tile.rows.0, covered[tile.group]);
                    covered[tile.group] = tile.rows.1;
                }
                for (group, (&seen, &covered)) in
                    grouping.groups.iter().zip(seen.iter().zip(&covered))
                {
                    assert_eq!((group.rows, group.rows), (seen, covered));
                    assert_eq!(group.first % TILE_ROWS, 0);
                    assert!(group.first + group.rows <= room.padded_rows);
                }
            }
        }
    }
}
