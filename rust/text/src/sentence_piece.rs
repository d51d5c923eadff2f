//! `SentencePiece`'s BPE: characters merged by the score of the token that they make, leftmost on a tie.
//!
//! There are no words here: in principle the whole text is one. But no merge can join two characters that stand side by
//! side in no token, so the text is cut at such places first ([`Bridges`]), which changes no result and makes
//! the pieces short. Inside the tables a space is a space; `▁` is only how files write it.

use crate::error::TextError;
use crate::merge::{MergeRule, Merger, Part};
use crate::piece_index::PieceIndex;
use crate::token_table::TokenTable;

const SCORES: &str = "tokenizer.ggml.scores";

/// Priorities of all tokens, and how to write what has no token.
#[derive(Debug)]
pub(crate) struct SentencePieceModel {
    /// By id; the best score has the lowest.
    priorities: Vec<u32>,
    byte_ids: [Option<u32>; 256],
    unknown_id: Option<u32>,
    bridges: Bridges,
}

/// The pairs of bytes that stand side by side inside some token.
#[derive(Debug)]
struct Bridges(Box<[u64; 1024]>);

impl Bridges {
    fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    fn add(&mut self, token: &[u8]) {
        for pair in token.windows(2) {
            self.0[usize::from(pair[0]) * 4 + usize::from(pair[1] / 64)] |= 1 << (pair[1] % 64);
        }
    }

    fn joins(&self, left: u8, right: u8) -> bool {
        self.0[usize::from(left) * 4 + usize::from(right / 64)] >> (right % 64) & 1 == 1
    }
}

struct Scores<'a> {
    model: &'a SentencePieceModel,
    tokens: &'a TokenTable,
    pieces: &'a PieceIndex,
    text: &'a [u8],
}

impl MergeRule for Scores<'_> {
    type Tag = ();

    fn merge(&self, left: &Part<()>, right: &Part<()>) -> Option<(u32, ())> {
        let both = &self.text[left.start as usize..right.end as usize];
        let id = self.pieces.find(self.tokens, both)?;
        Some((self.model.priorities[id as usize], ()))
    }
}

impl SentencePieceModel {
    pub(crate) fn new(
        tokens: &TokenTable,
        mergeable: impl Iterator<Item = u32>,
        scores: &[f32],
        byte_ids: &[Option<u32>; 256],
        unknown_id: Option<u32>,
    ) -> Result<Self, TextError> {
        if scores.len() != tokens.len() {
            let problem = format!("{} entries for {} tokens", scores.len(), tokens.len());
            return Err(TextError::vocabulary(SCORES, problem));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(TextError::vocabulary(
                SCORES,
                format!("entry {id} is not a number"),
            ));
        }
        if unknown_id.is_none() && byte_ids.iter().any(Option::is_none) {
            let problem = "neither all 256 byte tokens (<0x00> to <0xFF>) nor an unknown token";
            return Err(TextError::vocabulary("tokenizer.ggml.tokens", problem));
        }
        let mut bridges = Bridges::new();
        for id in mergeable {
            bridges.add(tokens.bytes(id).unwrap_or_default());
        }
        Ok(Self {
            priorities: scores.iter().copied().map(priority).collect(),
            byte_ids: *byte_ids,
            unknown_id,
            bridges,
        })
    }

    /// Append the ids of `text`, in which `▁` has been replaced by a space.
    pub(crate) fn encode(
        &self,
        tokens: &TokenTable,
        pieces: &PieceIndex,
        text: &str,
        ids: &mut Vec<u32>,
    ) {
        let text = text.as_bytes();
        let rule = Scores {
            model: self,
            tokens,
            pieces,
            text,
        };
        let mut merger = Merger::new();
        let mut start = 0;
        while start < text.len() {
            let end = self.push_piece(text, start, &mut merger.parts);
            merger.run(&rule);
            for part in merger.parts.drain(..) {
                let bytes = &text[part.start as usize..part.end as usize];
                match pieces.find(tokens, bytes) {
                    Some(id) => ids.push(id),
                    None => self.push_unknown(bytes, ids),
                }
            }
            start = end;
        }
    }

    /// Make parts of the characters from `start` to the first place where no token can bridge; returns that place.
    fn push_piece(&self, text: &[u8], start: usize, parts: &mut Vec<Part<()>>) -> usize {
        let mut begin = start;
        loop {
            let mut end = begin + 1;
            while text.get(end).is_some_and(|&byte| byte & 0xC0 == 0x80) {
                end += 1;
            }
            parts.push(Part {
                start: to_u32(begin),
                end: to_u32(end),
                tag: (),
            });
            if end == text.len() || !self.bridges.joins(text[end - 1], text[end]) {
                return end;
            }
            begin = end;
        }
    }

    /// A character that no token holds, as byte tokens if there are all that it needs, else as the unknown token.
    fn push_unknown(&self, bytes: &[u8], ids: &mut Vec<u32>) {
        let length = ids.len();
        ids.extend(
            bytes
                .iter()
                .map_while(|&byte| self.byte_ids[usize::from(byte)]),
        );
        if ids.len() < length + bytes.len() {
            ids.truncate(length);
            ids.extend(self.unknown_id);
        }
    }
}

/// Scores as integers in the opposite order.
fn priority(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0.0 + 0.0 is 0.0
    let ascending = if score.is_sign_negative() && score != 0.0 {
        !bits
    } else {
        bits | 0x8000_0000
    };
    !ascending
}

fn to_u32(place: usize) -> u32 {
    u32::try_from(place).expect("texts are shorter than MAX_TEXT_BYTES, which fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_score_goes_first() {
        let scores = [
            f32::INFINITY,
            3.5,
            1.0,
            1e-30,
            0.0,
            -1e-30,
            -1.0,
            -255_504.0,
            f32::NEG_INFINITY,
        ];
        assert!(
            scores
                .map(priority)
                .is_sorted_by(|left, right| left < right)
        );
        assert_eq!(priority(0.0), priority(-0.0));
    }

    #[test]
    fn bridges_are_the_inner_pairs_of_tokens() {
        let mut bridges = Bridges::new();
        bridges.add(b"abc");
        bridges.add(&[0xFF, 0x00]);
        assert!(bridges.joins(b'a', b'b') && bridges.joins(b'b', b'c') && bridges.joins(0xFF, 0));
        assert!(
            !bridges.joins(b'c', b'a') && !bridges.joins(b'b', b'a') && !bridges.joins(0, 0xFF)
        );
    }
}
