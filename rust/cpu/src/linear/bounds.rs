//! Between what the logits of a pair of panels lie, from the upper plane of its codes alone: see `crate::screen`.

use crate::formats::Q8Upper;
use crate::linear::source::{PANELS, Packed, PackedIn};
use crate::linear::tile::{Stretch, Tiles, int_tiles};
use crate::screen::SUM_ERROR;
use crate::simd::{Isa, LANES};

/// Where the bounds of a row's pairs go, and its logits, which become `-inf` until somebody computes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// `[rows][pairs]`: no logit of the pair that is the largest in it is below.
    pub(crate) lower: *mut f32,
    /// `[rows][pairs]`: no logit of the pair is above.
    pub(crate) upper: *mut f32,
    /// Pairs of a row.
    pub(crate) pairs: usize,
    /// The pair where the stretch begins.
    pub(crate) first: usize,
    /// `[rows]`: the length of each row of activations, rounded up.
    pub(crate) lengths: *const f32,
    /// Where the rows' bounds are in a panel of the second plane.
    pub(crate) offset: usize,
}

/// [`pairs`] with one int8 plane of activations.
///
/// # Safety
/// As [`pairs`].
#[inline(always)]
pub(crate) unsafe fn one_plane<I: Isa>(
    task: &Tiles,
    packed: Packed,
    stretch: Stretch,
    to: &Bounds,
) {
    // SAFETY: the caller's.
    unsafe { pairs::<I, 1>(task, packed, stretch, to) }
}

/// [`pairs`] with two.
///
/// # Safety
/// As [`pairs`].
#[inline(always)]
pub(crate) unsafe fn two_planes<I: Isa>(
    task: &Tiles,
    packed: Packed,
    stretch: Stretch,
    to: &Bounds,
) {
    // SAFETY: the caller's.
    unsafe { pairs::<I, 2>(task, packed, stretch, to) }
}

/// The bounds of a stretch of pairs.
///
/// # Safety
/// As [`crate::linear::tile::packed_tiles`] over `Q8Planes`; the arrays of `to` hold all rows and the stretch's pairs.
#[inline(always)]
unsafe fn pairs<I: Isa, const PLANES: usize>(
    task: &Tiles,
    packed: Packed,
    stretch: Stretch,
    to: &Bounds,
) {
    for pair in 0..stretch.pairs {
        let mut task = *task;
        task.target.skip(pair * stretch.outputs);
        task.target.keep = true;
        let packed = packed.skip(pair * stretch.bytes);
        let second = packed.skip_second(pair * stretch.second_bytes).second;
        let source = PackedIn::<Q8Upper>::new(packed);
        // SAFETY: the caller's.
        unsafe {
            for panel in second {
                I::prefetch(panel.wrapping_add(to.offset));
            }
            int_tiles::<I, _, PLANES>(&task, &source);
            for row in 0..task.rows {
                let length = I::set(*to.lengths.add(row));
                let infinity = I::set(f32::NEG_INFINITY);
                let (mut lower, mut upper) = (infinity, infinity);
                for p in 0..PANELS {
                    let sum = I::load(task.target.partial.add((row * PANELS + p) * LANES));
                    // A NaN becomes a number: the row's bound is infinite then.
                    let sum = I::min(sum, I::set(f32::MAX));
                    let bound = I::mul(length, I::load(second[p].add(to.offset).cast()));
                    let bound = I::fma(I::abs(sum), I::set(SUM_ERROR), bound);
                    lower = I::max(lower, I::sub(sum, bound));
                    upper = I::max(upper, I::add(sum, bound));
                    I::store_up_to(task.target.row(p, row), infinity, task.target.lanes[p]);
                }
                let at = row * to.pairs + to.first + pair;
                *to.lower.add(at) = I::max_lane(lower);
                *to.upper.add(at) = I::max_lane(upper);
            }
        }
    }
}
