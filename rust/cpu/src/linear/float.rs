//! Float arithmetic: float weights straight from their panels, and quantized weights in exact precision from panels
//! unpacked to floats. One fma per column, ascending, whatever the row count: float weights need no scratch, since
//! widening them costs two instructions per column and tile, which is little beside a tile's fmas.

use crate::activations::{ActivationsView, tiles};
use crate::formats::{BLOCK_COLS, Format};
use crate::linear::source::{Ahead, PANELS, Packed, PackedIn, Source};
use crate::linear::tile::{Target, begin, even_part, finish, for_each_tile, most_rows};
use crate::linear::{PANEL_FLOATS, PanelScratch};
use crate::simd::{Isa, LANES};

/// What a float panel, `[K][16]`, is made of.
pub(crate) trait FloatElement {
    /// Bytes per element.
    const BYTES: usize;
    /// 16 elements, widened exactly.
    unsafe fn load<I: Isa>(p: *const u8) -> I::F;
}

/// float32.
pub(crate) struct F32;
/// float16.
pub(crate) struct F16;
/// bfloat16.
pub(crate) struct Bf16;

impl FloatElement for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 elements.
        unsafe { I::load(p.cast()) }
    }
}
impl FloatElement for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 elements.
        unsafe { I::load_f16(p.cast()) }
    }
}
impl FloatElement for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 elements.
        unsafe { I::load_bf16(p.cast()) }
    }
}

/// Some columns of a pair of float panels against all rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatTiles {
    pub(crate) input: ActivationsView,
    pub(crate) rows: usize,
    /// Columns of the whole row.
    pub(crate) width: usize,
    /// First column, and how many.
    pub(crate) from: usize,
    pub(crate) count: usize,
    /// `[count][16]` elements of each panel.
    pub(crate) data: [*const u8; PANELS],
    /// What to ask for on the way; `None` where the panels are in the cache.
    pub(crate) ahead: Option<Ahead>,
    pub(crate) target: Target,
}

/// All rows against the columns.
///
/// # Safety
/// `input` holds float tiles of `rows` rows, the panels `count` columns, the target's pointers all rows; features of
/// `I`.
#[inline(always)]
pub(crate) unsafe fn float_tiles<I: Isa, E: FloatElement>(task: &FloatTiles) {
    const PLANES: usize = 0;
    for_each_tile!(I, PLANES, task.rows, |first, i, stride, panel, M, P| {
        // SAFETY: the caller's.
        unsafe { float_tile::<I, E, P, M>(task, first, i, stride, panel) }
    });
}

/// `M` rows of the tile at `first` (whose rows are `stride` apart), from row `i` of it on, times `P` panels.
#[inline(always)]
unsafe fn float_tile<I: Isa, E: FloatElement, const P: usize, const M: usize>(
    task: &FloatTiles,
    first: usize,
    i: usize,
    stride: usize,
    panel: usize,
) {
    let columns_per_line = 64 / (LANES * E::BYTES);
    let ahead = task.ahead.filter(|_| first == 0 && i == 0 && panel == 0);
    // SAFETY: `count` columns of `M` inputs and of `P` panels.
    unsafe {
        let x = task.input.float;
        let x = x.add(first * task.width + task.from * stride + i);
        let mut acc = begin::<I, P, M>(first + i, panel, &task.target);
        let mut k = 0;
        while k < task.count {
            if let Some(ahead) = ahead {
                ahead.ask::<I>(task.data, k / columns_per_line, 64);
            }
            let end = task.count.min(k + columns_per_line);
            while k < end {
                let mut weights = [I::zero(); P];
                for p in 0..P {
                    weights[p] = E::load::<I>(task.data[panel + p].add(k * LANES * E::BYTES));
                }
                for m in 0..M {
                    let x = I::set(*x.add(k * stride + m));
                    for p in 0..P {
                        acc[p][m] = I::fma(weights[p], x, acc[p][m]);
                    }
                }
                k += 1;
            }
        }
        finish::<I, P, M>(acc, first + i, panel, &task.target);
    }
}

/// Exact dequantization of `count` blocks of both panels, rounded as the file format's reference does: `d * (q - z)` or
/// `d * (q - z) + m`.
///
/// # Safety
/// `count` blocks fit the scratch and exist from `from` on; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unpack_exact<I: Isa, W: Format>(
    packed: Packed,
    from: usize,
    count: usize,
    scratch: &mut PanelScratch,
) {
    let source = PackedIn::<W>::new(packed);
    // SAFETY: `count * 32` columns of each panel fit the scratch.
    unsafe {
        #[expect(clippy::cast_precision_loss, reason = "at most 128: exact")]
        let zero = I::set(W::ZERO as f32);
        for panel in 0..PANELS {
            let to = scratch.floats.as_mut_ptr().add(panel * PANEL_FLOATS);
            for i in 0..count {
                let b = from + i;
                for g in 0..4 {
                    let half = if W::HALVES { g / 2 } else { 0 };
                    let scale = source.scale::<I>(panel, b, half);
                    let min = if W::HAS_MIN {
                        source.min::<I>(panel, b, half)
                    } else {
                        I::zero()
                    };
                    let (even, odd) = source.codes::<I>(panel, b, g);
                    for (offset, codes) in [(0, even), (4, odd)] {
                        for j in 0..4 {
                            let q = I::byte_to_f(codes, j);
                            let scaled = I::mul(scale, I::sub(q, zero));
                            let w = if W::HAS_MIN {
                                I::add(scaled, min)
                            } else {
                                scaled
                            };
                            I::store(to.add((i * BLOCK_COLS + 8 * g + offset + j) * LANES), w);
                        }
                    }
                }
            }
        }
    }
}
