//! Where the rows go that a step hands out.

use std::ops::Range;

use inferlib_program::program::{BufferId, Program};
use inferlib_program::{Batch, CapturedRows};

/// Of one capture point: where each row goes.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// `[rows]`, or less: rows behind the last are not wanted.
    places: Vec<Option<*mut f32>>,
}

impl Captured {
    /// Whether any of the rows is wanted.
    pub(super) fn any(&self, rows: Range<usize>) -> bool {
        rows.into_iter().any(|row| self.row(row).is_some())
    }

    /// Where the row goes, if it is wanted.
    pub(super) fn row(&self, row: usize) -> Option<*mut f32> {
        self.places.get(row).copied().flatten()
    }
}

fn point_buffers(program: &Program) -> Vec<BufferId> {
    program.captures().map(|(_, x)| x).collect()
}

fn span(rows: &CapturedRows) -> Range<usize> {
    rows.start as usize..rows.end as usize
}

/// Memory for all that the batch asks for, entry by entry.
pub(super) fn room(program: &Program, batch: &Batch) -> Vec<Vec<f32>> {
    if batch.captures.is_empty() {
        return Vec::new();
    }
    let points = point_buffers(program);
    let width = |rows: &CapturedRows| program.buffers[points[rows.point as usize].0 as usize].width;
    let captures = batch.captures.iter();
    captures
        .map(|rows| vec![0.0; span(rows).len() * width(rows)])
        .collect()
}

/// The places in `room` by point and row. Valid for as long as it is neither moved within nor freed.
pub(super) fn places(program: &Program, batch: &Batch, room: &mut [Vec<f32>]) -> Vec<Captured> {
    if batch.captures.is_empty() {
        return Vec::new();
    }
    let points = point_buffers(program);
    let mut captured: Vec<Captured> = points.iter().map(|_| Captured::default()).collect();
    for (rows, room) in batch.captures.iter().zip(room) {
        let point = rows.point as usize;
        let width = program.buffers[points[point].0 as usize].width;
        let places = &mut captured[point].places;
        if places.len() < span(rows).end {
            places.resize(span(rows).end, None);
        }
        for (row, to) in span(rows).zip(room.chunks_exact_mut(width)) {
            places[row] = Some(to.as_mut_ptr());
        }
    }
    captured
}
