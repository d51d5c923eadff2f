//! A large `lm_head` is read in two steps: the upper six of eight bits of every weight bound each logit, and only pairs of
//! panels that may hold a deciding one (see [`Deciding`]) are computed, from all bits, by the kernel that would have
//! computed all of them. So the token is the same, and a quarter of most bytes is not read.
//!
//! The bound. Let `w` be a row's weights, `v` what the upper plane says of them and `x` the quantized activations. The
//! kernel adds `n` terms, exact integers times a product of scales, by `n` fused multiply-adds, so that its sum differs
//! from `w·x` by at most `γ |w| |x|` with `γ = (n + 4) 2^-24` (Cauchy and Schwarz, block by block; one more rounding for each
//! of: the scales' product, an integer above 2^24, and room for the second order). The same holds of `v·x`. Hence
//! `|sum(w) - sum(v)| <= (|w - v| + γ (|w| + |v|)) |x|`: a number per row, made when it is packed, times the length of the
//! activations.

use std::cell::UnsafeCell;

use inferlib_program::SampledRow;
use inferlib_program::program::{Op, Program};
use inferlib_weights::Dtype;

use crate::activations::{ActivationsView, WORDS};
use crate::formats::BLOCK_COLS;
use crate::packed_image::MatrixSource;
use crate::sampling::Deciding;

/// Most sampled rows that are screened: with more, arithmetic takes longer than reading all bits once for all of them.
pub(crate) const MAX_ROWS: usize = 3;
/// Fewest rows of a matrix that is worth two passes.
const MIN_VOCAB: usize = 1 << 15;
/// Pairs of panels for each of the best tokens that are wanted. With fewer, too many pairs hold one of them, or may: with a
/// vocabulary of 262,144 the best 20 gain 6 %, the best 40 nothing; with one of 49,152 the best 5 lose 4 %, 20 lose 15 %.
const PAIRS_PER_TOKEN: usize = 400;
/// Fewest pairs, and smallest share of the best token's probability, where screening for a share gains: with a vocabulary
/// of 262,144 15 % at 0.05 and 5 % at 0.001; with one of 49,152 nothing at 0.05, and a loss below.
const MIN_PAIRS_FOR_SHARE: usize = 1 << 12;
const MIN_SHARE: f32 = 0.001;
/// Relative error of a bound's own additions, and of the coarse sum's.
pub(crate) const SUM_ERROR: f32 = 4.0 * f32::EPSILON;

/// Whether the matrix is held in two planes: a large `lm_head` of one tensor in `Q8_0`, its logits without a cap (which
/// could round different logits to equal ones).
pub(crate) fn pays(program: &Program, weight: usize, matrix: &MatrixSource<'_>) -> bool {
    let is_head = |op: &Op| matches!(op, Op::LmHead { weight: head, softcap: None, .. } if head.0 as usize == weight);
    let [part] = &matrix.parts[..] else {
        return false;
    };
    let rows = program.weights[weight].shape.first();
    part.tensor.dtype == Dtype::Q8_0
        && part.row_order.is_none()
        && rows.is_some_and(|&rows| rows >= MIN_VOCAB)
        && program.ops.iter().any(is_head)
}

/// How far a row's logit can be from its coarse one, for activations of length 1: made block by block.
#[derive(Debug, Default)]
pub(crate) struct RowBound {
    blocks: u32,
    /// Sums of squares: of the weights, of the coarse weights, of their differences.
    whole: f64,
    coarse: f64,
    error: f64,
}

impl RowBound {
    /// A block's scale, its codes + 128, and the codes that are taken for them.
    pub(crate) fn add(&mut self, scale: f32, codes: &[u8; 32], taken: &[u8; 32]) {
        let difference = |a: u8, b: u8| i32::from(a) - i32::from(b);
        let [mut whole, mut coarse, mut error] = [0_i32; 3];
        for i in 0..32 {
            whole += difference(codes[i], 128) * difference(codes[i], 128);
            coarse += difference(taken[i], 128) * difference(taken[i], 128);
            error += difference(codes[i], taken[i]) * difference(codes[i], taken[i]);
        }
        let square = f64::from(scale) * f64::from(scale);
        self.whole += square * f64::from(whole);
        self.coarse += square * f64::from(coarse);
        self.error += square * f64::from(error);
        self.blocks += 1;
    }

    /// The bound, rounded up; infinite where weights are not finite.
    pub(crate) fn finish(&self) -> f32 {
        let gamma = f64::from(self.blocks + 4) / f64::from(1 << 24);
        let bound = round_up(self.error.sqrt() + gamma * (self.whole.sqrt() + self.coarse.sqrt()));
        if bound.is_nan() { f32::INFINITY } else { bound }
    }
}

/// The next floats, by a margin that covers a few roundings; above zero.
#[expect(clippy::cast_possible_truncation, reason = "rounded up")]
fn round_up(x: f64) -> f32 {
    (x * (1.0 + 1e-6)) as f32 + f32::MIN_POSITIVE
}

/// What screening works with, shared by the workers of a step.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    pub(crate) lower: Vec<f32>,
    pub(crate) upper: Vec<f32>,
    /// Pairs that may hold a deciding logit, and scratch: of the worker that chooses, until the phase is over.
    pub(crate) chosen: UnsafeCell<Chosen>,
}

// SAFETY: `chosen` is written in the tail of a phase, by one worker, and read after that phase.
unsafe impl Sync for Screen {}

/// See [`Screen::chosen`].
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) pairs: Vec<usize>,
    scratch: Vec<f32>,
}

impl Screen {
    /// Room for matrices of `pairs` pairs of panels.
    pub(crate) fn new(pairs: usize) -> Self {
        Self {
            lower: vec![0.0; MAX_ROWS * pairs],
            upper: vec![0.0; MAX_ROWS * pairs],
            chosen: UnsafeCell::new(Chosen {
                pairs: Vec::with_capacity(pairs),
                scratch: Vec::with_capacity(pairs),
            }),
        }
    }
}

impl Chosen {
    /// Choose from the bounds of every row's pairs, `[rows][pairs]`.
    pub(crate) fn choose(&mut self, deciding: &[Deciding], lower: &[f32], upper: &[f32]) {
        let pairs = lower.len() / deciding.len().max(1);
        let mut floors = [f32::NEG_INFINITY; MAX_ROWS];
        for (row, (deciding, floor)) in deciding.iter().zip(&mut floors).enumerate() {
            self.scratch.clear();
            self.scratch
                .extend_from_slice(&lower[row * pairs..][..pairs]);
            *floor = deciding.floor(&mut self.scratch);
        }
        self.pairs.clear();
        for pair in 0..pairs {
            // A NaN is never below.
            let is_below = |(row, floor): (usize, &f32)| upper[row * pairs + pair] < *floor;
            if !floors[..deciding.len()].iter().enumerate().all(is_below) {
                self.pairs.push(pair);
            }
        }
    }
}

/// What decides each of the rows over so many pairs of panels, if all can be screened and gain by it.
pub(crate) fn deciding<'a>(
    rows: impl ExactSizeIterator<Item = (&'a SampledRow, &'a [i32])>,
    pairs: usize,
) -> Option<([Deciding; MAX_ROWS], usize)> {
    let gains = |deciding: &Deciding| match *deciding {
        Deciding::Best(count) => count <= pairs / PAIRS_PER_TOKEN,
        Deciding::Share(share, _) => pairs >= MIN_PAIRS_FOR_SHARE && share >= MIN_SHARE,
    };
    let count = rows.len();
    let mut all = [Deciding::Best(1); MAX_ROWS];
    if count > MAX_ROWS {
        return None;
    }
    for (to, (row, history)) in all.iter_mut().zip(rows) {
        *to = Deciding::of(row, history).filter(gains)?;
    }
    Some((all, count))
}

/// The length of each packed row of `blocks` blocks, rounded up; NaN if the row holds one.
///
/// # Safety
/// The view holds one tile of `rows` rows, at most [`MAX_ROWS`].
pub(crate) unsafe fn lengths(
    view: ActivationsView,
    rows: usize,
    blocks: usize,
    two_planes: bool,
) -> [f32; MAX_ROWS] {
    // SAFETY: the caller's tile.
    let codes = |plane: *const i32, at: usize| unsafe {
        plane
            .add(at * WORDS)
            .cast::<[i8; BLOCK_COLS]>()
            .read_unaligned()
    };
    let mut lengths = [0.0; MAX_ROWS];
    for (row, length) in lengths[..rows].iter_mut().enumerate() {
        let mut square = 0.0;
        for at in (0..blocks).map(|b| b * rows + row) {
            let mut whole = codes(view.int8, at).map(i64::from);
            if two_planes {
                for (whole, lower) in whole.iter_mut().zip(codes(view.low, at)) {
                    *whole = 256 * *whole + i64::from(lower);
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "below 2^36: exact")]
            let sum = whole.iter().map(|q| q * q).sum::<i64>() as f64;
            // SAFETY: the caller's tile.
            let scale = f64::from(unsafe { *view.scale.add(at) });
            square += scale * scale * sum;
        }
        *length = round_up(f64::sqrt(square));
    }
    lengths
}
