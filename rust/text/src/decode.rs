//! Token ids to text, one token at a time; decoding a whole list is the same steps in a loop.
//!
//! Cost per token: one table look-up and a copy of its bytes. Nothing is decoded twice.

use std::sync::Arc;

use crate::error::TextError;
use crate::token_table::{LeadingSpace, TokenTable};
use crate::tokenizer::Tokenizer;

/// The state between two tokens: the beginning of a character whose end has not come yet.
#[derive(Debug, Clone)]
pub(crate) struct DecodeState {
    skip_special: bool,
    at_start: bool,
    /// At most three bytes, always a prefix of some character's UTF-8.
    pending: Vec<u8>,
}

impl DecodeState {
    pub(crate) fn new(skip_special: bool, at_start: bool) -> Self {
        Self {
            skip_special,
            at_start,
            pending: Vec::with_capacity(4),
        }
    }

    /// Append the text that became certain with `id` to `out`.
    pub(crate) fn push(
        &mut self,
        table: &TokenTable,
        id: u32,
        out: &mut String,
    ) -> Result<(), TextError> {
        let bytes = table.bytes(id).ok_or_else(|| table.unknown_id(id))?;
        if self.skip_special && table.is_special(id) {
            return Ok(());
        }
        if self.at_start {
            self.push_first(table.leading_space, bytes, out);
        } else {
            self.push_bytes(bytes, out);
        }
        Ok(())
    }

    /// What the pending bytes are worth if nothing follows: one replacement character, or nothing.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn push_first(&mut self, leading_space: LeadingSpace, bytes: &[u8], out: &mut String) {
        match leading_space {
            LeadingSpace::Keep => self.push_bytes(bytes, out),
            LeadingSpace::DropOne => {
                self.push_bytes(bytes.strip_prefix(b" ").unwrap_or(bytes), out);
            }
            LeadingSpace::DropFromFirstToken => {
                let kept: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != b' ').collect();
                self.push_bytes(&kept, out);
            }
        }
        // A token without bytes is not the beginning of the text, except for `Metaspace`, which counts tokens.
        self.at_start = bytes.is_empty() && leading_space == LeadingSpace::DropOne;
    }

    /// Append the complete characters of `pending + bytes`; what no character begins with becomes U+FFFD, one per
    /// maximal part, as in [`String::from_utf8_lossy`]. The beginning of a character stays pending.
    fn push_bytes(&mut self, bytes: &[u8], out: &mut String) {
        let mut bytes = bytes;
        while !self.pending.is_empty() {
            let Some((&byte, rest)) = bytes.split_first() else {
                return;
            };
            self.pending.push(byte);
            match std::str::from_utf8(&self.pending) {
                Ok(character) => {
                    out.push_str(character);
                    self.pending.clear();
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => bytes = rest,
                // `byte` cannot continue the character: it is looked at again, as the first of what follows.
                Err(_) => {
                    self.pending.clear();
                    out.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        for chunk in bytes.utf8_chunks() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let is_incomplete =
                std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            // Only the last chunk can be incomplete: a broken sequence has an error length.
            if is_incomplete && ends_with(bytes, invalid) {
                self.pending.extend_from_slice(invalid);
            } else {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

/// Whether `part`, a slice of `bytes`, is its end.
fn ends_with(bytes: &[u8], part: &[u8]) -> bool {
    std::ptr::eq(bytes.as_ptr_range().end, part.as_ptr_range().end)
}

/// Decodes one sequence of tokens as it grows.
///
/// What [`push`](Self::push) and [`finish`](Self::finish) return, put together, is what [`Tokenizer::decode`] makes of
/// all the ids; no piece ends inside a character.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    state: DecodeState,
}

impl DecodeStream {
    /// A stream whose first token begins the text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            state: DecodeState::new(skip_special, true),
        }
    }

    /// A stream whose text goes on after other text (a prompt): a leading space stays.
    #[must_use]
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            state: DecodeState::new(skip_special, false),
        }
    }

    /// Decode one more token; returns the text that is certain now and was not before.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let mut text = String::new();
        self.push_to(id, &mut text)?;
        Ok(text)
    }

    /// [`push`](Self::push) onto the end of `out`.
    pub fn push_to(&mut self, id: u32, out: &mut String) -> Result<(), TextError> {
        self.state.push(self.tokenizer.table(), id, out)
    }

    /// End the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.state.finish(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_table::TokenKind;
    use proptest::prelude::*;

    /// Byte strings that are often almost UTF-8.
    fn token() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..6),
            "[ a-z€🙂é]{0,4}".prop_map(String::into_bytes),
            ("[€🙂é]", 0..4usize).prop_map(|(text, cut)| text
                .into_bytes()
                .into_iter()
                .skip(cut)
                .collect()),
            ("[€🙂é]", 0..4usize).prop_map(|(text, keep)| text
                .into_bytes()
                .into_iter()
                .take(keep)
                .collect()),
        ]
    }

    fn table(tokens: &[Vec<u8>], leading_space: LeadingSpace) -> TokenTable {
        let mut table = TokenTable::with_capacity(tokens.len(), leading_space);
        for token in tokens {
            table
                .push(|out| {
                    out.extend_from_slice(token);
                    Ok(TokenKind::Normal)
                })
                .unwrap();
        }
        table
    }

    fn decode(table: &TokenTable, at_start: bool) -> Vec<String> {
        let mut state = DecodeState::new(true, at_start);
        let mut pieces: Vec<String> = Vec::new();
        for (id, _) in table.iter() {
            let mut piece = String::new();
            state.push(table, id, &mut piece).unwrap();
            pieces.push(piece);
        }
        let mut rest = String::new();
        state.finish(&mut rest);
        pieces.push(rest);
        pieces
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_lossy_text_of_all_bytes(tokens in proptest::collection::vec(token(), 0..12)) {
            let pieces = decode(&table(&tokens, LeadingSpace::Keep), true);
            prop_assert_eq!(pieces.concat(), String::from_utf8_lossy(&tokens.concat()).into_owned());
        }

        #[test]
        fn at_most_one_leading_space_is_dropped(tokens in proptest::collection::vec(token(), 0..12)) {
            let all = tokens.concat();
            let table = table(&tokens, LeadingSpace::DropOne);
            let expected = String::from_utf8_lossy(all.strip_prefix(b" ").unwrap_or(&all)).into_owned();
            prop_assert_eq!(decode(&table, true).concat(), expected);
            prop_assert_eq!(decode(&table, false).concat(), String::from_utf8_lossy(&all).into_owned());
        }
    }

    #[test]
    fn a_character_appears_with_its_last_byte() {
        let tokens = "a🙂b".bytes().map(|byte| vec![byte]).collect::<Vec<_>>();
        let pieces = decode(&table(&tokens, LeadingSpace::Keep), true);
        assert_eq!(pieces, ["a", "", "", "", "🙂", "b", ""]);
    }
}
