//! The grammars of all running sequences that have one: their masks for a step, and what the step appended.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Grammar, GrammarError, GrammarState};
use crate::error::TextError;

/// A row of logits that may be masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedRow {
    /// The sequence.
    pub key: u64,
    /// Its output tokens in front of the one that the row draws, drafted ones included.
    pub num_output_tokens: usize,
}

/// States by sequence, under keys that callers choose.
#[derive(Debug)]
pub struct GrammarStates {
    vocab_size: usize,
    sequences: HashMap<u64, Sequence>,
}

#[derive(Debug)]
struct Sequence {
    /// As it began, for `rebuild`.
    start: GrammarState,
    state: GrammarState,
    num_output_tokens: usize,
    failure: Option<GrammarError>,
}

impl GrammarStates {
    /// For masks of `vocab_size` bits.
    #[must_use]
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            sequences: HashMap::new(),
        }
    }

    /// Words of a mask.
    #[must_use]
    pub fn mask_words(&self) -> usize {
        self.vocab_size.div_ceil(32)
    }

    /// A sequence without output begins.
    ///
    /// # Errors
    ///
    /// [`TextError::DuplicateStream`]: the key is taken.
    pub fn insert(&mut self, key: u64, grammar: &Grammar) -> Result<(), TextError> {
        let start = grammar.start();
        let sequence = Sequence {
            state: start.fork(),
            start,
            num_output_tokens: 0,
            failure: None,
        };
        match self.sequences.try_insert(key, sequence) {
            Ok(_) => Ok(()),
            Err(_) => Err(TextError::DuplicateStream { key }),
        }
    }

    /// The masks of rows of logits; `None` for those whose sequence has no grammar.
    ///
    /// Rows of one sequence follow one another. `draft(i)` is the drafted token behind row `i`, if the next row draws
    /// what follows it. A draft that the grammar does not allow will not be accepted, so the rows behind it get no mask:
    /// nobody looks at them. A sequence that failed allows nothing.
    pub fn masks(
        &mut self,
        rows: &[MaskedRow],
        draft: impl Fn(usize) -> Option<i32>,
    ) -> Vec<Option<Arc<[u32]>>> {
        let words = self.mask_words();
        let mut masks = vec![None; rows.len()];
        let mut first = 0;
        while first < rows.len() {
            let key = rows[first].key;
            let behind = rows[first..].iter().position(|row| row.key != key);
            let end = behind.map_or(rows.len(), |count| first + count);
            if let Some(sequence) = self.sequences.get_mut(&key) {
                let mut num_drafted = 0;
                for row in first..end {
                    sequence.check(rows[row].num_output_tokens);
                    let mut mask = vec![0; words];
                    sequence.mask(&mut mask);
                    let next = if row + 1 < end { draft(row) } else { None };
                    let goes_on = next
                        .is_some_and(|token| is_set(&mask, token) && sequence.try_append(token));
                    masks[row] = Some(mask.into());
                    if !goes_on {
                        break;
                    }
                    num_drafted += 1;
                }
                sequence.take_back(num_drafted);
            }
            first = end;
        }
        masks
    }

    /// The tokens that a step appended to sequences; keys without a grammar are passed over. Returns the keys whose text
    /// is now whole, once each, in the order of the tokens.
    pub fn append(&mut self, keys: &[u64], token_ids: &[i32]) -> Vec<u64> {
        let mut complete = Vec::new();
        for (&key, &token) in keys.iter().zip(token_ids) {
            let Some(sequence) = self.sequences.get_mut(&key) else {
                continue;
            };
            sequence.append(token);
            if sequence.is_complete() && !complete.contains(&key) {
                complete.push(key);
            }
        }
        complete
    }

    /// Start again with these output tokens: what was appended meanwhile is unknown.
    pub fn rebuild(&mut self, key: u64, token_ids: &[i32]) {
        if let Some(sequence) = self.sequences.get_mut(&key) {
            sequence.state = sequence.start.fork();
            sequence.num_output_tokens = 0;
            sequence.failure = None;
            for &token in token_ids {
                sequence.append(token);
            }
        }
    }

    /// Tokens that must follow in this sequence, see [`GrammarState::forced`].
    pub fn forced(&mut self, key: u64) -> Vec<u32> {
        match self.sequences.get_mut(&key) {
            Some(sequence) if sequence.failure.is_none() => sequence.state.forced(),
            _ => Vec::new(),
        }
    }

    /// Whether the sequence has a grammar and its text is whole.
    #[must_use]
    pub fn is_complete(&self, key: u64) -> bool {
        self.sequences.get(&key).is_some_and(Sequence::is_complete)
    }

    /// Why a sequence cannot go on.
    #[must_use]
    pub fn failure(&self, key: u64) -> Option<&GrammarError> {
        self.sequences.get(&key)?.failure.as_ref()
    }

    /// A sequence is over; false if it had no grammar.
    pub fn remove(&mut self, key: u64) -> bool {
        self.sequences.remove(&key).is_some()
    }

    /// How many sequences have a grammar.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

impl Sequence {
    /// A state that is not the sequence's must not mask it.
    fn check(&mut self, num_output_tokens: usize) {
        if num_output_tokens != self.num_output_tokens && self.failure.is_none() {
            self.failure = Some(GrammarError::Stuck {
                problem: format!(
                    "{} tokens are known, not {num_output_tokens}",
                    self.num_output_tokens
                ),
            });
        }
    }

    fn is_complete(&self) -> bool {
        self.failure.is_none() && self.state.is_complete()
    }

    /// All zero if nothing may follow.
    fn mask(&mut self, words: &mut [u32]) {
        if self.failure.is_none()
            && let Err(error) = self.state.mask(words)
        {
            self.failure = Some(error);
        }
        if self.failure.is_some() {
            words.fill(0);
        }
    }

    fn append(&mut self, token: i32) {
        self.num_output_tokens += 1;
        // Behind the end there are only end-of-sequence tokens.
        if self.failure.is_some() || self.state.is_complete() {
            return;
        }
        if let Err(error) = self.state.append(token.cast_unsigned()) {
            self.failure = Some(error);
        }
    }

    /// A drafted token; false if nothing can be known about what follows it.
    fn try_append(&mut self, token: i32) -> bool {
        if self.state.is_complete() {
            return false;
        }
        self.append(token);
        self.failure.is_none()
    }

    fn take_back(&mut self, num_tokens: usize) {
        if num_tokens == 0 {
            return;
        }
        self.num_output_tokens -= num_tokens;
        if self.failure.is_none()
            && let Err(error) = self.state.rewind(num_tokens)
        {
            self.failure = Some(error);
        }
    }
}

fn is_set(words: &[u32], token: i32) -> bool {
    usize::try_from(token)
        .ok()
        .and_then(|token| {
            words
                .get(token / 32)
                .map(|word| word >> (token % 32) & 1 == 1)
        })
        .unwrap_or(false)
}
