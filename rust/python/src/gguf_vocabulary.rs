//! The `tokenizer.ggml.*` keys of a GGUF file, handed from the reader to the tokenizer.

use inferlib_text::{GgufVocabulary, TextError, Tokenizer};
use inferlib_weights::{Metadata, MetadataArray, MetadataValue};

/// The tokenizer that the metadata describes.
pub(crate) fn tokenizer(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let keys = Keys(metadata);
    let tokens = keys.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let merges = keys.strings("tokenizer.ggml.merges")?;
    let token_types = keys.get("tokenizer.ggml.token_type", |value| {
        match value.as_array() {
            Some(MetadataArray::I32(types)) => Some(types.to_vec()),
            Some(MetadataArray::U32(types)) => {
                Some(types.iter().map(|&kind| kind.cast_signed()).collect())
            }
            _ => None,
        }
    })?;
    let scores = keys.get("tokenizer.ggml.scores", |value| match value.as_array() {
        Some(MetadataArray::F32(scores)) => Some(&**scores),
        _ => None,
    })?;
    let id = |key| {
        keys.get(key, |value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok())
        })
    };
    let flag = |key| keys.get(key, MetadataValue::as_bool);
    Tokenizer::from_gguf(&GgufVocabulary {
        model: keys
            .get("tokenizer.ggml.model", MetadataValue::as_str)?
            .unwrap_or_default(),
        pre: keys.get("tokenizer.ggml.pre", MetadataValue::as_str)?,
        tokens: &tokens,
        scores,
        token_types: token_types.as_deref(),
        merges: merges.as_deref(),
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        eos_token_id: id("tokenizer.ggml.eos_token_id")?,
        eot_token_id: id("tokenizer.ggml.eot_token_id")?,
        eom_token_id: id("tokenizer.ggml.eom_token_id")?,
        unknown_token_id: id("tokenizer.ggml.unknown_token_id")?,
        padding_token_id: id("tokenizer.ggml.padding_token_id")?,
        add_bos_token: flag("tokenizer.ggml.add_bos_token")?,
        add_eos_token: flag("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: flag("tokenizer.ggml.add_space_prefix")?,
    })
}

struct Keys<'a>(&'a Metadata);

impl<'a> Keys<'a> {
    /// The value of `key` as `read` takes it; a value that it does not take is an error, an absent one is not.
    fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'a MetadataValue) -> Option<T>,
    ) -> Result<Option<T>, TextError> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let wrong_type = || TextError::InvalidVocabulary {
            field: key,
            problem: "its value has an unexpected type".to_owned(),
        };
        read(value).map(Some).ok_or_else(wrong_type)
    }

    fn strings(&self, key: &'static str) -> Result<Option<Vec<&'a str>>, TextError> {
        self.get(key, |value| {
            value.as_strings().map(|strings| strings.iter().collect())
        })
    }
}
