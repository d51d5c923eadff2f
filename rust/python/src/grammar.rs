//! Structured output: compiled grammars, and the states of running sequences.

use std::sync::{Mutex, MutexGuard, PoisonError};

use inferlib_program::{Batch, LogitsRow, RequestId, RowStatus};
use inferlib_text::{GrammarSource, MaskedRow, SequenceLimit};
use pyo3::prelude::*;

use crate::arrays::Vector;
use crate::batch::{PyBatch, draft_behind, lock};
use crate::boundary::enter;
use crate::errors::Error;
use crate::scheduler::PyScheduler;
use crate::step_output::PyStepOutput;
use crate::tokenizer::Tokenizer;

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

#[pymethods]
impl Grammar {
    /// No text of it has fewer tokens.
    #[getter]
    fn least_tokens(&self) -> usize {
        let grammar = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        grammar.least_tokens()
    }

    /// Bytes of the automata that each of its sequences has.
    #[getter]
    fn num_bytes(&self) -> usize {
        let grammar = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        grammar.num_bytes()
    }

    /// Tokens of a short text; `None` if none was found with a bounded effort.
    #[getter]
    fn shortest(&self) -> Option<Vec<u32>> {
        let grammar = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        grammar.shortest().map(<[u32]>::to_vec)
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

    fn masked_rows(&self, batch: &Batch, drawn: &[usize]) -> Vec<MaskedRow> {
        let masked = |&row: &usize| {
            let row = &batch.sampled[row];
            MaskedRow {
                key: row.request.0 * self.sequences_per_request + u64::from(row.sequence_index),
                num_output_tokens: row.num_output_tokens as usize,
            }
        };
        drawn.iter().map(masked).collect()
    }
}

#[pymethods]
#[expect(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands over owned arrays"
)]
impl GrammarStates {
    /// No sequence yet. Where the automata of all take more than `max_bytes`, the sequence with the largest ones fails.
    #[new]
    fn new(vocab_size: usize, sequences_per_request: u64, max_bytes: usize) -> Self {
        Self {
            sequences_per_request,
            inner: Mutex::new(inferlib_text::GrammarStates::new(vocab_size, max_bytes)),
        }
    }

    /// A sequence without output begins: at most `max_tokens` tokens, closed before they run out if it `closes`. With
    /// `forces` the scheduler is told tokens that must follow.
    #[pyo3(signature = (key, grammar, *, max_tokens, closes, forces))]
    fn insert(
        &self,
        py: Python<'_>,
        key: u64,
        grammar: &Grammar,
        max_tokens: usize,
        closes: bool,
        forces: bool,
    ) -> PyResult<()> {
        let limit = SequenceLimit {
            max_tokens,
            closes,
            forces,
        };
        enter(py, || {
            let grammar = grammar.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.lock().insert(key, &grammar, limit)
        })
    }

    /// A sequence is over; false if it has no grammar.
    fn remove(&self, key: u64) -> bool {
        self.lock().remove(key)
    }

    /// Number of logits.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.lock().vocab_size()
    }

    /// Bytes of the automata of all sequences.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.lock().num_bytes()
    }

    /// Sequences with a grammar.
    fn __len__(&self) -> usize {
        self.lock().len()
    }

    /// Put the masks of a step into its batch. Whether what is drawn must go through `refuse`.
    fn mask(&self, py: Python<'_>, batch: &PyBatch) -> PyResult<bool> {
        let batch = batch.share();
        enter(py, || {
            let mut batch = lock(&batch);
            let drawn = drawn_rows(&batch);
            let rows = self.masked_rows(&batch, &drawn);
            let mut states = self.lock();
            let masks = states.masks(&rows, |place| draft_behind(&batch, drawn[place]));
            for (row, mask) in drawn.into_iter().zip(masks) {
                batch.sampled[row].mask = mask;
            }
            Ok::<_, Error>(states.is_guarded())
        })
    }

    /// The result of a step without the tokens behind which a text could not end in time.
    fn refuse(
        &self,
        py: Python<'_>,
        batch: &PyBatch,
        output: &PyStepOutput,
    ) -> PyResult<PyStepOutput> {
        let batch = batch.share();
        let mut output = output.output().clone();
        enter(py, || {
            let batch = lock(&batch);
            let drawn = drawn_rows(&batch);
            let rows = self.masked_rows(&batch, &drawn);
            let token = |place: usize| {
                let row = drawn[place];
                let is_drawn = output.status.get(row) == Some(&RowStatus::Ok);
                output.token_ids.get(row).copied().filter(|_| is_drawn)
            };
            let draft = |place: usize| draft_behind(&batch, drawn[place]);
            for place in self.lock().refused(&rows, draft, token) {
                output.status[drawn[place]] = RowStatus::Redraw;
            }
            Ok::<_, Error>(PyStepOutput::from_output(output))
        })
    }

    /// Tell the scheduler which tokens must follow in these sequences.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below sequences_per_request"
    )]
    fn force(
        &self,
        py: Python<'_>,
        scheduler: &PyScheduler,
        keys: Vector<'_, u64>,
    ) -> PyResult<()> {
        let keys = keys.view().to_vec();
        let forced: Vec<(u64, Vec<i32>)> = enter(py, || {
            let mut states = self.lock();
            let forced = keys.into_iter().map(|key| (key, states.forced(key)));
            Ok::<_, Error>(forced.filter(|(_, tokens)| !tokens.is_empty()).collect())
        })?;
        if forced.is_empty() {
            return Ok(());
        }
        scheduler.with(py, |inner| {
            for (key, tokens) in forced {
                let id = RequestId(key / self.sequences_per_request);
                let index = (key % self.sequences_per_request) as u32;
                inner.scheduler.force(id, index, &tokens);
            }
            Ok(())
        })
    }

    /// End a text by a short way from now on; how many tokens that takes. `None`: it has no grammar, or it cannot end.
    fn close(&self, py: Python<'_>, key: u64) -> PyResult<Option<usize>> {
        enter(py, || Ok::<_, Error>(self.lock().close(key)))
    }

    /// Take over the tokens that a step appended, `[num_events]` both. Returns the keys of sequences whose text is whole,
    /// with which of their tokens it is, and whether it was closed on request.
    fn advance(
        &self,
        py: Python<'_>,
        keys: Vector<'_, u64>,
        token_ids: Vector<'_, i32>,
    ) -> PyResult<Vec<(u64, usize, bool)>> {
        let (keys, token_ids) = (keys.view().to_vec(), token_ids.view().to_vec());
        enter(py, || {
            let complete = self.lock().append(&keys, &token_ids);
            let ends = complete.into_iter();
            let ends = ends.map(|each| (each.key, each.num_output_tokens, each.was_closed));
            Ok::<_, Error>(ends.collect())
        })
    }

    /// Start a sequence again with these output tokens. Whether its text is whole, and was closed on request.
    fn rebuild(
        &self,
        py: Python<'_>,
        key: u64,
        token_ids: Vector<'_, i32>,
    ) -> PyResult<(bool, bool)> {
        let token_ids = token_ids.view().to_vec();
        enter(py, || {
            let mut states = self.lock();
            states.rebuild(key, &token_ids);
            Ok::<_, Error>((states.is_complete(key), states.is_closing(key)))
        })
    }

    /// Why a sequence's grammar allows nothing any more; `None` if it does.
    fn failure(&self, key: u64) -> Option<String> {
        self.lock().failure(key).map(ToString::to_string)
    }
}

/// Rows of logits that tokens are drawn from.
fn drawn_rows(batch: &Batch) -> Vec<usize> {
    let is_drawn = |&row: &usize| batch.sampled[row].kind == LogitsRow::Sample;
    (0..batch.sampled.len()).filter(is_drawn).collect()
}
