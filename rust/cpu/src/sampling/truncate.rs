//! `top_k`, `top_p` and `min_p`: every one keeps a prefix of the ranking, so together they keep the shortest of three.
//!
//! The candidates are collected once, above a floor that loses none of them, and cut exactly afterwards:
//! `top_k` puts the floor under its k-th token by group maxima; `min_p` gives its floor outright; `top_p` alone needs
//! the sum of all weights first, and then knows that tokens of weight `(1 - p) · total / V` and less cannot matter.

use inferlib_program::SamplingParams;

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
#[expect(clippy::cast_precision_loss, reason = "a vocabulary size")]
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
    let min_p = Some(params.min_p).filter(|&p| p > 0.0);
    if top_k.is_none() && top_p.is_none() && min_p.is_none() {
        return false;
    }
    let min_p_floor = min_p.map_or(f32::MIN, |share| softmax.floor_of_weight(f64::from(share)));
    let top_k_floor = top_k.map_or(f32::MIN, |k| {
        work.scan.floor_of_best(logits, k, work.prefix_end)
    });
    // What `top_p` is a share of: of all weights, unless `top_k` leaves only some.
    let total = if top_k.is_none() && top_p.is_some() {
        Some(work.sums.fill(logits, softmax))
    } else {
        None
    };
    // Twice the vocabulary is the tail that loses nothing even if the sums were wrong in their first digits.
    let last_tail = 2.0 * logits.len() as f64;
    let mut tail = FIRST_TAIL.min(last_tail);
    loop {
        let floor = match (top_p, total) {
            (Some(share), Some(total)) => {
                softmax.floor_of_weight((1.0 - f64::from(share)) * total / tail)
            }
            _ => top_k_floor,
        };
        // `top_p` of the best `k` needs all of these, also those that `min_p` drops.
        let is_whole = top_k.is_some() && top_p.is_some();
        work.candidates.collect(
            logits,
            work.scan,
            if is_whole {
                floor
            } else {
                floor.max(min_p_floor)
            },
        );
        if let Some(k) = top_k {
            work.candidates.keep_best(k, work.prefix_end);
        }
        let is_reached = match top_p {
            Some(share) => work
                .candidates
                .keep_mass(share, total, softmax, work.prefix_end),
            None => true,
        };
        // Tokens under the floor of `min_p` are gone whether or not `top_p` would keep them.
        if is_reached || total.is_none() || floor <= min_p_floor {
            break;
        }
        // A share next to 1 can lie above what the masses sum to: then all tokens are kept, however many are masked.
        tail = if tail < last_tail {
            (tail * TAIL_STEP).min(last_tail)
        } else {
            f64::INFINITY
        };
    }
    if min_p.is_some() {
        work.candidates.keep_at_least(min_p_floor);
    }
    true
}
