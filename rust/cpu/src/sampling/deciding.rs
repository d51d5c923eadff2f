//! Which logits a row's token can depend on, before any is known: so that the rest need not be computed.

use inferlib_program::{LogitsRow, SampledRow};

use super::edits;
use super::mass::Softmax;

/// Tokens that alone decide a row: with `-inf` in place of all others the result is the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Deciding {
    /// The best so many, ties by lower id.
    Best(usize),
    /// Those of at least this share of the best one's probability at this temperature.
    Share(f32, f32),
}

impl Deciding {
    /// What decides `row`; `None` if every logit may: it reports log-probabilities or logits, edits them, or draws from all.
    pub(crate) fn of(row: &SampledRow, history: &[i32]) -> Option<Self> {
        let params = &*row.params;
        let reports =
            params.logprobs.is_some() || row.wants_logits || !matches!(row.kind, LogitsRow::Sample);
        if reports || params.cuts_further() || edits::are_wanted(row, history) {
            return None;
        }
        if params.temperature <= 0.0 {
            return Some(Self::Best(1));
        }
        match params.top_k {
            Some(k) => Some(Self::Best(k.max(1) as usize)),
            // `top_p` is a share of all tokens.
            None => (params.top_p >= 1.0 && params.min_p > 0.0)
                .then_some(Self::Share(params.min_p, params.temperature)),
        }
    }

    /// A value that the logits of all deciding tokens reach, from values `lower` that as many tokens reach, in any order
    /// (it changes); `-inf` if there are too few of them.
    pub(crate) fn floor(self, lower: &mut [f32]) -> f32 {
        match self {
            Self::Best(count) if count > lower.len() => f32::NEG_INFINITY,
            Self::Best(count) => {
                *lower
                    .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a))
                    .1
            }
            Self::Share(share, temperature) => {
                let max = lower.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let floor = Softmax::new(max, temperature).floor_of_weight(f64::from(share));
                // Its logarithm may differ in the last digits from one of another maximum.
                floor - 1e-4 * (max - floor).abs() - 1e-6 * max.abs()
            }
        }
    }
}
