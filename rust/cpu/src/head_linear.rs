//! The matrices of heads: one for each, multiplied with that head's slice of a row.

use crate::activations::{Need, TILE_SIZES};
use crate::executor::CpuExecutor;
use crate::formats::BLOCK_COLS;
use crate::matrix::Matrix;
use crate::plan::HeadLinearStep;

/// Rows of a whole tile: every head's packed rows begin at one.
pub(crate) const TILE_ROWS: usize = TILE_SIZES[0];

/// The weights of one product by head.
#[derive(Debug, Default)]
pub(crate) struct HeadMatrices {
    /// One per head, all of the same shape.
    pub(crate) heads: Vec<Matrix>,
    /// What their inputs are packed for.
    pub(crate) need: Need,
}

impl HeadMatrices {
    /// Of a step whose weight is there.
    pub(crate) fn new(executor: &CpuExecutor, step: &HeadLinearStep) -> Self {
        let Some(matrix) = executor.matrix(step.weight) else {
            return Self::default(); // refused by the recorder
        };
        let shape = &executor.program.weights[step.weight.0 as usize].shape;
        let rows = shape.get(1).copied().unwrap_or(0);
        // A head is one segment, or several where its rows are of several tensors.
        let mut heads = Vec::new();
        let mut segments = &matrix.segments[..];
        while let Some(first) = segments.first() {
            let end = first.first_row + rows;
            let count = segments.iter().take_while(|s| s.first_row < end).count();
            let (head, rest) = segments.split_at(count);
            heads.push(Matrix::stacked(head, matrix.in_features));
            segments = rest;
        }
        Self {
            heads,
            need: matrix.need(executor.precision),
        }
    }

    /// Columns of each matrix.
    pub(crate) fn in_features(&self) -> usize {
        self.heads.first().map_or(0, |matrix| matrix.in_features)
    }

    /// Rows of `width` columns that take as much room as `rows` rows of all heads.
    pub(crate) fn rows_of_width(&self, rows: usize, width: usize) -> usize {
        let padded = self.heads.len() * rows.next_multiple_of(TILE_ROWS);
        let blocks = |columns: usize| columns.div_ceil(BLOCK_COLS).max(1);
        let by_blocks = (padded * blocks(self.in_features())).div_ceil(blocks(width));
        // Float tiles are not padded to whole blocks.
        let by_floats = (padded * self.in_features()).div_ceil(width.max(1));
        by_blocks.max(by_floats)
    }
}
