//! How long a draft is worth its rows: the chance that a drafted token is drawn, estimated per length of the match, and
//! for the draft model.
//!
//! A match of four tokens is right far more often than one of a single token, so each length has its own estimate. A
//! row is drafted while the chance that it is reached and accepted is at least [`WORTHWHILE`]; where not even the first
//! one is, nothing is drafted but a single token now and then, to notice when the text has become repetitive. The draft
//! model's tokens cost a pass of it each, so they must be right more often ([`WORTH_A_PASS`]).

use super::MAX_LOOKUP;

/// Least chance of acceptance that a row is spent on. Rows below the executor's free ones cost a few percent of a step.
const WORTHWHILE: f32 = 0.2;

/// Least chance of acceptance that a pass of the draft model is spent on. Worth it where that takes less than about a
/// third of the model's own pass, as a draft model's should.
const WORTH_A_PASS: f32 = 0.4;

/// Chances before anything was observed, by length of the match; longer ones are like the last. Measured on chat,
/// copies and edits of code, lists and prose by a 135M model: 0.18, 0.45, 0.6, 0.75, 0.88 for 1 … 4 and more.
const PRIOR: [f32; 4] = [0.25, 0.4, 0.6, 0.8];

/// The same of a draft model: of models that are smaller by orders of magnitude Leviathan et al. (2023) report 0.5 to 0.9.
const MODEL_PRIOR: f32 = 0.7;

/// Share of one observation in the estimate.
const WEIGHT: f32 = 0.1;

/// Share of a sequence's estimate in what the next sequences begin with, after each of its drafts.
const SHARED_WEIGHT: f32 = 0.05;

/// Matches passed over before one is tried again, at first; twice as many after each time.
const PATIENCE: u32 = 16;
const MAX_PATIENCE: u32 = 128;

/// What was learned from one sequence's drafts. It depends on nothing but that sequence, and, for the draft model, on
/// those before it.
#[derive(Debug)]
pub(super) struct Acceptance {
    by_match_len: [Estimate; MAX_LOOKUP],
    model: Estimate,
}

/// How the draft model fared with all sequences: what a further one begins with.
#[derive(Debug)]
pub struct ModelAcceptance {
    chance: f32,
}

impl Default for ModelAcceptance {
    fn default() -> Self {
        Self {
            chance: MODEL_PRIOR,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    chance: f32,
    num_passed_over: u32,
    patience: u32,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self::new(&ModelAcceptance::default())
    }
}

impl Acceptance {
    pub(super) fn new(model: &ModelAcceptance) -> Self {
        let prior = |index: usize| Estimate::new(PRIOR[index.min(PRIOR.len() - 1)]);
        Self {
            by_match_len: std::array::from_fn(prior),
            model: Estimate::new(model.chance),
        }
    }

    /// Tokens to draft after a match of `match_len` tokens, at most `most`.
    pub(super) fn draft_len(&mut self, match_len: usize, most: usize) -> usize {
        self.by_match_len[match_len - 1].draft_len(most, WORTHWHILE)
    }

    /// Tokens that the draft model is to draft, at most `most`: none where a match of `match_len` tokens promises as much
    /// for nothing.
    pub(super) fn model_draft_len(&mut self, match_len: Option<usize>, most: usize) -> usize {
        let matched = match_len.map_or(0.0, |len| self.by_match_len[len - 1].chance);
        if matched >= WORTHWHILE && matched >= self.model.chance {
            return 0;
        }
        self.model.draft_len(most, WORTH_A_PASS)
    }

    /// Of `drafted` tokens after a match of `match_len` the first `accepted` were drawn.
    pub(super) fn observe(&mut self, match_len: usize, drafted: usize, accepted: usize) {
        self.by_match_len[match_len - 1].observe(drafted, accepted, WORTHWHILE);
    }

    /// Of `drafted` tokens of the draft model the first `accepted` were drawn.
    pub(super) fn observe_model(
        &mut self,
        drafted: usize,
        accepted: usize,
        shared: &mut ModelAcceptance,
    ) {
        self.model.observe(drafted, accepted, WORTH_A_PASS);
        shared.chance += (self.model.chance - shared.chance) * SHARED_WEIGHT;
    }
}

impl Estimate {
    fn new(chance: f32) -> Self {
        Self {
            chance,
            num_passed_over: 0,
            patience: PATIENCE,
        }
    }

    fn draft_len(&mut self, most: usize, worthwhile: f32) -> usize {
        let mut length = 0;
        let mut chance = self.chance;
        while length < most && chance >= worthwhile {
            length += 1;
            chance *= self.chance;
        }
        if length > 0 || most == 0 {
            return length;
        }
        self.num_passed_over += 1;
        if self.num_passed_over < self.patience {
            return 0;
        }
        self.num_passed_over = 0;
        self.patience = (2 * self.patience).min(MAX_PATIENCE);
        1
    }

    fn observe(&mut self, drafted: usize, accepted: usize, worthwhile: f32) {
        for _ in 0..accepted {
            self.chance += (1.0 - self.chance) * WEIGHT;
        }
        if accepted < drafted {
            self.chance -= self.chance * WEIGHT; // what follows the first wrong one was not tried
        }
        if self.chance >= worthwhile {
            self.patience = PATIENCE;
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

    #[test]
    fn the_draft_model_drafts_as_much_as_it_is_right_and_less_than_a_match_of_the_same_worth() {
        let mut shared = ModelAcceptance::default();
        let mut acceptance = Acceptance::new(&shared);
        assert_eq!(acceptance.model_draft_len(None, 20), 2);
        for _ in 0..10 {
            acceptance.observe_model(3, 3, &mut shared);
        }
        assert_eq!(acceptance.model_draft_len(None, 20), 20);
        for _ in 0..200 {
            acceptance.observe_model(1, 0, &mut shared);
        }
        assert_eq!(acceptance.model_draft_len(None, 20), 0);
        // Who comes next begins with that.
        assert_eq!(Acceptance::new(&shared).model_draft_len(None, 20), 0);
    }

    #[test]
    fn a_match_goes_first_where_it_is_right_as_often() {
        let mut shared = ModelAcceptance::default();
        let mut acceptance = Acceptance::new(&shared);
        assert_eq!(acceptance.model_draft_len(Some(4), 5), 0);
        assert_eq!(acceptance.model_draft_len(Some(2), 5), 2);
        for _ in 0..40 {
            acceptance.observe_model(5, 5, &mut shared);
        }
        assert_eq!(acceptance.model_draft_len(Some(4), 5), 5);
        for _ in 0..200 {
            acceptance.observe(4, 8, 8);
        }
        assert_eq!(acceptance.model_draft_len(Some(4), 5), 0);
        // A match that is hardly ever right hides nobody.
        for _ in 0..200 {
            acceptance.observe(4, 8, 0);
        }
        assert_eq!(acceptance.model_draft_len(Some(4), 5), 5);
    }

    #[test]
    fn a_draft_model_that_is_hardly_ever_right_is_asked_for_a_token_now_and_then() {
        let mut shared = ModelAcceptance::default();
        let mut acceptance = Acceptance::new(&shared);
        let mut num_drafted = 0;
        for _ in 0..2000 {
            let drafted = acceptance.model_draft_len(None, 5);
            num_drafted += drafted;
            if drafted > 0 {
                acceptance.observe_model(drafted, 0, &mut shared);
            }
        }
        assert!((10..50).contains(&num_drafted), "{num_drafted}");
    }
}
