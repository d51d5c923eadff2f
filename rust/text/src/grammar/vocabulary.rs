//! The tokens of a model as the parser sees them: a trie of bytes, and how text becomes tokens.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::GrammarError;
use crate::token_table::{LeadingSpace, TokenKind};
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Text that users and grammars write never becomes a control token.
const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer
                .encode(text, PLAIN)
                .unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    /// Where encoding puts a space before a text, the tokens of a continuation cannot be had from the tokenizer, so that
    /// nothing is forced.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.table().leading_space == LeadingSpace::Keep
    }
}

/// All tokens of `tokenizer`; ids from its end to `vocab_size` have none.
pub(super) fn environment(
    tokenizer: Arc<Tokenizer>,
    eos_token_ids: &[u32],
    vocab_size: usize,
) -> Result<TokEnv, GrammarError> {
    let invalid = |problem: String| GrammarError::Invalid {
        field: "eos_token_ids",
        problem,
    };
    let Some(&first) = eos_token_ids.first() else {
        return Err(invalid(
            "the model has no end-of-sequence token, so nothing could end".into(),
        ));
    };
    let size = u32::try_from(vocab_size)
        .map_err(|_| invalid(format!("a vocabulary of {vocab_size} tokens")))?;
    if let Some(id) = eos_token_ids.iter().find(|&&id| id >= size) {
        return Err(invalid(format!("there are {vocab_size} tokens, not {id}")));
    }
    let words: Vec<Vec<u8>> = (0..size).map(|id| word(&tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(eos_token_ids);
    Ok(Arc::new(Vocabulary { trie, tokenizer }))
}

/// The bytes of a token that text may have; of a control token its name behind a marker, which no text has.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or(&[]);
    match tokenizer.token_kind(id) {
        Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => bytes.to_vec(),
        Some(TokenKind::Control) => {
            let name = tokenizer.id_to_token(id).unwrap_or_default();
            [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
        }
        Some(TokenKind::Unknown | TokenKind::Unused | TokenKind::Absent) | None => Vec::new(),
    }
}
