//! What each token id means in the output: its bytes, and whether it is a special token.

use crate::error::TextError;

/// The role of a token, as GGUF numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Found by merging; part of ordinary text.
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model (`<|im_end|>`); never found in plain text unless asked for.
    Control,
    /// Matched literally in any text before merging (`<table>`, runs of newlines).
    UserDefined,
    /// In the vocabulary, but not meant to be produced.
    Unused,
    /// One byte of text that has no token of its own.
    Byte,
    /// The id has no token: a hole in the numbering of a `tokenizer.json`.
    Absent,
}

/// What happens to a space at the very beginning of decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeadingSpace {
    /// It stays.
    Keep,
    /// One is dropped: encoding had put it there.
    DropOne,
    /// All spaces of the first token are dropped (the `Metaspace` decoder of `tokenizer.json`).
    DropFromFirstToken,
}

/// Output bytes and kinds of all tokens, by id.
#[derive(Debug)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    /// Where each token's bytes end; they start where the previous token's end.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    pub(crate) leading_space: LeadingSpace,
}

impl TokenTable {
    pub(crate) fn with_capacity(num_tokens: usize, leading_space: LeadingSpace) -> Self {
        Self {
            bytes: Vec::with_capacity(num_tokens * 8),
            ends: Vec::with_capacity(num_tokens),
            kinds: Vec::with_capacity(num_tokens),
            leading_space,
        }
    }

    /// Append the token with the next id; `write` appends its bytes.
    pub(crate) fn push(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<TokenKind, TextError>,
    ) -> Result<u32, TextError> {
        let too_large = |_| TextError::vocabulary("tokens", "more than 4 GiB of text");
        let id = u32::try_from(self.ends.len()).map_err(too_large)?;
        let kind = write(&mut self.bytes)?;
        self.ends
            .push(u32::try_from(self.bytes.len()).map_err(too_large)?);
        self.kinds.push(kind);
        Ok(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token's bytes in the output; `None` if no token has this id.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = index
            .checked_sub(1)
            .map_or(0, |previous| self.ends[previous] as usize);
        (self.kinds[index] != TokenKind::Absent).then(|| &self.bytes[start..end])
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds
            .get(id as usize)
            .copied()
            .filter(|&kind| kind != TokenKind::Absent)
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Whether decoding may skip the token.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    pub(crate) fn unknown_id(&self, id: u32) -> TextError {
        TextError::UnknownTokenId {
            id,
            vocab_size: self.len(),
        }
    }

    /// All ids with their kinds, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, TokenKind)> + '_ {
        (0..).zip(self.kinds.iter().copied())
    }
}
