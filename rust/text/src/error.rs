//! What can be wrong with a text, a vocabulary, a stop string or a template, one variant each.

use crate::chat_template::TemplateError;

/// Everything that this crate refuses, with the values that say why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file's vocabulary contradicts itself or lacks something.
    #[error("{field}: {problem}")]
    InvalidVocabulary {
        /// The metadata key or JSON field at fault, as the file spells it.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A well-formed file asks for something that is not implemented.
    #[error("{field} is \"{found}\", which is not supported; supported: {supported}")]
    UnsupportedTokenizer {
        /// The metadata key or JSON field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values that would work.
        supported: String,
    },
    /// `tokenizer.json` cannot be read.
    #[error("tokenizer.json cannot be read: {problem}")]
    InvalidTokenizerJson {
        /// What the parser said, with line and column where it has them.
        problem: String,
    },
    /// `tokenizer_config.json` cannot be read.
    #[error("tokenizer_config.json cannot be read: {problem}")]
    InvalidTokenizerConfig {
        /// What the parser said, or the field at fault.
        problem: String,
    },
    /// An id that no token has.
    #[error("token id {id} is not in this tokenizer's vocabulary of {vocab_size} tokens")]
    UnknownTokenId {
        /// The id.
        id: u32,
        /// How many ids there are; the largest is one less.
        vocab_size: usize,
    },
    /// More text than one call takes.
    #[error("the text has {bytes} bytes, more than the {limit} that one call encodes; split it")]
    TextTooLong {
        /// Length of the text.
        bytes: usize,
        /// [`MAX_TEXT_BYTES`](crate::MAX_TEXT_BYTES).
        limit: usize,
    },
    /// The tokenizer of a `tokenizer.json` failed on a text.
    #[error("the tokenizer cannot encode this text: {problem}")]
    Unencodable {
        /// What it said.
        problem: String,
    },
    /// A stop string that cannot be used.
    #[error("stop[{index}] {problem}")]
    InvalidStop {
        /// Its place in the list.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More stop strings than allowed.
    #[error("{count} stop strings were given; at most {limit} are allowed")]
    TooManyStops {
        /// How many were given.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A stream key that is not in the pool.
    #[error("there is no text stream with key {key}")]
    UnknownStream {
        /// The key.
        key: u64,
    },
    /// A stream key that is in the pool already.
    #[error("there is already a text stream with key {key}")]
    DuplicateStream {
        /// The key.
        key: u64,
    },
    /// Two arrays that belong together differ in length.
    #[error("keys has {keys} entries but token_ids has {token_ids}")]
    LengthMismatch {
        /// Number of keys.
        keys: usize,
        /// Number of token ids.
        token_ids: usize,
    },
    /// A chat template does not parse or does not render.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl TextError {
    pub(crate) fn vocabulary(field: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidVocabulary {
            field,
            problem: problem.into(),
        }
    }
}
