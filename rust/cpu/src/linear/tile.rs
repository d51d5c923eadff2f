//! The integer tile: some rows times two panels in registers. GEMV and GEMM are this one kernel over two sources.
//!
//! Order of sums, the same for every row count, tile, source and tier: per 32-block an exact i32 sum, then one fma
//! `acc = fma(float(sum), scale * sa, acc)` (formats with minima: one more, `fma(min, sa * Σa, acc)`) in ascending block
//! order.

use inferlib_program::program::Activation;

use crate::activations::{ActivationsView, WORDS, tiles};
use crate::formats::Format;
use crate::linear::source::{PANELS, Packed, PackedIn, Source};
use crate::math;
use crate::simd::{Dot, Isa, LANES};

/// Where a pair's sums go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Row 0 of each panel's outputs.
    pub(crate) out: [*mut f32; PANELS],
    /// Row stride of `out`.
    pub(crate) stride: usize,
    /// Valid lanes of each panel: 16 but for a segment's last one.
    pub(crate) lanes: [usize; PANELS],
    /// Of each panel's outputs.
    pub(crate) bias: Option<[*const f32; PANELS]>,
    /// `[rows][PANELS][16]`: sums that are not yet results.
    pub(crate) partial: *mut f32,
    /// Whether the sums of earlier columns are in `partial`.
    pub(crate) resume: bool,
    /// Whether to leave the sums in `partial`, or to write results.
    pub(crate) keep: bool,
}

impl Target {
    /// Go on to what lies `outputs` further in each row.
    #[inline(always)]
    pub(super) fn skip(&mut self, outputs: usize) {
        self.out = self.out.map(|out| out.wrapping_add(outputs));
        let skip = |bias: *const f32| bias.wrapping_add(outputs);
        self.bias = self.bias.map(|bias| bias.map(skip));
    }

    /// Where a row's outputs of a panel go.
    #[inline(always)]
    pub(super) fn row(&self, panel: usize, row: usize) -> *mut f32 {
        self.out[panel].wrapping_add(row * self.stride)
    }
}

/// Some blocks of a pair of panels against all rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    pub(crate) input: ActivationsView,
    pub(crate) rows: usize,
    /// Blocks of the whole row.
    pub(crate) width: usize,
    /// First block of this chunk, and how many. The source counts from 0.
    pub(crate) from: usize,
    pub(crate) count: usize,
    /// Which start values the integer sums take.
    pub(crate) zero: Option<usize>,
    pub(crate) target: Target,
}

/// Most rows that a register tile takes, with all panels or one: every output has a float sum and a sum of products per
/// plane (none in float arithmetic).
pub(super) const fn most_rows<I: Isa, const PLANES: usize>() -> usize {
    let outputs = I::ACCUMULATORS / (1 + PLANES * I::Dot::PARTS);
    let rows = outputs / if I::WIDE_TILES { PANELS } else { 1 };
    if rows == 0 { 1 } else { rows }
}

/// The largest part, up to `most` rows, that a tile of `rows` can be cut into evenly.
pub(super) fn even_part(rows: usize, most: usize) -> usize {
    let sizes = [8, 6, 4, 3, 2];
    let fits = |&size: &usize| size <= most && rows.is_multiple_of(size);
    sizes.into_iter().find(fits).unwrap_or(1)
}

/// Call `$call` with `$m` rows and `$p` panels for every register tile: `$i`, `$stride` place its rows in their tile of
/// activations, `$panel` is its first panel. A tier with few registers takes the panels one by one: the same arithmetic,
/// since outputs are independent.
macro_rules! for_each_tile {
    ($isa:ident, $planes:ident, $rows:expr, |$first:ident, $i:ident, $stride:ident, $panel:ident, $m:ident, $p:ident| $call:expr) => {
        for ($first, $stride) in tiles($rows) {
            let size = even_part($stride, most_rows::<$isa, $planes>());
            for $i in (0..$stride).step_by(size) {
                if $isa::WIDE_TILES {
                    const $p: usize = PANELS;
                    let $panel = 0;
                    for_each_tile!(@rows $isa, $planes, size, $m, $call);
                } else {
                    const $p: usize = 1;
                    for $panel in 0..PANELS {
                        for_each_tile!(@rows $isa, $planes, size, $m, $call);
                    }
                }
            }
        }
    };
    (@rows $isa:ident, $planes:ident, $size:ident, $m:ident, $call:expr) => {
        match $size {
            2 if most_rows::<$isa, $planes>() >= 2 => { const $m: usize = 2; $call }
            3 if most_rows::<$isa, $planes>() >= 3 => { const $m: usize = 3; $call }
            4 if most_rows::<$isa, $planes>() >= 4 => { const $m: usize = 4; $call }
            6 if most_rows::<$isa, $planes>() >= 6 => { const $m: usize = 6; $call }
            8 if most_rows::<$isa, $planes>() >= 8 => { const $m: usize = 8; $call }
            _ => { const $m: usize = 1; $call }
        }
    };
}
pub(super) use for_each_tile;

/// Consecutive pairs of panels, all lanes valid but where there is only one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) pairs: usize,
    /// Bytes from a panel to its successor in the next pair.
    pub(crate) bytes: usize,
    /// The same in the second plane, of layouts that have one.
    pub(crate) second_bytes: usize,
    /// Outputs from a pair's to the next one's.
    pub(crate) outputs: usize,
}

/// [`int_tiles`] over the packed bytes of a stretch of pairs, each one's gate applied to it.
///
/// # Safety
/// As [`int_tiles`] and [`gate_pair`], for every pair; the first is `packed`'s and the task's.
#[inline(always)]
pub(crate) unsafe fn packed_tiles<I: Isa, W: Format, const PLANES: usize>(
    task: &Tiles,
    packed: Packed,
    stretch: Stretch,
    gated: Option<Activation>,
) {
    for pair in 0..stretch.pairs {
        let mut task = *task;
        task.target.skip(pair * stretch.outputs);
        let packed = packed.skip(pair * stretch.bytes);
        let source = PackedIn::<W>::new(packed.skip_second(pair * stretch.second_bytes));
        // SAFETY: the caller's.
        unsafe {
            int_tiles::<I, _, PLANES>(&task, &source);
            if let Some(activation) = gated {
                gate_pair::<I>(&task.target, task.rows, activation);
            }
        }
    }
}

/// All rows against the source's blocks, with `PLANES` int8 planes per activation.
///
/// # Safety
/// `input` holds tiles of `rows` rows, the source `count` blocks, the target's pointers all rows; features of `I`.
#[inline(always)]
pub(crate) unsafe fn int_tiles<I: Isa, S: Source, const PLANES: usize>(task: &Tiles, source: &S) {
    for_each_tile!(I, PLANES, task.rows, |first, i, stride, panel, M, P| {
        // SAFETY: the caller's.
        unsafe { int_tile::<I, S, P, M, PLANES>(task, source, first, i, stride, panel) }
    });
}

/// `M` rows of the tile at `first` (whose rows are `stride` apart), from row `i` of it on, times `P` panels.
#[inline(always)]
unsafe fn int_tile<I: Isa, S: Source, const P: usize, const M: usize, const PLANES: usize>(
    task: &Tiles,
    source: &S,
    first: usize,
    i: usize,
    stride: usize,
    panel: usize,
) {
    let input = task.input;
    let parts = if S::HALVES { 2 } else { 1 };
    // Two chains hide the latency where few accumulators are in flight; two planes need their own sums anyway.
    let two = PLANES == 2 || (I::Dot::CHAINS == 2 && 3 * P * M <= I::ACCUMULATORS);
    let ask = first == 0 && i == 0;
    // SAFETY: tile offsets as in `pack_row`; the source has `count` blocks.
    unsafe {
        let base = first * task.width + task.from * stride;
        let int8 = input.int8.add((base + i) * WORDS);
        let low = input.low.wrapping_add((base + i) * WORDS);
        let scale = input.scale.add(base + i);
        let scaled_sum = input.scaled_sum.wrapping_add(base + i);
        let start = task
            .zero
            .map(|slot| input.start[slot].add(base * parts + i));
        let mut acc = begin::<I, P, M>(first + i, panel, &task.target);
        for b in 0..task.count {
            if ask {
                source.prefetch::<I>(b);
            }
            for part in 0..parts {
                let mut sums = [[[I::Dot::start(0); M]; P]; 2];
                if let Some(start) = start {
                    let start = start.add((b * parts + part) * stride);
                    for m in 0..M {
                        let start = I::Dot::start(*start.add(m));
                        for p in 0..P {
                            sums[1][p][m] = start;
                        }
                    }
                }
                for g in part * 4 / parts..(part + 1) * 4 / parts {
                    let at = b * stride * WORDS + 2 * g;
                    let mut codes = [[I::b_set(0); P]; 2];
                    for p in 0..P {
                        let (even, odd) = source.codes::<I>(panel + p, b, g);
                        (codes[0][p], codes[1][p]) = (even, odd);
                    }
                    // Word by word, so that a sum's products are as far apart as can be.
                    for word in 0..2 {
                        for m in 0..M {
                            let a = *int8.add(at + m * WORDS + word);
                            for p in 0..P {
                                let first_chain = PLANES == 2 || (two && g % 2 == 0);
                                let sum = &mut sums[usize::from(!first_chain)][p][m];
                                *sum = I::Dot::dot4::<S>(*sum, codes[word][p], a);
                            }
                        }
                        if PLANES == 2 {
                            for m in 0..M {
                                let a = *low.add(at + m * WORDS + word);
                                for p in 0..P {
                                    let sum = &mut sums[1][p][m];
                                    *sum = I::Dot::dot4_low::<S>(*sum, codes[word][p], a);
                                }
                            }
                        }
                    }
                }
                let mut weight_scale = [I::zero(); P];
                for p in 0..P {
                    weight_scale[p] = source.scale::<I>(panel + p, b, part);
                }
                for m in 0..M {
                    let sa = I::set(*scale.add(b * stride + m));
                    for p in 0..P {
                        let mut sum = I::Dot::finish(sums[1][p][m]);
                        if PLANES == 2 {
                            let upper = I::Dot::finish(sums[0][p][m]);
                            sum = I::i_add(I::i_shl::<8>(upper), sum);
                        } else if two {
                            sum = I::i_add(I::Dot::finish(sums[0][p][m]), sum);
                        }
                        acc[p][m] = I::fma(I::to_f(sum), I::mul(weight_scale[p], sa), acc[p][m]);
                    }
                }
                if S::HAS_MIN {
                    let mut min = [I::zero(); P];
                    for p in 0..P {
                        min[p] = source.min::<I>(panel + p, b, part);
                    }
                    for m in 0..M {
                        let at = b * stride + m;
                        let sum = if let (true, Some(start)) = (S::HALVES, start) {
                            *scale.add(at) * half_sum(*start.add((b * 2 + part) * stride + m))
                        } else {
                            *scaled_sum.add(at)
                        };
                        for p in 0..P {
                            acc[p][m] = I::fma(min[p], I::set(sum), acc[p][m]);
                        }
                    }
                }
            }
        }
        finish::<I, P, M>(acc, first + i, panel, &task.target);
    }
}

/// The sum of a half block's activations from its start value, `-32 *` the sum: exact.
#[inline(always)]
pub(super) fn half_sum(start: i32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "32 times a number below 2^20")]
    let start = start as f32;
    start * (-1.0 / 32.0)
}

#[inline(always)]
pub(crate) unsafe fn begin<I: Isa, const P: usize, const M: usize>(
    first: usize,
    panel: usize,
    target: &Target,
) -> [[I::F; M]; P] {
    // SAFETY: the partials hold all rows; a prefetch may name any address.
    unsafe {
        let mut acc = [[I::zero(); M]; P];
        // The outputs of the last step's products were read by other cores; a gated pair writes its first panel's only.
        for p in 0..if target.keep { 1 } else { P } {
            for m in 0..M {
                I::prefetch_to_write(target.row(panel + p, first + m).cast());
            }
        }
        if target.resume {
            for p in 0..P {
                for m in 0..M {
                    acc[p][m] = I::load(at(target.partial, first + m, panel + p));
                }
            }
        }
        acc
    }
}

/// The partial sums of a row and panel.
fn at(partial: *mut f32, row: usize, panel: usize) -> *mut f32 {
    partial.wrapping_add((row * PANELS + panel) * LANES)
}

#[inline(always)]
pub(crate) unsafe fn finish<I: Isa, const P: usize, const M: usize>(
    acc: [[I::F; M]; P],
    first: usize,
    panel: usize,
    target: &Target,
) {
    // SAFETY: rows `first .. first + M` of the outputs, `lanes` wide, and of the partials.
    unsafe {
        for p in 0..P {
            let panel = panel + p;
            if target.keep {
                for m in 0..M {
                    I::store(at(target.partial, first + m, panel), acc[p][m]);
                }
                continue;
            }
            let lanes = target.lanes[panel];
            let bias = match target.bias {
                Some(bias) => I::load_up_to(bias[panel], lanes),
                None => I::zero(),
            };
            for m in 0..M {
                let sum = match target.bias {
                    Some(_) => I::add(acc[p][m], bias),
                    None => acc[p][m],
                };
                I::store_up_to(target.row(panel, first + m), sum, lanes);
            }
        }
    }
}

/// `out = act(gate) * up` from the kept sums of a gate panel and an up panel, as [`crate::rows::act_and_mul`].
///
/// # Safety
/// The target's partials hold `rows` rows, and so does its first output; features of `I`.
#[inline(always)]
pub(crate) unsafe fn gate_pair<I: Isa>(target: &Target, rows: usize, activation: Activation) {
    for row in 0..rows {
        // SAFETY: the caller's.
        unsafe {
            let gate = I::load(at(target.partial, row, 0));
            let up = I::load(at(target.partial, row, 1));
            let gated = math::gated::<I>(gate, up, activation);
            I::store_up_to(target.row(0, row), gated, target.lanes[0]);
        }
    }
}
