//! The tile of layouts whose scales belong to whole rows, [`crate::packing::Packing::Q8Rows`]: a product is one integer sum.
//!
//! The same for every row count, tile, source and tier: the exact i32 sum over all columns, then
//! `float(sum) * (scale * sa)`. At most 2^16 columns, so that a sum of 8-bit codes fits.

use std::ops::Range;

use inferlib_program::program::Activation;

use crate::activations::{DOUBLE_WORDS, UNIT_ROWS, tiles};
use crate::formats::Q8_0;
use crate::linear::source::{PANELS, Packed, PackedIn, ScaledBytes, Source, Unpacked};
use crate::linear::tile::{Stretch, Target, Tiles, begin, finish, gate_pair};
use crate::simd::matrix_unit::MatrixUnit;
use crate::simd::{Dot, Isa, LANES};

/// Floats that a matrix unit's sums need in [`Target::partial`] beyond those of the rows: the last tile is a whole one.
pub(crate) const PARTIAL_FLOATS: usize = UNIT_ROWS * PANELS * LANES;

/// All rows against the packed bytes of a stretch of pairs, each one's gate applied to it.
///
/// # Safety
/// As [`crate::linear::tile::packed_tiles`] of `Q8_0`, with activations of whole rows.
#[inline(always)]
pub(crate) unsafe fn row_tiles<I: Isa>(
    task: &Tiles,
    packed: Packed,
    stretch: Stretch,
    gated: Option<Activation>,
) {
    let panels = if I::WIDE_TILES { PANELS } else { 1 };
    let most = I::ACCUMULATORS / panels;
    for pair in 0..stretch.pairs {
        let mut task = *task;
        task.target.skip(pair * stretch.outputs);
        let source = PackedIn::<Q8_0>::new(packed.skip(pair * stretch.bytes));
        for (first, size) in tiles(task.rows) {
            // Tiles of 12, 8, 6, 4, 3, 2 and 1 rows divide into these.
            let step = [12, 8, 6, 4, 3, 2]
                .into_iter()
                .find(|&part| part <= most && size % part == 0);
            let step = step.unwrap_or(1);
            for i in (0..size).step_by(step) {
                let row = first + i;
                for panel in (0..PANELS).step_by(panels) {
                    // SAFETY: the caller's.
                    unsafe {
                        if I::WIDE_TILES {
                            match step {
                                12 => row_tile::<I, PANELS, 12>(&task, &source, row, panel),
                                8 => row_tile::<I, PANELS, 8>(&task, &source, row, panel),
                                6 => row_tile::<I, PANELS, 6>(&task, &source, row, panel),
                                4 => row_tile::<I, PANELS, 4>(&task, &source, row, panel),
                                3 => row_tile::<I, PANELS, 3>(&task, &source, row, panel),
                                2 => row_tile::<I, PANELS, 2>(&task, &source, row, panel),
                                _ => row_tile::<I, PANELS, 1>(&task, &source, row, panel),
                            }
                        } else {
                            match step {
                                6.. => row_tile::<I, 1, 6>(&task, &source, row, panel),
                                4 => row_tile::<I, 1, 4>(&task, &source, row, panel),
                                3 => row_tile::<I, 1, 3>(&task, &source, row, panel),
                                2 => row_tile::<I, 1, 2>(&task, &source, row, panel),
                                _ => row_tile::<I, 1, 1>(&task, &source, row, panel),
                            }
                        }
                    }
                }
            }
        }
        if let Some(activation) = gated {
            // SAFETY: the caller's.
            unsafe { gate_pair::<I>(&task.target, task.rows, activation) };
        }
    }
}

/// `M` rows times `P` panels.
#[inline(always)]
unsafe fn row_tile<I: Isa, const P: usize, const M: usize>(
    task: &Tiles,
    source: &PackedIn<Q8_0>,
    row: usize,
    panel: usize,
) {
    let input = &task.input;
    // SAFETY: the caller's rows; the source has `width` blocks.
    unsafe {
        let mut sums = [[I::Dot::start(0); M]; P];
        if task.zero.is_some() {
            for m in 0..M {
                let start = I::Dot::start(*input.row_start.add(row + m));
                for p in 0..P {
                    sums[p][m] = start;
                }
            }
        }
        for b in 0..task.width {
            if row == 0 {
                source.prefetch::<I>(b);
            }
            let words = input.row_block(row, b);
            for g in 0..4 {
                let mut codes = [[I::b_set(0); P]; 2];
                for p in 0..P {
                    (codes[0][p], codes[1][p]) = source.codes::<I>(panel + p, b, g);
                }
                for word in 0..2 {
                    for m in 0..M {
                        let a = *words.add(m * DOUBLE_WORDS + 2 * g + word);
                        for p in 0..P {
                            let codes = codes[word][p];
                            sums[p][m] = I::Dot::dot4::<PackedIn<Q8_0>>(sums[p][m], codes, a);
                        }
                    }
                }
            }
        }
        // Nothing was kept of earlier columns: there are none.
        let mut results = begin::<I, P, M>(row, panel, &task.target);
        for p in 0..P {
            let scale = source.scale::<I>(panel + p, 0, 0);
            for m in 0..M {
                let scale = I::mul(scale, I::set(*input.row_scale.add(row + m)));
                results[p][m] = I::mul(I::to_f(I::Dot::finish(sums[p][m])), scale);
            }
        }
        finish::<I, P, M>(results, row, panel, &task.target);
    }
}

/// All rows against an unpacked chunk of signed codes on a matrix unit, two tiles of [`UNIT_ROWS`] rows at a time. The sums of
/// earlier chunks, and of this one if it is not the last, are integers in the target's partials.
///
/// # Safety
/// As [`crate::linear::tile::int_tiles`], with activations of whole rows; chunks but the last are an even number of blocks; the
/// partials have room for [`PARTIAL_FLOATS`] more than the rows', and `U::begin` was called for [`DOUBLE_WORDS`].
#[inline(always)]
pub(crate) unsafe fn matrix_row_tiles<I: Isa, U: MatrixUnit>(
    task: &Tiles,
    source: &Unpacked<ScaledBytes>,
) {
    const STEP: usize = 2 * UNIT_ROWS;
    let is_last = task.from + task.count == task.width;
    // SAFETY: the caller's.
    unsafe {
        for first in (0..task.rows).step_by(STEP) {
            let has_two = task.rows - first > UNIT_ROWS;
            multiply::<I, U>(task, source, first, has_two);
            if is_last && first > 0 {
                // The unit works on these rows' products meanwhile.
                scale_rows::<I>(task, source, first - STEP..first);
            }
            store::<U, 0, 1>(&task.target, first);
            if has_two {
                store::<U, 2, 3>(&task.target, first + UNIT_ROWS);
            }
        }
        if is_last && task.rows > 0 {
            let first = (task.rows - 1) / STEP * STEP;
            scale_rows::<I>(task, source, first..task.rows);
        }
    }
}

/// Where the integers of a row lie, as [`finish`] has its floats.
fn kept(target: &Target, row: usize, panel: usize) -> *mut i32 {
    let place = (row * PANELS + panel) * LANES;
    target.partial.cast::<i32>().wrapping_add(place)
}

/// The tile of rows at `first` times the chunk's columns into products 0 and 1, the one after it into 2 and 3.
#[inline(always)]
unsafe fn multiply<I: Isa, U: MatrixUnit>(
    task: &Tiles,
    source: &Unpacked<ScaledBytes>,
    first: usize,
    has_two: bool,
) {
    // SAFETY: the caller's rows and chunk.
    unsafe {
        begin_sums::<U, 0, 1>(&task.target, first);
        if has_two {
            begin_sums::<U, 2, 3>(&task.target, first + UNIT_ROWS);
        }
        for b in (0..task.count).step_by(2) {
            if first == 0 {
                source.prefetch::<I>(b);
                source.prefetch::<I>(b + 1);
            }
            let words = task.input.row_block(first, task.from + b);
            U::load_activations::<0>(words, DOUBLE_WORDS);
            U::load_codes::<0>(source.block(0, b));
            U::multiply::<0, 0, 0>();
            U::load_codes::<1>(source.block(1, b));
            U::multiply::<1, 0, 1>();
            if has_two {
                U::load_activations::<1>(words.add(UNIT_ROWS * DOUBLE_WORDS), DOUBLE_WORDS);
                U::multiply::<2, 1, 0>();
                U::multiply::<3, 1, 1>();
            }
        }
    }
}

/// Products `P` and `Q` are the rows' sums of earlier chunks.
#[inline(always)]
unsafe fn begin_sums<U: MatrixUnit, const P: usize, const Q: usize>(target: &Target, row: usize) {
    // SAFETY: the partials hold all tiles.
    unsafe {
        if target.resume {
            U::load::<P>(kept(target, row, 0), PANELS * LANES);
            U::load::<Q>(kept(target, row, 1), PANELS * LANES);
        } else {
            U::clear::<P>();
            U::clear::<Q>();
        }
    }
}

/// Products `P` and `Q` are kept as the rows' sums.
#[inline(always)]
unsafe fn store<U: MatrixUnit, const P: usize, const Q: usize>(target: &Target, row: usize) {
    // SAFETY: as `begin_sums`.
    unsafe {
        U::store::<P>(kept(target, row, 0), PANELS * LANES);
        U::store::<Q>(kept(target, row, 1), PANELS * LANES);
    }
}

/// The results of rows whose sums are whole.
#[inline(always)]
unsafe fn scale_rows<I: Isa>(task: &Tiles, source: &Unpacked<ScaledBytes>, rows: Range<usize>) {
    // SAFETY: the caller's rows; the scales of any block are the row's.
    unsafe {
        let scales = [source.scale::<I>(0, 0, 0), source.scale::<I>(1, 0, 0)];
        for row in rows {
            let row_scale = I::set(*task.input.row_scale.add(row));
            let mut results = [[I::zero()]; PANELS];
            for p in 0..PANELS {
                let sum = I::i_load(kept(&task.target, row, p));
                results[p][0] = I::mul(I::to_f(sum), I::mul(scales[p], row_scale));
            }
            finish::<I, PANELS, 1>(results, row, 0, &task.target);
        }
    }
}
