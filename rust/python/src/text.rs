//! Tokenizers, text streams and chat templates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlib_text::{
    Advance, Clock, EncodeOptions, StopStrings, StreamOptions, TemplateInput, TextError,
    TokenizerConfig,
};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyBytesMethods, PyString};

use crate::arrays::Array;
use crate::boundary::enter;
use crate::errors::{Error, to_py_err};
use crate::gguf_vocabulary;
use crate::json_value::from_python;
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

/// Decodes one sequence of tokens as it grows; never gives out half a character.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct DecodeStream {
    inner: Mutex<inferlib_text::DecodeStream>,
}

#[pymethods]
impl DecodeStream {
    /// `continues`: the text goes on after other text, so that a leading space stays.
    #[new]
    #[pyo3(signature = (tokenizer, *, skip_special = true, continues = false))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "PyO3 hands arguments over by value"
    )]
    fn new(tokenizer: PyRef<'_, Tokenizer>, skip_special: bool, continues: bool) -> Self {
        let tokenizer = Arc::clone(&tokenizer.inner);
        let inner = if continues {
            inferlib_text::DecodeStream::continuing(tokenizer, skip_special)
        } else {
            inferlib_text::DecodeStream::new(tokenizer, skip_special)
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Decode one more token; returns the text that is certain now and was not before.
    fn push(&self, py: Python<'_>, token_id: u32) -> PyResult<String> {
        enter(py, || lock(&self.inner).push(token_id))
    }

    /// End the text: an unfinished character becomes U+FFFD.
    fn finish(&self, py: Python<'_>) -> PyResult<String> {
        enter(py, || Ok::<_, TextError>(lock(&self.inner).finish()))
    }
}

/// The text of all running requests, by key: decoding and stop strings, advanced in one call per engine step.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct TextStreams {
    inner: Mutex<inferlib_text::TextStreams>,
}

#[pymethods]
impl TextStreams {
    /// A pool without streams.
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "PyO3 hands arguments over by value"
    )]
    fn new(tokenizer: PyRef<'_, Tokenizer>) -> Self {
        let streams = inferlib_text::TextStreams::new(Arc::clone(&tokenizer.inner));
        Self {
            inner: Mutex::new(streams),
        }
    }

    /// Begin a stream. The text of its first `min_tokens` tokens cannot contain a stop string.
    #[pyo3(signature = (key, *, stop = Vec::new(), include_stop = false, skip_special = true, continues = false, min_tokens = 0))]
    #[expect(
        clippy::too_many_arguments,
        clippy::needless_pass_by_value,
        reason = "the options of a stream, by keyword, as PyO3 hands them over"
    )]
    fn insert(
        &self,
        py: Python<'_>,
        key: u64,
        stop: Vec<Bound<'_, PyString>>,
        include_stop: bool,
        skip_special: bool,
        continues: bool,
        min_tokens: u32,
    ) -> PyResult<()> {
        let stop: Vec<&str> = stop
            .iter()
            .map(|stop| utf8(stop, "stop"))
            .collect::<PyResult<_>>()?;
        enter(py, || {
            let options = StreamOptions {
                skip_special,
                continues,
                stops: Arc::new(StopStrings::new(&stop)?),
                include_stop,
                min_tokens,
            };
            lock(&self.inner).insert(key, options)
        })
    }

    /// Append token `token_ids[i]` to stream `keys[i]`, for all i in order.
    ///
    /// Returns `(stops, failures)`: `stops` lists `(key, i, which)` for each stream whose text has just ended with its
    /// stop string number `which`; `failures` lists `(key, i, error)` for tokens that could not be decoded.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "PyO3 hands arguments over by value"
    )]
    #[expect(
        clippy::type_complexity,
        reason = "two lists of tuples; a class per tuple would be no clearer"
    )]
    #[pyo3(signature = (keys: "NDArray[uint64]", token_ids: "NDArray[int32]") -> "tuple[list[tuple[int, int, int]], list[tuple[int, int, Exception]]]")]
    fn advance(
        &self,
        py: Python<'_>,
        keys: PyReadonlyArray1<'_, u64>,
        token_ids: PyReadonlyArray1<'_, i32>,
    ) -> PyResult<(Vec<(u64, usize, usize)>, Vec<(u64, usize, PyErr)>)> {
        let (keys, token_ids) = (keys.as_slice()?, token_ids.as_slice()?);
        let Advance { stops, failures } = enter(py, || {
            // A negative id is no token: as a large one it is that stream's failure.
            let ids: Vec<u32> = token_ids.iter().map(|id| id.cast_unsigned()).collect();
            lock(&self.inner).advance(keys, &ids)
        })?;
        let stops = stops
            .into_iter()
            .map(|hit| (hit.key, hit.position, hit.stop_index))
            .collect();
        let failure = |failure: inferlib_text::StreamFailure| {
            (
                failure.key,
                failure.position,
                to_py_err(py, failure.error.into()),
            )
        };
        Ok((stops, failures.into_iter().map(failure).collect()))
    }

    /// The text of a stream that has become certain since the last call.
    fn take_text(&self, py: Python<'_>, key: u64) -> PyResult<String> {
        enter(py, || lock(&self.inner).take_text(key))
    }

    /// End a stream's text: what was held back for a stop string becomes visible.
    fn finish(&self, py: Python<'_>, key: u64) -> PyResult<()> {
        enter(py, || lock(&self.inner).finish(key))
    }

    /// Forget a stream; whether there was one.
    fn remove(&self, py: Python<'_>, key: u64) -> PyResult<bool> {
        enter(py, || Ok::<_, TextError>(lock(&self.inner).remove(key)))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        enter(py, || Ok::<_, TextError>(lock(&self.inner).len()))
    }
}

/// A compiled chat template. Immutable; any thread may use it.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct ChatTemplate {
    inner: inferlib_text::ChatTemplate,
}

#[pymethods]
impl ChatTemplate {
    /// Compile a template; `special_tokens` are variables such as `bos_token`.
    #[new]
    #[pyo3(signature = (source, special_tokens = None))]
    fn new(
        py: Python<'_>,
        source: &Bound<'_, PyString>,
        special_tokens: Option<BTreeMap<String, String>>,
    ) -> PyResult<Self> {
        let source = utf8(source, "chat_template")?;
        let special_tokens = special_tokens.unwrap_or_default();
        let inner = enter(py, || {
            inferlib_text::ChatTemplate::new(source, special_tokens).map_err(TextError::from)
        })?;
        Ok(Self { inner })
    }

    /// The text of a conversation.
    ///
    /// `variables` are further ones for the template (`enable_thinking`); `now` is what its clock shows, as seconds since
    /// 1970 in UTC and the local offset from UTC in seconds, by default the present in UTC.
    #[pyo3(signature = (messages, *, tools = None, add_generation_prompt = true, variables = None, now = None))]
    fn render(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        tools: Option<&Bound<'_, PyAny>>,
        add_generation_prompt: bool,
        variables: Option<&Bound<'_, PyAny>>,
        now: Option<(i64, i32)>,
    ) -> PyResult<String> {
        let extra = match variables
            .map(|variables| from_python(variables, "variables"))
            .transpose()?
        {
            None => serde_json::Map::new(),
            Some(serde_json::Value::Object(extra)) => extra,
            Some(_) => {
                return Err(request(
                    py,
                    "variables",
                    "variables must be a mapping".to_owned(),
                ));
            }
        };
        let input = TemplateInput {
            messages: from_python(messages, "messages")?,
            tools: tools.map(|tools| from_python(tools, "tools")).transpose()?,
            add_generation_prompt,
            extra,
            now: now.map(|(unix_seconds, utc_offset_seconds)| Clock {
                unix_seconds,
                utc_offset_seconds,
            }),
        };
        enter(py, || self.inner.render(&input).map_err(TextError::from))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text of a Python string; one with lone surrogates has no UTF-8.
pub(crate) fn utf8<'a>(text: &'a Bound<'_, PyString>, field: &'static str) -> PyResult<&'a str> {
    text.to_str().map_err(|_| {
        let message = format!("{field} has a lone surrogate, which is no character; decode its source with errors=\"replace\"");
        request(text.py(), field, message)
    })
}

fn request(py: Python<'_>, field: &'static str, message: String) -> PyErr {
    to_py_err(py, Error::Request { field, message })
}

fn to_int32(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(u32::cast_signed).collect()
}

/// Ids from an int32 array or any sequence of integers.
fn token_ids_of(token_ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let wrong = |id: i64| {
        request(
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
