//! Structured output: compiled grammars, and the states of running sequences.

use std::sync::{Mutex, MutexGuard, PoisonError};

use inferlib_program::{Batch, LogitsRow};
use inferlib_text::{GrammarSource, MaskedRow};
use numpy::IntoPyArray;
use pyo3::prelude::*;

use crate::arrays::{Array, Vector};
use crate::batch::{PyBatch, lock};
use crate::boundary::enter;
use crate::errors::Error;
use crate::text::Tokenizer;

/// Compiles grammars for one vocabulary. Immutable; any thread may use it.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct Grammars {
    inner: inferlib_text::Grammars,
}

/// A compiled description of texts.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct Grammar {
    inner: Mutex<inferlib_text::Grammar>,
}

#[pymethods]
impl Grammars {
    /// For the tokens of `tokenizer`; masks have `vocab_size` bits. Takes a moment: a trie of all tokens is built.
    #[new]
    fn new(
        py: Python<'_>,
        tokenizer: &Tokenizer,
        eos_token_ids: Vec<u32>,
        vocab_size: usize,
    ) -> PyResult<Self> {
        let tokenizer = tokenizer.shared();
        let inner = enter(py, move || {
            inferlib_text::Grammars::new(tokenizer, &eos_token_ids, vocab_size)
        })?;
        Ok(Self { inner })
    }

    /// Compile a JSON schema, as JSON.
    fn json_schema(&self, py: Python<'_>, schema: String) -> PyResult<Grammar> {
        self.compile(py, GrammarSource::JsonSchema(schema))
    }

    /// Compile a regular expression for the whole text.
    fn regex(&self, py: Python<'_>, pattern: String) -> PyResult<Grammar> {
        self.compile(py, GrammarSource::Regex(pattern))
    }

    /// Compile a grammar in Lark's syntax.
    fn lark(&self, py: Python<'_>, grammar: String) -> PyResult<Grammar> {
        self.compile(py, GrammarSource::Lark(grammar))
    }

    /// Compile a list of texts, one of which is generated.
    fn choices(&self, py: Python<'_>, choices: Vec<String>) -> PyResult<Grammar> {
        self.compile(py, GrammarSource::Choices(choices))
    }
}

impl Grammars {
    fn compile(&self, py: Python<'_>, source: GrammarSource) -> PyResult<Grammar> {
        let inner = enter(py, move || self.inner.compile(&source))?;
        Ok(Grammar {
            inner: Mutex::new(inner),
        })
    }
}

/// The grammars of running sequences, under keys that callers choose: `request_id * sequences_per_request + index`.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct GrammarStates {
    sequences_per_request: u64,
    inner: Mutex<inferlib_text::GrammarStates>,
}

impl GrammarStates {
    fn lock(&self) -> MutexGuard<'_, inferlib_text::GrammarStates> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
#[expect(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands over owned arrays"
)]
impl GrammarStates {
    /// No sequence yet.
    #[new]
    fn new(vocab_size: usize, sequences_per_request: u64) -> Self {
        Self {
            sequences_per_request,
            inner: Mutex::new(inferlib_text::GrammarStates::new(vocab_size)),
        }
    }

    /// A sequence without output begins.
    fn insert(&self, py: Python<'_>, key: u64, grammar: &Grammar) -> PyResult<()> {
        enter(py, || {
            let grammar = grammar.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.lock().insert(key, &grammar)
        })
    }

    /// A sequence is over; false if it has no grammar.
    fn remove(&self, key: u64) -> bool {
        self.lock().remove(key)
    }

    /// Sequences with a grammar.
    fn __len__(&self) -> usize {
        self.lock().len()
    }

    /// Put the masks of a step into its batch.
    fn mask(&self, py: Python<'_>, batch: &PyBatch) -> PyResult<()> {
        let batch = batch.share();
        enter(py, || {
            let mut batch = lock(&batch);
            let is_drawn = |&row: &usize| batch.sampled[row].kind == LogitsRow::Sample;
            let drawn: Vec<usize> = (0..batch.sampled.len()).filter(is_drawn).collect();
            let masked = |&row: &usize| {
                let row = &batch.sampled[row];
                MaskedRow {
                    key: row.request.0 * self.sequences_per_request + u64::from(row.sequence_index),
                    num_output_tokens: row.num_output_tokens as usize,
                }
            };
            let rows: Vec<MaskedRow> = drawn.iter().map(masked).collect();
            let draft = |place: usize| draft_behind(&batch, drawn[place]);
            let masks = self.lock().masks(&rows, draft);
            for (row, mask) in drawn.into_iter().zip(masks) {
                batch.sampled[row].mask = mask;
            }
            Ok::<(), Error>(())
        })
    }

    /// Take over the tokens that a step appended, `[num_events]` both. Returns the keys of sequences whose text is whole.
    fn advance<'py>(
        &self,
        py: Python<'py>,
        keys: Vector<'_, u64>,
        token_ids: Vector<'_, i32>,
    ) -> PyResult<Array<'py, u64>> {
        let (keys, token_ids) = (keys.view().to_vec(), token_ids.view().to_vec());
        let complete = enter(py, || Ok::<_, Error>(self.lock().append(&keys, &token_ids)))?;
        Ok(Array(complete.into_pyarray(py)))
    }

    /// Start a sequence again with these output tokens; true if its text is whole.
    fn rebuild(&self, py: Python<'_>, key: u64, token_ids: Vector<'_, i32>) -> PyResult<bool> {
        let token_ids = token_ids.view().to_vec();
        enter(py, || {
            let mut states = self.lock();
            states.rebuild(key, &token_ids);
            Ok::<_, Error>(states.is_complete(key))
        })
    }

    /// Why a sequence's grammar allows nothing any more; `None` if it does.
    fn failure(&self, key: u64) -> Option<String> {
        self.lock().failure(key).map(ToString::to_string)
    }
}

/// The drafted token behind a row of logits; `None` behind a sequence's last one.
fn draft_behind(batch: &Batch, row: usize) -> Option<i32> {
    let token_row = usize::try_from(*batch.logits_indices.get(row)?).ok()? + 1;
    let sequence = batch.sampled[row].sequence as usize;
    let end = usize::try_from(*batch.query_start_loc.get(sequence + 1)?).ok()?;
    (token_row < end).then(|| batch.token_ids[token_row])
}
