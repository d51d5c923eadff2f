//! A tokenizer from `tokenizer.json`: encoding is the `tokenizers` crate's, decoding is ours.
//!
//! The crate panics on some malformed files, at once or when their parts first meet, so that reading and encoding run
//! under `catch_unwind`; what it accepts is then checked. What it would accept and should not is refused before, see
//! `json_stages`.
//! Only its calls for a single text are used: nothing here starts a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::{
    AddedVocabulary, Encoding, Model, NormalizerWrapper, OffsetType, PostProcessor,
    PostProcessorWrapper, PreTokenizer, PreTokenizerWrapper, TruncationDirection,
};

use crate::error::TextError;
use crate::json_decoder::TokenSpelling;
use crate::json_model::JsonModel;
use crate::json_stages;
use crate::special_tokens::{self, SpecialTokens};
use crate::token_table::{TokenKind, TokenTable};
use crate::tokenizer::{EncodeOptions, Segments};
use crate::tokenizer_config::TokenizerConfig;

/// Ids may leave holes, but not more of them than this beyond twice the number of tokens: tables are as long as the
/// largest id.
const MAX_HOLES: usize = 1 << 16;

const VOCAB: &str = "tokenizer.json: model.vocab";

/// The stages of the crate's pipeline, and our tables.
pub(crate) struct JsonTokenizer {
    added: AddedVocabulary,
    /// The same, but special tokens in the text are text.
    added_as_text: AddedVocabulary,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    model: JsonModel,
    post_processor: Option<PostProcessorWrapper>,
    pub(crate) table: TokenTable,
    pub(crate) special: SpecialTokens,
}

impl std::fmt::Debug for JsonTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("JsonTokenizer")
            .field("vocab_size", &self.table.len())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl JsonTokenizer {
    pub(crate) fn new(json: &[u8], config: &TokenizerConfig) -> Result<Self, TextError> {
        let invalid = |problem: String| TextError::InvalidTokenizerJson { problem };
        json_stages::check(json)?;
        let file = catch_unwind(AssertUnwindSafe(|| {
            serde_json::from_slice::<tokenizers::Tokenizer>(json)
        }))
        .map_err(|_| invalid("its parts contradict each other".to_owned()))?
        .map_err(|error| invalid(error.to_string()))?
        .into_inner();
        let spelling = TokenSpelling::of(file.get_decoder())?;
        let table = read_tokens(
            &file.get_vocab(true),
            file.get_added_vocabulary(),
            &spelling,
        )?;
        let added = file.get_added_vocabulary().clone();
        let mut added_as_text = added.clone();
        added_as_text.set_encode_special_tokens(true);
        let mut tokenizer = Self {
            added,
            added_as_text,
            normalizer: file.get_normalizer().cloned(),
            pre_tokenizer: file.get_pre_tokenizer().cloned(),
            post_processor: file.get_post_processor().cloned(),
            model: JsonModel::new(file.get_model().clone()),
            table,
            special: SpecialTokens::default(),
        };
        // A post-processor may name tokens that it does not have, whatever the text.
        let meet = || [None, Some("")].map(|second| tokenizer.segments("", second, None).is_ok());
        if catch_unwind(AssertUnwindSafe(meet)).is_err() {
            return Err(invalid("post_processor contradicts itself".to_owned()));
        }
        tokenizer.special = tokenizer.special_tokens(config)?;
        Ok(tokenizer)
    }

    fn special_tokens(&self, config: &TokenizerConfig) -> Result<SpecialTokens, TextError> {
        let find = |field: &'static str, token: &Option<String>| match token {
            Some(token) => self.token_to_id(token).map(Some).ok_or_else(|| {
                TextError::vocabulary(
                    field,
                    format!("{token:?} is not in the vocabulary of tokenizer.json"),
                )
            }),
            None => Ok(None),
        };
        let bos_id = find("tokenizer_config.json: bos_token", &config.bos_token)?;
        let eos_id = find("tokenizer_config.json: eos_token", &config.eos_token)?;
        let unknown_id = find("tokenizer_config.json: unk_token", &config.unk_token)?;
        let pad_id = find("tokenizer_config.json: pad_token", &config.pad_token)?;
        let control = self
            .added
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special);
        let control = control.map(|(&id, token)| (id, token.content.as_str()));
        let around_nothing = self.encode("", EncodeOptions::default())?;
        Ok(SpecialTokens {
            bos_id,
            eos_id,
            eot_id: None,
            unknown_id,
            pad_id,
            end_ids: special_tokens::end_ids(eos_id.into_iter(), control),
            add_bos: bos_id.is_some() && around_nothing.first().copied() == bos_id,
            add_eos: eos_id.is_some()
                && around_nothing.len() > 1
                && around_nothing.last().copied() == eos_id,
        })
    }

    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        caught(|| {
            let mut encoding = self.stages(text, options, 0)?;
            if let Some(post_processor) =
                self.post_processor.as_ref().filter(|_| options.add_special)
            {
                encoding = post_processor
                    .process(encoding, None, true)
                    .map_err(failed)?;
            }
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// One text or two as an encoder reads them, with special tokens; the last text is cut to fit `max_tokens`.
    pub(crate) fn encode_segments(
        &self,
        first: &str,
        second: Option<&str>,
        max_tokens: Option<usize>,
    ) -> Result<Segments, TextError> {
        caught(|| self.segments(first, second, max_tokens))
    }

    fn segments(
        &self,
        first: &str,
        second: Option<&str>,
        max_tokens: Option<usize>,
    ) -> Result<Segments, TextError> {
        let options = EncodeOptions::default();
        let mut first = self.stages(first, options, 0)?;
        let mut second = second
            .map(|text| self.stages(text, options, 1))
            .transpose()?;
        let post_processor = self.post_processor.as_ref();
        let num_special = post_processor.map_or(0, |p| p.added_tokens(second.is_some()));
        let before = second.as_ref().map_or(0, |_| first.len());
        let last = second.as_mut().unwrap_or(&mut first);
        let room = max_tokens.map_or(usize::MAX, |most| most.saturating_sub(num_special + before));
        let num_dropped = last.len().saturating_sub(room);
        if num_dropped > 0 {
            last.truncate(room, 0, TruncationDirection::Right);
        }
        let joined = match post_processor {
            Some(post_processor) => post_processor.process(first, second, true),
            None => <dyn PostProcessor>::default_process(
                std::iter::once(first).chain(second).collect(),
                true,
            )
            .map(|parts| Encoding::merge(parts, false)),
        }
        .map_err(failed)?;
        let types = joined.get_type_ids();
        Ok(Segments {
            ids: joined.get_ids().to_vec(),
            second_segment: types.iter().position(|&id| id > 0),
            num_dropped,
        })
    }

    /// Everything but the post-processor.
    fn stages(
        &self,
        text: &str,
        options: EncodeOptions,
        type_id: u32,
    ) -> Result<Encoding, TextError> {
        let added = if options.parse_special {
            &self.added
        } else {
            &self.added_as_text
        };
        let mut text: PreTokenizedString =
            added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut text).map_err(failed)?;
        }
        text.tokenize(|piece| self.model.tokenize(piece.get()))
            .map_err(failed)?;
        text.into_encoding(None, type_id, OffsetType::None)
            .map_err(failed)
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        let added = self.added.get_added_tokens_decoder().get(&id);
        added
            .map(|token| token.content.clone())
            .or_else(|| self.model.model().id_to_token(id))
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.token_to_id(token, self.model.model())
    }
}

/// Run a part of the crate that may panic: only where a file's parts contradict each other.
fn caught<T>(encode: impl FnOnce() -> Result<T, TextError>) -> Result<T, TextError> {
    catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|_| {
        Err(TextError::Unencodable {
            problem: "the parts of tokenizer.json contradict each other".to_owned(),
        })
    })
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn failed(error: tokenizers::Error) -> TextError {
    TextError::Unencodable {
        problem: error.to_string(),
    }
}

fn read_tokens(
    vocab: &std::collections::HashMap<String, u32>,
    added: &AddedVocabulary,
    spelling: &TokenSpelling,
) -> Result<TokenTable, TextError> {
    let Some(&largest) = vocab.values().max() else {
        return Err(TextError::vocabulary(VOCAB, "missing or empty"));
    };
    let (num_ids, num_tokens) = (largest as usize + 1, vocab.len());
    if num_ids > 2 * num_tokens + MAX_HOLES {
        let problem = format!("id {largest} is far beyond the number of tokens, {num_tokens}");
        return Err(TextError::vocabulary(VOCAB, problem));
    }
    let mut by_id: Vec<Option<&str>> = vec![None; num_ids];
    for (token, &id) in vocab {
        if let Some(twin) = by_id[id as usize].replace(token) {
            let problem = format!("id {id} belongs to both {twin:?} and {token:?}");
            return Err(TextError::vocabulary(VOCAB, problem));
        }
    }
    let added = added.get_added_tokens_decoder();
    let mut table = TokenTable::with_capacity(num_ids, spelling.leading_space);
    for (id, token) in (0..).zip(by_id) {
        table.push(|out| {
            let Some(token) = token else {
                return Ok(TokenKind::Absent);
            };
            Ok(match added.get(&id) {
                Some(entry) => {
                    spelling.write_added(token, out);
                    if entry.special {
                        TokenKind::Control
                    } else {
                        TokenKind::UserDefined
                    }
                }
                None if spelling.write(token, out) => TokenKind::Byte,
                None => TokenKind::Normal,
            })
        })?;
    }
    Ok(table)
}
