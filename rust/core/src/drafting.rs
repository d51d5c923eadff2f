//! Drafts: guesses of a sequence's next tokens, which the model verifies in one pass.
//!
//! Prompt lookup guesses that text repeats itself: the last tokens of a sequence are looked up among its earlier ones, and
//! what followed there is drafted. A draft model, which the caller runs, is asked where that promises less. Drafted
//! tokens are rows of the step like any other: the executor draws at each of them, and what was drawn decides. So
//! tokens and log-probabilities are those of decoding without drafts, bit for bit; only the number of steps differs.
//!
//! | file | holds |
//! |---|---|
//! | `drafting/ngram_index.rs` | where the last tokens occurred before |
//! | `drafting/acceptance.rs` | how long a draft is worth its rows, and whose |
//!
//! Source: Saxena 2023 (prompt lookup decoding); Leviathan et al. 2023 (draft models, verification in one pass).

mod acceptance;
mod ngram_index;

use crate::kv_cache::TokenView;
use acceptance::Acceptance;
pub use acceptance::ModelAcceptance;
use ngram_index::{Found, NgramIndex};

/// Longest run of tokens that can be looked up.
pub const MAX_LOOKUP: usize = 8;

/// Most tokens that are indexed in one step: a long prompt is caught up with over several.
const INDEXED_PER_STEP: usize = 4096;

/// How drafts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLookup {
    /// Most drafted tokens of one sequence in one step.
    pub num_speculative_tokens: usize,
    /// Longest run of last tokens that is looked up, tried first; at most [`MAX_LOOKUP`].
    pub prompt_lookup_max: usize,
    /// Shortest one, tried last.
    pub prompt_lookup_min: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self {
            num_speculative_tokens: 8,
            prompt_lookup_max: 4,
            prompt_lookup_min: 1,
        }
    }
}

/// A draft model stands beside the scheduler: its caller says what that drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftModel {
    /// Most drafted tokens of one sequence in one step.
    pub num_speculative_tokens: usize,
}

/// Who made a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftSource {
    /// The sequence's earlier tokens.
    PromptLookup,
    /// The draft model.
    Model,
}

/// Makes the drafts of one sequence.
#[derive(Debug, Default)]
pub struct Drafter {
    /// Whether anything is looked up.
    looks_up: bool,
    index: NgramIndex,
    acceptance: Acceptance,
    /// Length of the match that the latest draft came from.
    match_len: usize,
}

impl Drafter {
    /// Begin with a sequence that will not hold more than `max_tokens` tokens; without `lookup` nothing is looked up.
    /// Memory of an earlier one is reused.
    pub fn reset(
        &mut self,
        lookup: Option<&PromptLookup>,
        model: &ModelAcceptance,
        max_tokens: usize,
    ) {
        self.looks_up = lookup.is_some();
        if let Some(lookup) = lookup {
            let lengths = lookup.prompt_lookup_min..=lookup.prompt_lookup_max;
            self.index.reset(lengths, max_tokens);
        }
        self.acceptance = Acceptance::new(model);
    }

    /// How many tokens the draft model is to draft after `tokens`, at most `most`.
    pub fn model_draft_len(&mut self, tokens: TokenView<'_>, most: usize) -> usize {
        if most == 0 {
            return 0;
        }
        let found = self.find(tokens);
        let match_len = found.map(|found| found.match_len);
        self.acceptance.model_draft_len(match_len, most)
    }

    fn find(&mut self, tokens: TokenView<'_>) -> Option<Found> {
        let is_ready = self.looks_up && self.index.extend(tokens, INDEXED_PER_STEP);
        is_ready.then(|| self.index.lookup(tokens)).flatten()
    }

    /// Append a draft of at most `most` tokens after `tokens` to `out`; its length. Amortised constant time per token
    /// of the sequence.
    pub fn propose(&mut self, tokens: TokenView<'_>, most: usize, out: &mut Vec<i32>) -> usize {
        let Some(found) = self.find(tokens).filter(|_| most > 0) else {
            return 0;
        };
        self.match_len = found.match_len;
        let length = self.acceptance.draft_len(found.match_len, most);
        // Behind its last token the sequence goes on with the draft itself: a short period repeats.
        let period = tokens.len() - found.position;
        let offset = out.len();
        for index in 0..length {
            let drafted = if index < period {
                tokens.get(found.position + index)
            } else {
                out.get(offset + index - period).copied()
            };
            out.extend(drafted);
        }
        length
    }

    /// The latest draft was verified as far as `drafted` tokens, of which the first `accepted` were drawn.
    pub fn observe(&mut self, drafted: usize, accepted: usize) {
        self.acceptance.observe(self.match_len, drafted, accepted);
    }

    /// The same of one of the draft model's.
    pub fn observe_model(&mut self, drafted: usize, accepted: usize, shared: &mut ModelAcceptance) {
        self.acceptance.observe_model(drafted, accepted, shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafter() -> Drafter {
        let mut drafter = Drafter::default();
        drafter.reset(
            Some(&PromptLookup::default()),
            &ModelAcceptance::default(),
            20_000,
        );
        drafter
    }

    fn propose(drafter: &mut Drafter, prompt: &[i32], output: &[i32], most: usize) -> Vec<i32> {
        let mut out = vec![-1];
        let length = drafter.propose(TokenView { prompt, output }, most, &mut out);
        assert_eq!(out.len(), 1 + length);
        out.split_off(1)
    }

    #[test]
    fn what_followed_the_longest_and_latest_occurrence_is_drafted() {
        let prompt = [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 62, 1, 2, 3];
        assert_eq!(propose(&mut drafter(), &prompt, &[4], 3), [50, 51, 9]);
        let prompt = [8, 3, 4, 50, 7, 3, 4, 60, 61, 62];
        assert_eq!(propose(&mut drafter(), &prompt, &[9, 3, 4], 3), [60]);
    }

    #[test]
    fn a_draft_that_reaches_the_end_of_the_sequence_goes_on_with_itself() {
        let prompt = [1, 2, 3, 1, 2, 3, 1, 2, 3];
        assert_eq!(
            propose(&mut drafter(), &prompt, &[], 7),
            [1, 2, 3, 1, 2, 3, 1]
        );
        assert_eq!(propose(&mut drafter(), &[5; 9], &[5], 4), [5; 4]);
    }

    #[test]
    fn nothing_is_drafted_where_nothing_repeats_or_nothing_is_wanted() {
        let prompt: Vec<i32> = (0..100).collect();
        assert_eq!(propose(&mut drafter(), &prompt, &[100], 5), []);
        assert_eq!(propose(&mut drafter(), &[7], &[], 5), []);
        assert_eq!(propose(&mut drafter(), &[7; 20], &[], 0), []);
    }

    #[test]
    fn a_long_prompt_is_caught_up_with_over_several_steps() {
        let mut prompt: Vec<i32> = (0..3 * 4096).collect();
        prompt.extend([0, 1, 2]);
        let mut drafter = drafter();
        for _ in 0..3 {
            assert_eq!(propose(&mut drafter, &prompt, &[3], 2), []);
        }
        assert_eq!(propose(&mut drafter, &prompt, &[3], 2), [4, 5]);
    }

    #[test]
    fn a_drafter_that_is_reset_knows_nothing_of_its_former_sequence() {
        let mut drafter = drafter();
        assert_eq!(propose(&mut drafter, &[1, 2, 3, 1, 2], &[], 1), [3]);
        for _ in 0..100 {
            drafter.observe(1, 0);
        }
        drafter.reset(
            Some(&PromptLookup::default()),
            &ModelAcceptance::default(),
            30,
        );
        assert_eq!(propose(&mut drafter, &[9, 1, 2], &[], 1), []);
        assert_eq!(propose(&mut drafter, &[9, 1, 2], &[4, 1, 2], 1), [4]);
    }

    #[test]
    fn the_draft_model_is_asked_where_nothing_is_found() {
        let mut drafter = drafter();
        let repetitive = TokenView {
            prompt: &[1, 2, 3, 4, 5, 1, 2, 3, 4],
            output: &[],
        };
        assert_eq!(drafter.model_draft_len(repetitive, 0), 0);
        assert_eq!(drafter.model_draft_len(repetitive, 5), 0);
        drafter.reset(None, &ModelAcceptance::default(), 30);
        assert_eq!(drafter.model_draft_len(repetitive, 5), 2);
        assert_eq!(drafter.propose(repetitive, 5, &mut Vec::new()), 0);
    }
}
