//! Prompt lookup: guess that text repeats itself, and let the model verify the guess in the same pass.
//!
//! The last tokens of a sequence are looked up among its earlier ones; what followed there is drafted here. Drafted
//! tokens are rows of the step like any other: the executor draws at each of them, and what was drawn decides. So
//! tokens and log-probabilities are those of decoding without drafts, bit for bit; only the number of steps differs.
//!
//! | file | holds |
//! |---|---|
//! | `drafting/ngram_index.rs` | where the last tokens occurred before |
//! | `drafting/acceptance.rs` | how long a draft is worth its rows |
//!
//! Source: Saxena 2023 (prompt lookup decoding); Leviathan et al. 2023 (verification in one pass).

mod acceptance;
mod ngram_index;

use crate::kv_cache::TokenView;
use acceptance::Acceptance;
use ngram_index::NgramIndex;

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

/// Makes the drafts of one sequence.
#[derive(Debug, Default)]
pub struct Drafter {
    index: NgramIndex,
    acceptance: Acceptance,
    /// Length of the match that the latest draft came from.
    match_len: usize,
}

impl Drafter {
    /// Begin with a sequence that will not hold more than `max_tokens` tokens. Memory of an earlier one is reused.
    pub fn reset(&mut self, lookup: &PromptLookup, max_tokens: usize) {
        let lengths = lookup.prompt_lookup_min..=lookup.prompt_lookup_max;
        self.index.reset(lengths, max_tokens);
        self.acceptance = Acceptance::default();
    }

    /// Append a draft of at most `most` tokens after `tokens` to `out`; its length. Amortised constant time per token
    /// of the sequence.
    pub fn propose(&mut self, tokens: TokenView<'_>, most: usize, out: &mut Vec<i32>) -> usize {
        if !self.index.extend(tokens, INDEXED_PER_STEP) || most == 0 {
            return 0;
        }
        let Some(found) = self.index.lookup(tokens) else {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafter() -> Drafter {
        let mut drafter = Drafter::default();
        drafter.reset(&PromptLookup::default(), 20_000);
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
        drafter.reset(&PromptLookup::default(), 30);
        assert_eq!(propose(&mut drafter, &[9, 1, 2], &[], 1), []);
        assert_eq!(propose(&mut drafter, &[9, 1, 2], &[4, 1, 2], 1), [4]);
    }
}
