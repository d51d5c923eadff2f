//! Where one sequence is in its grammar.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::panic_utils::catch_unwind;
use llguidance::{Matcher, TokenParser};

use super::closing::Enders;
use super::work::{Bounds, Fuel, items_per_row};
use super::{GrammarError, message};
use crate::tokenizer::Tokenizer;

/// How texts of a vocabulary end.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) enders: Enders,
    pub(super) eos_token_ids: Vec<u32>,
}

impl Ending {
    pub(super) fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32], vocab_size: usize) -> Self {
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let vocab_size = vocab_size.min(u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX));
        Self {
            enders: Enders::new(tokenizer, vocab_size),
            eos_token_ids: eos_token_ids.to_vec(),
        }
    }
}

/// The automata that a state and its forks share: they grow with what is asked of them.
pub(super) struct Automata(TokenParser);

impl std::fmt::Debug for Automata {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Automata({} bytes)", self.num_bytes())
    }
}

impl Automata {
    /// Those of a parser that has read nothing.
    pub(super) fn new(parser: TokenParser) -> Self {
        Self(parser)
    }

    /// The same, no longer shared with anyone. Where the parser panicked while it worked on them there is nothing left to
    /// separate: whatever a matcher is asked then is an error.
    pub(super) fn separate(&self) -> Self {
        let copy = catch_unwind(AssertUnwindSafe(|| Ok(self.0.deep_clone())));
        Self(copy.unwrap_or_else(|_| self.0.clone()))
    }

    /// A matcher at the beginning of a text.
    pub(super) fn matcher(&self) -> Matcher {
        Matcher::new(Ok(self.0.clone()))
    }

    /// What they take, as their crate estimates it; 0 where the parser panicked.
    pub(super) fn num_bytes(&self) -> usize {
        let stats = catch_unwind(AssertUnwindSafe(|| Ok(self.0.parser.lexer_stats())));
        stats.map_or(0, |stats| stats.num_bytes)
    }
}

/// The state of one sequence: what was appended, and so what may follow.
pub struct GrammarState {
    matcher: Matcher,
    ending: Arc<Ending>,
    bounds: Bounds,
}

impl std::fmt::Debug for GrammarState {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("GrammarState")
            .field("is_complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

impl GrammarState {
    pub(super) fn new(matcher: Matcher, ending: Arc<Ending>, bounds: Bounds) -> Self {
        Self {
            matcher,
            ending,
            bounds,
        }
    }

    fn with(&self, matcher: Matcher) -> Self {
        Self::new(matcher, Arc::clone(&self.ending), self.bounds)
    }

    /// A state that goes on from here. It shares the automata, so that the two take turns.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.with(self.matcher.clone())
    }

    pub(super) fn into_matcher(self) -> Matcher {
        self.matcher
    }

    /// For a way to the end from here.
    pub(super) fn fuel(&self) -> Fuel {
        self.bounds.later_fuel()
    }

    pub(super) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Tokens that end a sequence.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.ending.eos_token_ids
    }

    /// Whether the text may end behind these tokens. The state is of no further use.
    pub(super) fn ends_with(&mut self, token_ids: &[u32]) -> bool {
        let consumed = self.matcher.try_consume_tokens(token_ids);
        consumed.is_ok_and(|count| count == token_ids.len()) && self.may_end().unwrap_or(false)
    }

    /// No text that goes on from here has fewer tokens: those that must follow, and one where there is a choice.
    pub(super) fn least_tokens(&self) -> usize {
        let mut state = self.fork();
        let mut count = 0;
        while count < super::MAX_SHORTEST && !state.may_end().unwrap_or(true) {
            let forced = state.forced();
            if forced.is_empty() {
                return count + 1;
            }
            for &token in &forced {
                if state.append(token).is_err() {
                    return count;
                }
                count += 1;
            }
        }
        count
    }

    /// Which tokens may come next: bit `id % 32` of word `id / 32`. Words behind the vocabulary are 0. Of a complete
    /// text only end-of-sequence tokens are left.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Stuck`]: nothing may follow, or finding out takes more work than is allowed.
    pub fn mask(&mut self, words: &mut [u32]) -> Result<(), GrammarError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(stuck)?;
        // The parser looks at the row behind a token's text itself, but not behind a token that was asked for by its id.
        let stats = self.matcher.last_step_stats();
        if stats.is_ok_and(|stats| items_per_row(stats) > 2 * self.bounds.items_per_row) {
            return Err(GrammarError::Stuck {
                problem: format!(
                    "it may be read in too many ways (more than {} items)",
                    self.bounds.items_per_row
                ),
            });
        }
        if mask.is_zero() {
            return Err(GrammarError::Stuck {
                problem: "no token fits".into(),
            });
        }
        let known = mask.as_slice();
        let shared = known.len().min(words.len());
        words[..shared].copy_from_slice(&known[..shared]);
        words[shared..].fill(0);
        Ok(())
    }

    /// Append a token.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Stuck`]: it is not allowed here. The state is of no further use.
    pub fn append(&mut self, token_id: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token_id).map_err(stuck)
    }

    /// How many of these tokens may follow, one after another. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Stuck`]: the parser reached a limit.
    pub fn num_allowed(&mut self, token_ids: &[u32]) -> Result<usize, GrammarError> {
        self.matcher.validate_tokens(token_ids).map_err(stuck)
    }

    /// Take back the last `num_tokens` tokens.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Stuck`]: there are not so many.
    pub fn rewind(&mut self, num_tokens: usize) -> Result<(), GrammarError> {
        if num_tokens == 0 {
            return Ok(());
        }
        self.matcher.rollback(num_tokens).map_err(stuck)
    }

    /// Tokens that must follow: the grammar leaves no other text, and this is how the tokenizer writes it. Empty where
    /// there is a choice. Changes nothing.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_complete() {
            return Vec::new();
        }
        self.matcher.compute_ff_tokens()
    }

    /// Whether the text is whole and nothing but an end-of-sequence token may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Stuck`]: the parser failed before.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        if self.is_complete() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(stuck)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn stuck(error: impl ToString) -> GrammarError {
    GrammarError::Stuck {
        problem: message(&error.to_string()),
    }
}
