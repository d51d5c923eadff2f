//! Tokenizers that run on our own tables and merge engine.

use std::borrow::Cow;

use crate::added_tokens::{AddedTokens, Segment};
use crate::byte_level;
use crate::byte_pair::BytePairModel;
use crate::gguf::parse_byte;
use crate::piece_index::PieceIndex;
use crate::sentence_piece::SentencePieceModel;
use crate::special_tokens::SpecialTokens;
use crate::token_table::{TokenKind, TokenTable};
use crate::tokenizer::EncodeOptions;

/// Tables, merge rules and literal tokens of one vocabulary.
#[derive(Debug)]
pub(crate) struct NativeTokenizer {
    pub(crate) table: TokenTable,
    /// Tokens that merging may produce, by output bytes.
    pub(crate) pieces: PieceIndex,
    /// All others but byte tokens, by their text.
    pub(crate) literals: PieceIndex,
    pub(crate) byte_ids: [Option<u32>; 256],
    pub(crate) user_defined: AddedTokens,
    pub(crate) user_defined_and_control: AddedTokens,
    pub(crate) model: Model,
    pub(crate) special: SpecialTokens,
}

/// How text between literal tokens becomes ids.
#[derive(Debug)]
pub(crate) enum Model {
    BytePair(BytePairModel),
    SentencePiece {
        model: SentencePieceModel,
        /// Whether text at the beginning or after a control token gets a space in front.
        add_space_prefix: bool,
    },
}

impl NativeTokenizer {
    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        ids.extend(
            self.special
                .bos_id
                .filter(|_| options.add_special && self.special.add_bos),
        );
        let added = if options.parse_special {
            &self.user_defined_and_control
        } else {
            &self.user_defined
        };
        let mut at_start = true;
        added.split(text, |segment| match segment {
            Segment::Token(id) => {
                ids.push(id);
                at_start = self.table.is_special(id);
            }
            Segment::Text(text) => {
                self.encode_text(text, at_start, &mut ids);
                at_start = false;
            }
        });
        ids.extend(
            self.special
                .eos_id
                .filter(|_| options.add_special && self.special.add_eos),
        );
        ids
    }

    fn encode_text(&self, text: &str, at_start: bool, ids: &mut Vec<u32>) {
        match &self.model {
            Model::BytePair(model) => model.encode(&self.table, &self.pieces, text, ids),
            Model::SentencePiece {
                model,
                add_space_prefix,
            } => {
                let mut text = Cow::Borrowed(text);
                if text.contains('▁') {
                    text = Cow::Owned(text.replace('▁', " "));
                }
                if at_start && *add_space_prefix {
                    text.to_mut().insert(0, ' ');
                }
                model.encode(&self.table, &self.pieces, &text, ids);
            }
        }
    }

    /// The token as the vocabulary writes it.
    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        let bytes = self.table.bytes(id)?;
        let text = || String::from_utf8_lossy(bytes).into_owned();
        Some(match (self.table.kind(id)?, &self.model) {
            (TokenKind::Byte, _) => format!("<0x{:02X}>", bytes.first()?),
            (TokenKind::Normal | TokenKind::Unused, Model::BytePair(_)) => {
                let is_piece = self.pieces.find(&self.table, bytes) == Some(id);
                if is_piece {
                    byte_level::to_text(bytes)
                } else {
                    text()
                }
            }
            (TokenKind::Normal | TokenKind::Unused, Model::SentencePiece { .. }) => {
                text().replace(' ', "▁")
            }
            _ => text(),
        })
    }

    /// The id of a token that is written as the vocabulary writes it.
    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        if let Some(id) = self.literals.find(&self.table, token.as_bytes()) {
            return Some(id);
        }
        let piece = match &self.model {
            Model::BytePair(_) => {
                byte_level::to_bytes(token).and_then(|bytes| self.pieces.find(&self.table, &bytes))
            }
            Model::SentencePiece { .. } => self
                .pieces
                .find(&self.table, token.replace('▁', " ").as_bytes()),
        };
        piece.or_else(|| parse_byte(token).and_then(|byte| self.byte_ids[usize::from(byte)]))
    }
}
