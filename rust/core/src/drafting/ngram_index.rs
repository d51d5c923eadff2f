//! Where the last tokens of a growing sequence occurred before: a hash table per length of the run.
//!
//! Built as tokens arrive, constant time each, and asked once per step; nothing is scanned. A table holds positions
//! only: the sequence's own tokens tell whether a position is right, so a collision costs a probe, never a wrong match.
//! Memory is fixed at `reset`: 8 to 16 bytes per token and length, up to 256 KiB per length; beyond, and after
//! [`MAX_PROBES`] collisions, older positions make room for newer ones.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use super::MAX_LOOKUP;
use crate::kv_cache::TokenView;

/// Most tokens that every table has places for.
const MAX_INDEXED: usize = 1 << 15;

/// Places that are looked at for one run.
const MAX_PROBES: usize = 16;

/// The position that follows a run, never 0.
type Place = Option<NonZeroU32>;

/// Where the last tokens occurred before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Of the token that followed.
    pub(super) position: usize,
    /// Tokens in front of it that equal the sequence's last ones; the longest length asked for that has a match.
    pub(super) match_len: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct NgramIndex {
    min_len: usize,
    max_len: usize,
    /// Places per table are `1 << bits`.
    bits: u32,
    /// A table per length, the shortest first. May be longer than what is in use.
    places: Vec<Place>,
    /// Runs that end before this position are indexed.
    next: usize,
}

impl NgramIndex {
    /// Forget everything; index runs of `lengths` tokens of a sequence of at most `max_tokens`.
    pub(super) fn reset(&mut self, lengths: RangeInclusive<usize>, max_tokens: usize) {
        (self.min_len, self.max_len) = (*lengths.start(), *lengths.end());
        debug_assert!(1 <= self.min_len && self.min_len <= self.max_len);
        debug_assert!(self.max_len <= MAX_LOOKUP);
        self.bits = (2 * max_tokens.clamp(1, MAX_INDEXED))
            .next_power_of_two()
            .ilog2();
        self.next = 1;
        let needed = (self.max_len + 1 - self.min_len) << self.bits;
        if self.places.len() < needed {
            self.places = vec![None; needed];
        } else {
            self.places[..needed].fill(None);
        }
    }

    /// Index at most `most` further positions of a sequence that has only grown; whether that was all.
    pub(super) fn extend(&mut self, tokens: TokenView<'_>, most: usize) -> bool {
        let end = tokens.len().min(self.next.saturating_add(most));
        for position in self.next..end {
            self.insert(tokens, position);
        }
        self.next = self.next.max(end);
        self.next >= tokens.len()
    }

    /// The latest position whose preceding tokens equal the sequence's last ones: the longest run counts.
    pub(super) fn lookup(&self, tokens: TokenView<'_>) -> Option<Found> {
        let end = tokens.len();
        let hashes = self.hashes(tokens, end);
        let lengths = self.min_len..=self.max_len.min(end);
        lengths.rev().find_map(|match_len| {
            Some(Found {
                position: self.find(tokens, match_len, hashes[match_len - 1])?,
                match_len,
            })
        })
    }

    /// The same for runs of `len` tokens.
    fn find(&self, tokens: TokenView<'_>, len: usize, hash: u64) -> Option<usize> {
        for at in self.probes(len, hash) {
            let found = position(self.places[at]?);
            if is_equal(tokens, found, tokens.len(), len) {
                return Some(found);
            }
        }
        None
    }

    /// Remember the runs that end before `end`, which is not the sequence's end.
    fn insert(&mut self, tokens: TokenView<'_>, end: usize) {
        let Some(new) = u32::try_from(end).ok().and_then(NonZeroU32::new) else {
            return;
        };
        let hashes = self.hashes(tokens, end);
        for len in self.min_len..=self.max_len.min(end) {
            let mut oldest = None;
            for at in self.probes(len, hashes[len - 1]) {
                let place = self.places[at];
                if place.is_none_or(|place| is_equal(tokens, position(place), end, len)) {
                    oldest = Some((place, at));
                    break;
                }
                if oldest.is_none_or(|(found, _)| place < found) {
                    oldest = Some((place, at));
                }
            }
            if let Some((_, at)) = oldest {
                self.places[at] = Some(new);
            }
        }
    }

    /// Where a run of `len` tokens may be.
    fn probes(&self, len: usize, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let table = (len - self.min_len) << self.bits;
        let mask = (1 << self.bits) - 1;
        #[expect(clippy::cast_possible_truncation, reason = "below 1 << bits")]
        let first = (hash >> (64 - self.bits)) as usize;
        (first..first + MAX_PROBES).map(move |at| table + (at & mask))
    }

    /// Hashes of the runs of 1, 2 … tokens in front of `end`, as many as there are tables for.
    fn hashes(&self, tokens: TokenView<'_>, end: usize) -> [u64; MAX_LOOKUP] {
        let mut hashes = [0; MAX_LOOKUP];
        let mut hash = 0_u64;
        for (back, place) in hashes.iter_mut().enumerate().take(self.max_len.min(end)) {
            let token = tokens.get(end - 1 - back).unwrap_or(0);
            hash = (hash.rotate_left(5) ^ u64::from(token.cast_unsigned()))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *place = hash;
        }
        hashes
    }
}

fn position(place: NonZeroU32) -> usize {
    place.get() as usize
}

/// Whether the `len` tokens in front of `a` and of `b` are equal.
fn is_equal(tokens: TokenView<'_>, a: usize, b: usize, len: usize) -> bool {
    a >= len && (1..=len).all(|back| tokens.get(a - back) == tokens.get(b - back))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(tokens: &[i32], lengths: RangeInclusive<usize>) -> Option<Found> {
        let end = tokens.len();
        lengths.rev().filter(|&len| len <= end).find_map(|len| {
            let last = &tokens[end - len..];
            let position = (len..end).rev().find(|&at| tokens[at - len..at] == *last)?;
            Some(Found {
                position,
                match_len: len,
            })
        })
    }

    proptest! {
        #[test]
        fn every_growing_sequence_is_matched_as_by_a_scan(
            tokens in (1..12_i32).prop_flat_map(|vocab| prop::collection::vec(0..vocab, 1..120)),
            num_prompt in 0..120_usize,
            min in 1..4_usize,
            more in 0..5_usize,
            most in 1..40_usize,
        ) {
            let lengths = min..=(min + more);
            let mut index = NgramIndex::default();
            for _ in 0..2 { // the second time in used memory
                index.reset(lengths.clone(), tokens.len());
                for count in 1..=tokens.len() {
                    let (prompt, output) = tokens[..count].split_at(num_prompt.min(count));
                    let view = TokenView { prompt, output };
                    while !index.extend(view, most) {}
                    prop_assert_eq!(index.lookup(view), naive(&tokens[..count], lengths.clone()));
                }
            }
        }
    }

    #[test]
    fn a_sequence_longer_than_the_tables_finds_what_is_recent() {
        let count = 5 * MAX_INDEXED;
        let mut tokens: Vec<i32> = (0..).take(count).collect();
        let recent = count - 1000;
        tokens.extend_from_within(recent..recent + 3);
        let view = TokenView {
            prompt: &tokens,
            output: &[],
        };
        let mut index = NgramIndex::default();
        index.reset(2..=3, usize::MAX);
        assert_eq!(index.places.len(), 2 << 16);
        assert!(index.extend(view, usize::MAX));
        assert_eq!(
            index.lookup(view),
            Some(Found {
                position: recent + 3,
                match_len: 3
            })
        );
    }

    #[test]
    fn tokens_of_equal_hashes_cost_probes_and_no_wrong_match() {
        // One table of two places: all runs collide.
        let mut index = NgramIndex::default();
        index.reset(1..=1, 1);
        for tokens in [&[1, 2, 3, 4, 5, 6, 7][..], &[1, 2, 3, 1, 2, 3, 4]] {
            let view = TokenView {
                prompt: tokens,
                output: &[],
            };
            index.reset(1..=1, 1);
            assert!(index.extend(view, 100));
            let found = index.lookup(view);
            assert!(found.is_none_or(|found| found == naive(tokens, 1..=1).unwrap()));
        }
    }
}
