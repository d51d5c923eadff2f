//! The tokenizer that callers see, whatever it was made from.

use crate::decode::DecodeState;
use crate::error::TextError;
use crate::gguf::GgufVocabulary;
use crate::native::NativeTokenizer;
use crate::special_tokens::SpecialTokens;
use crate::token_table::{TokenKind, TokenTable};
use crate::tokenizer_config::TokenizerConfig;
use crate::tokenizer_json::JsonTokenizer;

/// The longest text that one call encodes: 64 MiB.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// What encoding does with special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS and EOS where this vocabulary wants them.
    pub add_special: bool,
    /// Read `<|im_end|>` and its like in the text as the control tokens that they name. Off for text that users write:
    /// then they are ordinary characters, and no text becomes a control token.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            add_special: true,
            parse_special: true,
        }
    }
}

/// One text or two, as an encoder reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// Special tokens included.
    pub ids: Vec<u32>,
    /// First token that the vocabulary counts to the second text; `None` if it makes no difference between them.
    pub second_segment: Option<usize>,
    /// Tokens that the last text lost, because all would have been too many.
    pub num_dropped: usize,
}

/// Text to token ids and back. Immutable; any number of threads may use one.
#[derive(Debug)]
pub struct Tokenizer {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Native(Box<NativeTokenizer>),
    Json(Box<JsonTokenizer>),
}

impl Tokenizer {
    /// From the metadata of a GGUF file.
    pub fn from_gguf(vocabulary: &GgufVocabulary<'_>) -> Result<Self, TextError> {
        Ok(Self {
            engine: Engine::Native(Box::new(vocabulary.build()?)),
        })
    }

    /// From the bytes of a `tokenizer.json`; the names of BOS and EOS stand in `tokenizer_config.json`.
    pub fn from_json(json: &[u8], config: &TokenizerConfig) -> Result<Self, TextError> {
        Ok(Self {
            engine: Engine::Json(Box::new(JsonTokenizer::new(json, config)?)),
        })
    }

    /// The ids of `text`, which may have up to [`MAX_TEXT_BYTES`].
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TextTooLong {
                bytes: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        match &self.engine {
            Engine::Native(tokenizer) => Ok(tokenizer.encode(text, options)),
            Engine::Json(tokenizer) => tokenizer.encode(text, options),
        }
    }

    /// The ids of one text, or of two that an encoder reads together, with the special tokens that belong around them.
    ///
    /// The last text loses its end if all are more than `max_tokens`. Of two texts, the first is never cut.
    pub fn encode_segments(
        &self,
        first: &str,
        second: Option<&str>,
        max_tokens: Option<usize>,
    ) -> Result<Segments, TextError> {
        for text in [Some(first), second].into_iter().flatten() {
            if text.len() > MAX_TEXT_BYTES {
                return Err(TextError::TextTooLong {
                    bytes: text.len(),
                    limit: MAX_TEXT_BYTES,
                });
            }
        }
        match &self.engine {
            Engine::Native(_) if second.is_some() => Err(TextError::Unencodable {
                problem: "this vocabulary does not say how two texts are joined".to_owned(),
            }),
            Engine::Native(tokenizer) => {
                let mut ids = tokenizer.encode(first, EncodeOptions::default());
                let num_dropped = ids.len().saturating_sub(max_tokens.unwrap_or(usize::MAX));
                if num_dropped > 0 {
                    // What stands behind the text stays.
                    let end = usize::from(tokenizer.special.add_eos).min(ids.len() - num_dropped);
                    let kept = ids.len() - num_dropped - end;
                    ids.drain(kept..kept + num_dropped);
                }
                Ok(Segments {
                    ids,
                    second_segment: None,
                    num_dropped,
                })
            }
            Engine::Json(tokenizer) => tokenizer.encode_segments(first, second, max_tokens),
        }
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let mut state = DecodeState::new(skip_special, true);
        let mut text = String::with_capacity(ids.len() * 4);
        for &id in ids {
            state.push(self.table(), id, &mut text)?;
        }
        state.finish(&mut text);
        Ok(text)
    }

    /// The bytes of one token as they stand in the output; may be part of a character.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table().bytes(id)
    }

    /// The role of a token.
    #[must_use]
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.table().kind(id)
    }

    /// The token as the vocabulary writes it (`Ġhello`, `▁hello`).
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Native(tokenizer) => tokenizer.id_to_token(id),
            Engine::Json(tokenizer) => tokenizer.id_to_token(id),
        }
    }

    /// The id of a token as the vocabulary writes it.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Native(tokenizer) => tokenizer.token_to_id(token),
            Engine::Json(tokenizer) => tokenizer.token_to_id(token),
        }
    }

    /// One more than the largest token id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.table().len()
    }

    /// The tokens with a role.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        match &self.engine {
            Engine::Native(tokenizer) => &tokenizer.special,
            Engine::Json(tokenizer) => &tokenizer.special,
        }
    }

    /// All ids that decoding with `skip_special` skips, ascending.
    #[must_use]
    pub fn special_ids(&self) -> Vec<u32> {
        let table = self.table();
        table
            .iter()
            .map(|(id, _)| id)
            .filter(|&id| table.is_special(id))
            .collect()
    }

    pub(crate) fn table(&self) -> &TokenTable {
        match &self.engine {
            Engine::Native(tokenizer) => &tokenizer.table,
            Engine::Json(tokenizer) => &tokenizer.table,
        }
    }
}
