//! What repeats itself: `no_repeat_ngram_size` and DRY, from the tokens so far.
//!
//! Sources: Paulus et al. 2017 (no repeated n-grams; the form is Hugging Face's); p-e-w 2024 (DRY, text-generation-webui
//! #5677).

use inferlib_program::{Dry, SamplingParams};

/// A penalty grows no further than to this.
const LARGEST_PENALTY: f32 = 1e30;

/// Scratch: by place in the reversed tokens, how many of them are as at the beginning.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    reversed: Vec<i32>,
    lengths: Vec<usize>,
    /// Longest match by token, `[number of distinct ones]`, ascending by token.
    matches: Vec<(i32, usize)>,
}

/// Whether any of these is asked for.
pub(super) fn are_wanted(params: &SamplingParams) -> bool {
    params.no_repeat_ngram_size > 0 || params.dry.is_some()
}

/// Tokens that would complete a run of `size` tokens that was there before.
pub(super) fn completions(history: &[i32], size: usize) -> impl Iterator<Item = i32> {
    let prefix_len = size.saturating_sub(1).min(history.len());
    let prefix = &history[history.len() - prefix_len..];
    let is_possible = size > 0 && history.len() >= size;
    history
        .windows(size.max(1))
        .filter(move |run| is_possible && run[..run.len() - 1] == *prefix)
        .map(|run| run[run.len() - 1])
}

impl Repeats {
    /// DRY's penalties: tokens and what their logits lose, ascending by token.
    ///
    /// The last tokens also stand earlier; the longer that match, the more does the token lose that followed it there:
    /// `multiplier · base^(length - allowed_length)`, from `allowed_length` on. A match holds no breaker.
    pub(super) fn penalties(
        &mut self,
        history: &[i32],
        dry: &Dry,
    ) -> impl Iterator<Item = (i32, f32)> {
        let start = dry
            .last_n
            .map_or(0, |last| history.len().saturating_sub(last as usize));
        self.find_matches(&history[start..], &dry.breaker_ids);
        let (multiplier, base) = (dry.multiplier, dry.base);
        let allowed = dry.allowed_length as usize;
        self.matches
            .iter()
            .filter(move |(_, length)| *length >= allowed)
            .map(move |&(token, length)| (token, penalty(multiplier, base, length - allowed)))
    }

    fn find_matches(&mut self, tokens: &[i32], breakers: &[i32]) {
        self.matches.clear();
        self.reversed.clear();
        self.reversed.extend(tokens.iter().rev());
        let is_breaker = |token: &i32| breakers.binary_search(token).is_ok();
        let most = self.reversed.iter().position(is_breaker);
        let most = most.unwrap_or(self.reversed.len());
        if most == 0 {
            return;
        }
        self.match_with_beginning();
        // A match at `place` of the reversed tokens was followed by the token in front of it.
        for place in 1..self.reversed.len() {
            let length = self.lengths[place].min(most);
            if length > 0 {
                self.matches.push((self.reversed[place - 1], length));
            }
        }
        self.matches
            .sort_unstable_by_key(|&(token, length)| (token, std::cmp::Reverse(length)));
        self.matches.dedup_by_key(|&mut (token, _)| token);
    }

    /// The Z function, in linear time (Gusfield 1997).
    fn match_with_beginning(&mut self) {
        let tokens = &self.reversed;
        self.lengths.clear();
        self.lengths.resize(tokens.len(), 0);
        let (mut left, mut right) = (0, 0);
        for place in 1..tokens.len() {
            let mut length = if place < right {
                self.lengths[place - left].min(right - place)
            } else {
                0
            };
            while tokens
                .get(place + length)
                .is_some_and(|token| *token == tokens[length])
            {
                length += 1;
            }
            self.lengths[place] = length;
            if place + length > right {
                (left, right) = (place, place + length);
            }
        }
    }
}

/// By multiplications, so that it is the same everywhere.
fn penalty(multiplier: f32, base: f32, exponent: usize) -> f32 {
    let mut penalty = multiplier;
    for _ in 0..exponent {
        if penalty >= LARGEST_PENALTY || base <= 1.0 {
            break;
        }
        penalty *= base;
    }
    penalty.min(LARGEST_PENALTY)
}
