//! The model of a `tokenizer.json`, and the words that it has lately been asked to cut.
//!
//! Byte-pair encodings cut the same words over and over. The crate remembers them per thread and tokenizer, beyond the
//! tokenizer's end: who loads models one after the other would lose up to 10,000 words to each. So its memory is off, and
//! the words lie here, with the tokenizer.

use std::sync::RwLock;

use hashbrown::HashMap;
use tokenizers::{Model, ModelWrapper, Token};

/// Words that are remembered; who comes later is cut each time.
const MAX_WORDS: usize = 10_000;
/// Longest of them, in bytes.
const MAX_WORD_BYTES: usize = 255;
/// No merge is left out at random: 0 would do, too, but is the crate's word for remembering.
const NO_DROPOUT: f32 = -1.0;

/// Where a word is cut: ids, and ends in bytes.
type Cut = Box<[(u32, u32)]>;

pub(crate) struct JsonModel {
    model: ModelWrapper,
    words: RwLock<HashMap<String, Cut>>,
}

impl JsonModel {
    /// `dropout`, which is for training, does not apply.
    pub(crate) fn new(mut model: ModelWrapper) -> Self {
        if let ModelWrapper::BPE(model) = &mut model {
            model.dropout = Some(NO_DROPOUT);
        }
        Self {
            model,
            words: RwLock::default(),
        }
    }

    pub(crate) fn model(&self) -> &ModelWrapper {
        &self.model
    }

    /// The tokens of a piece of text, of which the ids and offsets count.
    pub(crate) fn tokenize(&self, piece: &str) -> tokenizers::Result<Vec<Token>> {
        let ModelWrapper::BPE(model) = &self.model else {
            return self.model.tokenize(piece); // it remembers words itself, or cuts them at once
        };
        if model.ignore_merges
            && let Some(id) = model.token_to_id(piece)
        {
            return Ok(tokens(&[(id, end(piece.len()))]));
        }
        // Nobody waits for anybody: a word that cannot be looked up now is cut.
        if let Ok(words) = self.words.try_read()
            && let Some(cut) = words.get(piece)
        {
            return Ok(tokens(cut));
        }
        let found = model.tokenize(piece)?;
        if piece.len() <= MAX_WORD_BYTES
            && let Ok(mut words) = self.words.try_write()
            && words.len() < MAX_WORDS
        {
            let cut = found.iter().map(|token| (token.id, end(token.offsets.1)));
            words.insert(piece.to_owned(), cut.collect());
        }
        Ok(found)
    }
}

/// Texts are shorter than 4 GB.
fn end(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn tokens(cut: &[(u32, u32)]) -> Vec<Token> {
    let mut start = 0;
    let token = |&(id, end): &(u32, u32)| {
        let offsets = (start, end as usize);
        start = offsets.1;
        Token::new(id, String::new(), offsets)
    };
    cut.iter().map(token).collect()
}
