//! The grammars of all running sequences that have one: their masks for a step, and what the step appended.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;

use super::guard::{Fit, Guard, Limit};
use super::state::Automata;
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

/// How far a sequence may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceLimit {
    /// Most tokens of it.
    pub max_tokens: usize,
    /// Whether its text is closed before they run out. Not where something else forbids tokens.
    pub closes: bool,
    /// Whether tokens that must follow are told beforehand: [`GrammarStates::forced`].
    pub forces: bool,
}

/// A sequence whose text is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// Which.
    pub key: u64,
    /// With which of its tokens. Those behind it, which the same step may bring, are none of the text's.
    pub num_output_tokens: usize,
    /// Whether it was closed on request: [`GrammarStates::close`].
    pub was_closed: bool,
}

/// States by sequence, under keys that callers choose.
#[derive(Debug)]
pub struct GrammarStates {
    vocab_size: usize,
    max_bytes: usize,
    sequences: HashMap<u64, Sequence>,
}

#[derive(Debug)]
struct Sequence {
    grammar: Grammar,
    /// Its own, once it runs; a sequence that waits has the grammar's.
    automata: Option<Automata>,
    /// Of its own automata, with the tokens appended so far.
    num_bytes: usize,
    state: GrammarState,
    num_output_tokens: usize,
    limit: SequenceLimit,
    guard: Guard,
    /// What the latest masks draw must be looked at.
    is_guarded: bool,
    failure: Option<GrammarError>,
}

impl GrammarStates {
    /// For masks of `vocab_size` bits. The automata of all sequences take `max_bytes` and no more than a step adds to
    /// them: where they do, the sequence with the largest ones fails.
    #[must_use]
    pub fn new(vocab_size: usize, max_bytes: usize) -> Self {
        Self {
            vocab_size,
            max_bytes,
            sequences: HashMap::new(),
        }
    }

    /// Bits of a mask.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
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
    pub fn insert(
        &mut self,
        key: u64,
        grammar: &Grammar,
        limit: SequenceLimit,
    ) -> Result<(), TextError> {
        let sequence = Sequence {
            grammar: grammar.clone(),
            automata: None,
            num_bytes: 0,
            state: grammar.state(grammar.automata()),
            num_output_tokens: 0,
            limit,
            guard: Guard::new(limit.max_tokens, grammar.shortest(), limit.closes),
            is_guarded: false,
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
        for group in groups(rows) {
            if let Some(sequence) = self.sequences.get_mut(&rows[group.start].key) {
                sequence.begin();
            }
        }
        self.bound_bytes();
        let words = self.mask_words();
        let mut masks = vec![None; rows.len()];
        for group in groups(rows) {
            let Some(sequence) = self.sequences.get_mut(&rows[group.start].key) else {
                continue;
            };
            sequence.is_guarded = false;
            let mut guard = None;
            let mut num_drafted = 0;
            for row in group.clone() {
                sequence.check(rows[row].num_output_tokens);
                let mut mask = vec![0; words];
                let limit = sequence.mask(&mut mask);
                if row == group.start && group.len() > 1 {
                    guard = Some(sequence.guard.clone());
                }
                let next = if row + 1 < group.end {
                    draft(row)
                } else {
                    None
                };
                let next = next.filter(|&token| is_set(&mask, token));
                sequence.is_guarded |= limit == Limit::Guarded;
                // One that does not fit stays in the mask: it is refused once it is drawn, as if nobody had drafted it.
                let goes_on = next.is_some_and(|token| {
                    let fits = limit != Limit::Guarded || sequence.fit(token) == Fit::Fits;
                    fits && sequence.try_append(token)
                });
                masks[row] = Some(mask.into());
                if !goes_on {
                    break;
                }
                num_drafted += 1;
            }
            sequence.take_back(num_drafted);
            if let Some(guard) = guard {
                sequence.guard = guard;
            }
        }
        masks
    }

    /// Whether what the latest masks draw must be looked at: [`GrammarStates::refused`].
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.sequences.values().any(|sequence| sequence.is_guarded)
    }

    /// The rows whose drawn tokens must not be appended, since the text could not end in time behind them. They are
    /// drawn once more: the next masks forbid these tokens. Arguments as for the latest [`GrammarStates::masks`], and
    /// the tokens that were drawn.
    pub fn refused(
        &mut self,
        rows: &[MaskedRow],
        draft: impl Fn(usize) -> Option<i32>,
        drawn: impl Fn(usize) -> Option<i32>,
    ) -> Vec<usize> {
        let mut refused = Vec::new();
        for group in groups(rows) {
            let Some(sequence) = self.sequences.get_mut(&rows[group.start].key) else {
                continue;
            };
            if !std::mem::take(&mut sequence.is_guarded) || sequence.failure.is_some() {
                continue;
            }
            let mut guard = sequence.guard.clone();
            let mut num_drafted = 0;
            for row in group.clone() {
                let Some(token) = drawn(row) else {
                    break;
                };
                let fit = match sequence.limit() {
                    Limit::Guarded => sequence.fit(token),
                    Limit::Free | Limit::Only(_) => Fit::Fits,
                };
                if fit != Fit::Fits {
                    refused.push(row);
                    guard.refuse(sequence.num_output_tokens, token.cast_unsigned(), fit);
                    break;
                }
                let is_drafted = row + 1 < group.end && draft(row) == Some(token);
                if !is_drafted {
                    // What was found out about the way behind this token is still of use.
                    if num_drafted == 0 {
                        guard = sequence.guard.clone();
                    }
                    break;
                }
                if !sequence.try_append(token) {
                    break;
                }
                num_drafted += 1;
            }
            sequence.take_back(num_drafted);
            sequence.guard = guard;
        }
        refused
    }

    /// The tokens that a step appended to sequences; keys without a grammar are passed over. Returns those whose text is
    /// now whole, once each, in the order of the tokens.
    pub fn append(&mut self, keys: &[u64], token_ids: &[i32]) -> Vec<Complete> {
        let mut complete: Vec<Complete> = Vec::new();
        for (&key, &token) in keys.iter().zip(token_ids) {
            let Some(sequence) = self.sequences.get_mut(&key) else {
                continue;
            };
            sequence.begin();
            sequence.append(token);
            sequence.count_bytes();
            if sequence.is_complete() && complete.iter().all(|each| each.key != key) {
                complete.push(Complete {
                    key,
                    num_output_tokens: sequence.num_output_tokens,
                    was_closed: sequence.guard.is_closing,
                });
            }
        }
        complete
    }

    /// Bytes of the automata of all sequences that have not failed.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        let sequences = self.sequences.values();
        let living = sequences.filter(|sequence| sequence.failure.is_none());
        living.map(|sequence| sequence.num_bytes).sum()
    }

    fn bound_bytes(&mut self) {
        while self.num_bytes() > self.max_bytes {
            let sequences = self.sequences.iter_mut();
            let living = sequences.filter(|(_, sequence)| sequence.failure.is_none());
            let Some((_, largest)) =
                living.max_by_key(|(key, sequence)| (sequence.num_bytes, **key))
            else {
                return;
            };
            largest.failure = Some(GrammarError::Stuck {
                problem: format!(
                    "its automata are the largest of those that take more than {} bytes together",
                    self.max_bytes
                ),
            });
        }
    }

    /// Start again with these output tokens: what was appended meanwhile is unknown.
    pub fn rebuild(&mut self, key: u64, token_ids: &[i32]) {
        if let Some(sequence) = self.sequences.get_mut(&key) {
            if !token_ids.is_empty() {
                sequence.begin();
            }
            sequence.restart();
            sequence.num_output_tokens = 0;
            sequence.failure = None;
            let SequenceLimit {
                max_tokens, closes, ..
            } = sequence.limit;
            let fresh = Guard::new(max_tokens, sequence.grammar.shortest(), closes);
            let interrupted = std::mem::replace(&mut sequence.guard, fresh);
            for &token in token_ids {
                sequence.append(token);
            }
            sequence.guard.resume(interrupted);
        }
    }

    /// End a text by a short way from now on. How many tokens that takes; `None` if it cannot be done.
    pub fn close(&mut self, key: u64) -> Option<usize> {
        let sequence = self.sequences.get_mut(&key)?;
        if sequence.failure.is_some() {
            return None;
        }
        sequence.guard.is_closing = true;
        let _ = sequence.limit();
        let is_closing = sequence.guard.is_closing;
        let rest = sequence.guard.rest().filter(|_| is_closing);
        rest.map(<[u32]>::len)
    }

    /// Whether a text is being ended by [`GrammarStates::close`].
    #[must_use]
    pub fn is_closing(&self, key: u64) -> bool {
        let sequence = self.sequences.get(&key);
        sequence.is_some_and(|sequence| sequence.guard.is_closing)
    }

    /// Tokens that must follow in this sequence: the grammar or its limit leaves no other, see [`GrammarState::forced`].
    pub fn forced(&mut self, key: u64) -> Vec<i32> {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return Vec::new();
        };
        if !sequence.limit.forces || sequence.failure.is_some() {
            return Vec::new();
        }
        let forced = match sequence.limit() {
            Limit::Only(_) => sequence.guard.rest().unwrap_or_default().to_vec(),
            Limit::Free | Limit::Guarded => sequence.state.forced(),
        };
        forced.into_iter().map(u32::cast_signed).collect()
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
    /// It runs from now on.
    fn begin(&mut self) {
        if self.automata.is_none() {
            self.automata = Some(self.grammar.automata().separate());
            self.restart();
            self.count_bytes();
        }
    }

    fn restart(&mut self) {
        let automata = self.automata.as_ref();
        let automata = automata.unwrap_or_else(|| self.grammar.automata());
        self.state = self.grammar.state(automata);
    }

    fn count_bytes(&mut self) {
        self.num_bytes = self.automata.as_ref().map_or(0, Automata::num_bytes);
    }

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
        let is_closed = self.guard.is_closing && self.guard.rest() == Some(&[]);
        self.failure.is_none() && (self.state.is_complete() || is_closed)
    }

    fn limit(&mut self) -> Limit {
        self.guard.look(&mut self.state, self.num_output_tokens)
    }

    fn fit(&mut self, token: i32) -> Fit {
        let token = token.cast_unsigned();
        self.guard.fit(&self.state, self.num_output_tokens, token)
    }

    /// All zero if nothing may follow.
    fn mask(&mut self, words: &mut [u32]) -> Limit {
        if self.failure.is_none()
            && let Err(error) = self.state.mask(words)
        {
            self.failure = Some(error);
        }
        if self.failure.is_some() {
            words.fill(0);
            return Limit::Free;
        }
        let limit = self.limit();
        match limit {
            Limit::Free => {}
            Limit::Guarded => {
                for &token in self.guard.refused(self.num_output_tokens) {
                    clear(words, token);
                }
            }
            Limit::Only(token) => {
                words.fill(0);
                if let Some(word) = words.get_mut(token as usize / 32) {
                    *word = 1 << (token % 32);
                }
            }
        }
        limit
    }

    fn append(&mut self, token: i32) {
        // Behind the end there are only end-of-sequence tokens.
        if self.failure.is_some() || self.state.is_complete() {
            self.num_output_tokens += 1;
            return;
        }
        // At every place, a step's first row or a draft's: what is known of the end depends on the text alone.
        self.limit();
        self.num_output_tokens += 1;
        self.guard.append(token.cast_unsigned());
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

/// Runs of rows of one sequence.
fn groups(rows: &[MaskedRow]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let key = rows.get(start)?.key;
        let behind = rows[start..].iter().position(|row| row.key != key);
        let group = start..behind.map_or(rows.len(), |count| start + count);
        start = group.end;
        Some(group)
    })
}

fn clear(words: &mut [u32], token: u32) {
    if let Some(word) = words.get_mut(token as usize / 32) {
        *word &= !(1 << (token % 32));
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

#[cfg(test)]
mod tests;
