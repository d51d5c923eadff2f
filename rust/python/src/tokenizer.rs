//! Tokenizers, and what their configuration says.

use std::collections::BTreeMap;
use std::sync::Arc;

use inferlib_text::{EncodeOptions, TokenizerConfig};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyBytesMethods, PyString};

use crate::arrays::Array;
use crate::boundary::enter;
use crate::errors::request_error;
use crate::gguf_vocabulary;
use crate::utf8::utf8;
use crate::weights::Weights;

/// Text to token ids and back. Immutable; any thread may use it.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct Tokenizer {
    inner: Arc<inferlib_text::Tokenizer>,
}

impl Tokenizer {
    pub(crate) fn shared(&self) -> Arc<inferlib_text::Tokenizer> {
        Arc::clone(&self.inner)
    }
}

#[pymethods]
impl Tokenizer {
    /// From the bytes of a `tokenizer.json` and, if there is one, of the `tokenizer_config.json` beside it.
    #[staticmethod]
    #[pyo3(signature = (json, config = None))]
    fn from_json(
        py: Python<'_>,
        json: &Bound<'_, PyBytes>,
        config: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<Self> {
        let (json, config) = (json.as_bytes(), config.map(PyBytesMethods::as_bytes));
        let inner = enter(py, move || {
            let config = config
                .map(TokenizerConfig::from_json)
                .transpose()?
                .unwrap_or_default();
            inferlib_text::Tokenizer::from_json(json, &config)
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// From the metadata of a GGUF file.
    #[staticmethod]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "PyO3 hands arguments over by value"
    )]
    fn from_gguf(py: Python<'_>, weights: PyRef<'_, Weights>) -> PyResult<Self> {
        let weights = weights.shared();
        let inner = enter(py, move || gguf_vocabulary::tokenizer(weights.metadata()))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The ids of `text`.
    ///
    /// `add_special` puts BOS and EOS where the vocabulary wants them. `parse_special` reads the names of control tokens in
    /// the text (`<|im_end|>`) as those tokens; leave it off for text that users write.
    #[pyo3(signature = (text, *, add_special = true, parse_special = true))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        add_special: bool,
        parse_special: bool,
    ) -> PyResult<Array<'py, i32>> {
        let text = utf8(text, "text")?;
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        let ids = enter(py, || self.inner.encode(text, options).map(to_int32))?;
        Ok(Array(ids.into_pyarray(py)))
    }

    /// The ids of one text, or of two that an encoder reads together, with the special tokens around them; where the
    /// second one begins, if the vocabulary tells them apart; and how many tokens the last text lost, so that there
    /// are at most `max_tokens`.
    #[pyo3(signature = (first, second = None, *, max_tokens = None))]
    fn encode_segments<'py>(
        &self,
        py: Python<'py>,
        first: &Bound<'py, PyString>,
        second: Option<&Bound<'py, PyString>>,
        max_tokens: Option<usize>,
    ) -> PyResult<(Array<'py, i32>, Option<usize>, usize)> {
        let first = utf8(first, "text")?;
        let second = second.map(|text| utf8(text, "text")).transpose()?;
        let encode = || self.inner.encode_segments(first, second, max_tokens);
        let segments = enter(py, encode)?;
        let ids = Array(to_int32(segments.ids).into_pyarray(py));
        Ok((ids, segments.second_segment, segments.num_dropped))
    }

    /// The text of token ids. Bytes that are no UTF-8 become U+FFFD.
    #[pyo3(signature = (token_ids, *, skip_special = true))]
    fn decode(
        &self,
        py: Python<'_>,
        token_ids: &Bound<'_, PyAny>,
        skip_special: bool,
    ) -> PyResult<String> {
        let ids = token_ids_of(token_ids)?;
        enter(py, || self.inner.decode(&ids, skip_special))
    }

    /// The bytes of a token as they stand in the output; they may be part of a character. `None`: there is no such token.
    fn token_bytes<'py>(&self, py: Python<'py>, token_id: u32) -> Option<Bound<'py, PyBytes>> {
        self.inner
            .token_bytes(token_id)
            .map(|bytes| PyBytes::new(py, bytes))
    }

    /// The token as the vocabulary writes it (`Ġhello`, `▁hello`). `None`: there is no such token.
    fn id_to_token(&self, token_id: u32) -> Option<String> {
        self.inner.id_to_token(token_id)
    }

    /// The id of a token as the vocabulary writes it. `None`: there is no such token.
    fn token_to_id(&self, token: &Bound<'_, PyString>) -> PyResult<Option<u32>> {
        Ok(self.inner.token_to_id(utf8(token, "token")?))
    }

    /// One more than the largest token id.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// The token that begins a text.
    #[getter]
    fn bos_id(&self) -> Option<u32> {
        self.inner.special_tokens().bos_id
    }

    /// The token that ends a text.
    #[getter]
    fn eos_id(&self) -> Option<u32> {
        self.inner.special_tokens().eos_id
    }

    /// The token that ends a turn of a chat, where the file names one.
    #[getter]
    fn eot_id(&self) -> Option<u32> {
        self.inner.special_tokens().eot_id
    }

    /// The token for what the vocabulary cannot express.
    #[getter]
    fn unknown_id(&self) -> Option<u32> {
        self.inner.special_tokens().unknown_id
    }

    /// The token that fills batches.
    #[getter]
    fn pad_id(&self) -> Option<u32> {
        self.inner.special_tokens().pad_id
    }

    /// All tokens after which a model has nothing more to say, ascending: EOS, end of turn, and their like.
    #[getter]
    fn end_ids(&self) -> Vec<u32> {
        self.inner.special_tokens().end_ids.clone()
    }

    /// All ids that `skip_special` skips, ascending.
    #[getter]
    fn special_ids(&self) -> Vec<u32> {
        self.inner.special_ids()
    }

    /// Whether `add_special` puts BOS first.
    #[getter]
    fn add_bos(&self) -> bool {
        self.inner.special_tokens().add_bos
    }

    /// Whether `add_special` puts EOS last.
    #[getter]
    fn add_eos(&self) -> bool {
        self.inner.special_tokens().add_eos
    }
}

/// What a `tokenizer_config.json` says, as (special tokens by name, chat templates by name).
///
/// Special tokens are those of `bos_token`, `eos_token`, `unk_token` and `pad_token` that are set. A single chat template
/// has the name `default`.
#[pyfunction]
#[expect(clippy::type_complexity, reason = "a pair of mappings")]
pub(crate) fn read_tokenizer_config(
    py: Python<'_>,
    json: &Bound<'_, PyBytes>,
) -> PyResult<(BTreeMap<&'static str, String>, BTreeMap<String, String>)> {
    let json = json.as_bytes();
    let config = enter(py, || TokenizerConfig::from_json(json))?;
    let tokens = [
        ("bos_token", config.bos_token),
        ("eos_token", config.eos_token),
        ("unk_token", config.unk_token),
        ("pad_token", config.pad_token),
    ];
    let tokens = tokens
        .into_iter()
        .filter_map(|(name, token)| Some((name, token?)))
        .collect();
    Ok((tokens, config.chat_templates.into_iter().collect()))
}

fn to_int32(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(u32::cast_signed).collect()
}

/// Ids from an int32 array or any sequence of integers.
fn token_ids_of(token_ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let wrong = |id: i64| {
        request_error(
            token_ids.py(),
            "token_ids",
            format!("token_ids has {id}, which is no token id"),
        )
    };
    let check = |id: i64| u32::try_from(id).map_err(|_| wrong(id));
    if let Ok(array) = token_ids.extract::<PyReadonlyArray1<'_, i32>>() {
        return array
            .as_array()
            .iter()
            .map(|&id| check(id.into()))
            .collect();
    }
    token_ids
        .extract::<Vec<i64>>()?
        .into_iter()
        .map(check)
        .collect()
}
