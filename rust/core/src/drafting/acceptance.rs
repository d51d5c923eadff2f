//! How long a draft is worth its rows: the chance that a drafted token is drawn, estimated per length of the match.
//!
//! A match of four tokens is right far more often than one of a single token, so each length has its own estimate. A
//! row is drafted while the chance that it is reached and accepted is at least [`WORTHWHILE`]; where not even the first
//! one is, nothing is drafted but a single token now and then, to notice when the text has become repetitive.

use super::MAX_LOOKUP;

/// Least chance of acceptance that a row is spent on. Rows below the executor's free ones cost a few percent of a step.
const WORTHWHILE: f32 = 0.2;

/// Chances before anything was observed, by length of the match; longer ones are like the last. Measured on chat,
/// copies and edits of code, lists and prose by a 135M model: 0.18, 0.45, 0.6, 0.75, 0.88 for 1 … 4 and more.
const PRIOR: [f32; 4] = [0.25, 0.4, 0.6, 0.8];

/// Share of one observation in the estimate.
const WEIGHT: f32 = 0.1;

/// Matches passed over before one is tried again, at first; twice as many after each time.
const PATIENCE: u32 = 16;
const MAX_PATIENCE: u32 = 128;

/// What was learned from one sequence's drafts. It depends on nothing but that sequence.
#[derive(Debug)]
pub(super) struct Acceptance {
    by_match_len: [Estimate; MAX_LOOKUP],
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    chance: f32,
    num_passed_over: u32,
    patience: u32,
}

impl Default for Acceptance {
    fn default() -> Self {
        let estimate = |index: usize| Estimate {
            chance: PRIOR[index.min(PRIOR.len() - 1)],
            num_passed_over: 0,
            patience: PATIENCE,
        };
        Self {
            by_match_len: std::array::from_fn(estimate),
        }
    }
}

impl Acceptance {
    /// Tokens to draft after a match of `match_len` tokens, at most `most`.
    pub(super) fn draft_len(&mut self, match_len: usize, most: usize) -> usize {
        let estimate = &mut self.by_match_len[match_len - 1];
        let mut length = 0;
        let mut chance = estimate.chance;
        while length < most && chance >= WORTHWHILE {
            length += 1;
            chance *= estimate.chance;
        }
        if length > 0 || most == 0 {
            return length;
        }
        estimate.num_passed_over += 1;
        if estimate.num_passed_over < estimate.patience {
            return 0;
        }
        estimate.num_passed_over = 0;
        estimate.patience = (2 * estimate.patience).min(MAX_PATIENCE);
        1
    }

    /// Of `drafted` tokens after a match of `match_len` the first `accepted` were drawn.
    pub(super) fn observe(&mut self, match_len: usize, drafted: usize, accepted: usize) {
        let estimate = &mut self.by_match_len[match_len - 1];
        for _ in 0..accepted {
            estimate.chance += (1.0 - estimate.chance) * WEIGHT;
        }
        if accepted < drafted {
            estimate.chance -= estimate.chance * WEIGHT; // what follows the first wrong one was not tried
        }
        if estimate.chance >= WORTHWHILE {
            estimate.patience = PATIENCE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(acceptance: &mut Acceptance, times: usize, drafted: usize, accepted: usize) {
        for _ in 0..times {
            acceptance.observe(3, drafted, accepted);
        }
    }

    #[test]
    fn drafts_grow_with_acceptance_and_shrink_without() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.draft_len(3, 20), 3);
        observe(&mut acceptance, 10, 3, 3);
        assert_eq!(acceptance.draft_len(3, 20), 20);
        observe(&mut acceptance, 6, 5, 0);
        assert_eq!(acceptance.draft_len(3, 20), 2);
        observe(&mut acceptance, 6, 5, 0);
        assert_eq!(acceptance.draft_len(3, 20), 1);
    }

    #[test]
    fn lengths_of_matches_are_judged_apart() {
        let mut acceptance = Acceptance::default();
        observe(&mut acceptance, 50, 1, 0);
        assert_eq!(acceptance.draft_len(3, 5), 0);
        assert_eq!(acceptance.draft_len(4, 5), 5);
        assert_eq!(acceptance.draft_len(1, 5), 1);
    }

    #[test]
    fn after_many_refusals_a_single_token_is_tried_ever_more_rarely() {
        let mut acceptance = Acceptance::default();
        observe(&mut acceptance, 50, 1, 0);
        let mut tries = Vec::new();
        for step in 1..=1000 {
            match acceptance.draft_len(3, 5) {
                0 => {}
                drafted => {
                    assert_eq!(drafted, 1);
                    tries.push(step);
                    acceptance.observe(3, 1, 0);
                }
            }
        }
        assert_eq!(
            tries,
            [16, 48, 112, 240, 368, 496, 624, 752, 880],
            "16, 32, 64, then 128 apart"
        );
    }

    #[test]
    fn a_text_that_becomes_repetitive_is_drafted_again() {
        let mut acceptance = Acceptance::default();
        observe(&mut acceptance, 200, 1, 0);
        let mut num_tries = 0;
        while acceptance.draft_len(3, 5) < 2 {
            acceptance.observe(3, 1, 1);
            num_tries += 1;
            assert!(num_tries < 1000);
        }
        assert_eq!(acceptance.draft_len(3, 0), 0);
    }
}
