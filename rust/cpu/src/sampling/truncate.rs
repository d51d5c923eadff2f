//! `top_k`, `top_p` and `min_p`: every one keeps a prefix of the ranking, so together they keep the shortest of three.
//!
//! The candidates are collected once, above a floor that loses none of them, and cut exactly afterwards:
//! `top_k` puts the floor under its k-th token by group maxima; `min_p` gives its floor outright; `top_p` alone needs
//! the sum of all weights first, and then knows that tokens of weight `(1 - p) · total / V` and less cannot matter.

use inferlib_core::SamplingParams;

use super::candidates::Candidates;
use super::cut::PrefixEnd;
use super::mass::{Softmax, TileSums};
use super::scan::Scan;

/// `top_p` first looks at tokens that could not be missed if at most this many tokens lay below them: true of nearly
/// all rows of language models, whose nuclei are small. Where it is not, it looks further, `TAIL_STEP` times.
const FIRST_TAIL: f64 = 256.0;
const TAIL_STEP: f64 = 16.0;

/// Scratch that truncation borrows.
pub(super) struct Workspace<'a> {
    pub(super) scan: &'a mut Scan,
    pub(super) sums: &'a mut TileSums,
    pub(super) candidates: &'a mut Candidates,
    pub(super) prefix_end: &'a mut PrefixEnd,
}

/// Leave in `candidates` what `params` keep of the row; `false` if they ask for no truncation and the candidates were
/// not touched.
#[inline(always)]
pub(super) fn truncate(
    work: &mut Workspace<'_>,
    logits: &[f32],
    params: &SamplingParams,
    softmax: &Softmax,
) -> bool {
    let top_k = params
        .top_k
        .map(|k| k.max(1) as usize)
        .filter(|&k| k < logits.len());
    let top_p = Some(params.top_p).filter(|&p| p < 1.0);
    let min_p_floor = if params.min_p > 0.0 {
        softmax.floor_of_weight(f64::from(params.min_p))
    } else {
        f32::MIN
    };
    match (top_k, top_p) {
        (None, None) => {
            if params.min_p > 0.0 {
                work.candidates.collect(logits, work.scan, min_p_floor);
            }
            params.min_p > 0.0
        }
        (Some(k), None) => {
            let floor = work.scan.floor_of_best(logits, k, work.prefix_end);
            work.candidates
                .collect(logits, work.scan, floor.max(min_p_floor));
            work.candidates.keep_best(k, work.prefix_end);
            true
        }
        (Some(k), Some(p)) => {
            let floor = work.scan.floor_of_best(logits, k, work.prefix_end);
            work.candidates.collect(logits, work.scan, floor);
            work.candidates.keep_best(k, work.prefix_end);
            work.candidates.keep_mass(p, None, softmax, work.prefix_end);
            work.candidates.keep_at_least(min_p_floor);
            true
        }
        (None, Some(p)) => {
            keep_nucleus(work, logits, p, min_p_floor, softmax);
            true
        }
    }
}

/// `top_p` over the whole row, then `min_p`.
#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "a vocabulary size")]
fn keep_nucleus(
    work: &mut Workspace<'_>,
    logits: &[f32],
    top_p: f32,
    min_p_floor: f32,
    softmax: &Softmax,
) {
    let total = work.sums.fill(logits, softmax);
    let missing = (1.0 - f64::from(top_p)) * total;
    // Twice the vocabulary is the bound that loses nothing even if the sums were wrong in their first digits.
    let last_tail = 2.0 * logits.len() as f64;
    let mut tail = FIRST_TAIL;
    loop {
        tail = tail.min(last_tail);
        let floor = softmax.floor_of_weight(missing / tail);
        work.candidates
            .collect(logits, work.scan, floor.max(min_p_floor));
        let is_reached = work
            .candidates
            .keep_mass(top_p, Some(total), softmax, work.prefix_end);
        // Tokens under the floor of `min_p` are gone whether or not `top_p` would keep them.
        if is_reached || floor <= min_p_floor || tail >= last_tail {
            return;
        }
        tail *= TAIL_STEP;
    }
}
