//! The log-probabilities that a request asked for.

use inferlib_program::RowLogprobs;

use super::candidates::Candidates;
use super::cut::PrefixEnd;
use super::mass::Softmax;
use super::scan::rank;

/// A distribution, described before its token is known.
pub(super) struct Report {
    softmax: Softmax,
    total: f64,
    top_ids: Vec<i32>,
    top_logprobs: Vec<f32>,
}

impl Report {
    /// Of the candidates, whose weights sum to `total`; `count` best are listed, fewer if there are fewer candidates.
    /// Reorders nothing, but drops all other candidates.
    #[expect(clippy::cast_possible_wrap, reason = "token ids are i32")]
    pub(super) fn of_candidates(
        candidates: &mut Candidates,
        prefix_end: &mut PrefixEnd,
        softmax: Softmax,
        total: f64,
        count: usize,
    ) -> Self {
        let (top_ids, top_logprobs) = candidates
            .best(count, prefix_end)
            .map(|(id, logit)| (id as i32, softmax.logprob(logit, total)))
            .unzip();
        Self {
            softmax,
            total,
            top_ids,
            top_logprobs,
        }
    }

    /// With `token`, whose logit and rank are those in `logits`.
    #[inline(always)]
    pub(super) fn finish(self, logits: &[f32], token: usize) -> RowLogprobs {
        RowLogprobs {
            logprob: self.softmax.logprob(logits[token], self.total),
            rank: rank(logits, token),
            top_ids: self.top_ids,
            top_logprobs: self.top_logprobs,
        }
    }
}
