//! Text of tokens as they come: of one sequence, and of all requests at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlib_text::{Advance, StopStrings, StreamOptions, TextError};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::boundary::enter;
use crate::errors::to_py_err;
use crate::tokenizer::Tokenizer;
use crate::utf8::utf8;

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
        let tokenizer = tokenizer.shared();
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
        let streams = inferlib_text::TextStreams::new(tokenizer.shared());
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
