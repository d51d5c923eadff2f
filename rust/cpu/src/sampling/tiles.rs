//! The one shape of every pass over a vocabulary: tiles of 16 rows of 16 lanes, token `t` in lane `t % 16`.
//!
//! A sum goes down the lanes row by row, then through one tree over the 16 lanes (`l + 8`, `+ 4`, `+ 2`, `+ 1`), then
//! over the tiles in ascending order in float64. So its bits depend on the values alone, whatever the width of the
//! registers that LLVM fits to these loops. A last, partial row is padded with `-inf`, whose weight is zero.

/// Virtual lanes of every pass.
pub(super) const LANES: usize = 16;

/// Tokens per tile.
pub(super) const TILE: usize = 16 * LANES;

/// One row of a tile.
pub(super) type Row = [f32; LANES];

/// The last tokens of a vocabulary, filled up with `-inf`.
#[inline(always)]
pub(super) fn padded(rest: &[f32]) -> Row {
    let mut row = [f32::NEG_INFINITY; LANES];
    for (lane, &value) in row.iter_mut().zip(rest) {
        *lane = value;
    }
    row
}

/// The sum of 16 lanes by the fixed tree.
#[inline(always)]
pub(super) fn tree_sum(mut lanes: Row) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The largest of 16 lanes; none is NaN.
#[inline(always)]
pub(super) fn tree_max(mut lanes: Row) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = larger(lanes[lane + half], lanes[lane]);
        }
    }
    lanes[0]
}

/// `a` if it is larger, else `b`: one instruction on x86, and unlike `f32::max` the same answer for zeros everywhere.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Whether any lane reaches `floor`.
#[inline(always)]
pub(super) fn any_at_least(row: &Row, floor: f32) -> bool {
    let mut hit = 0;
    for &value in row {
        hit |= u32::from(value >= floor);
    }
    hit != 0
}
