//! `_core.Scheduler`: which requests run next. One object per model, usable from any thread; a step crosses here twice.
//!
//! For an executor in Rust: `PyBatch::share` gives the `inferlib_core::Batch` behind a `Batch` (lock it with
//! `batch::lock`, inside `enter`, for as long as the step runs; the scheduler does not wait for it), and
//! `PyStepOutput::from_output` makes what `Scheduler.update` takes.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use inferlib_core::kv_cache::{GroupConfig, PrefixHash};
use inferlib_core::{
    Continuation, Events, FinishReason, NewRequest, PromptLookup, RequestId, RequestStatus,
    Scheduler, SchedulerConfig, SequenceId, WaitReason,
};
use numpy::PyArray1;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::arrays::{Array, Vector};
use crate::batch::{PyBatch, SharedBatch, lock};
use crate::boundary::enter;
use crate::errors::{Error, to_py_err};
use crate::held_sequences::PyHeldSequences;
use crate::request_output::{PyRequestOutput, PySequenceOutput};
use crate::sampling_params::PySamplingParams;
use crate::scheduler_stats::PySchedulerStats;
use crate::step_output::PyStepOutput;

/// Decides what runs next: requests in, batches out, results back.
///
/// `now` is the time in seconds of `time.monotonic()`; without it the clock is read.
#[pyclass(frozen, module = "inferlib._core", name = "Scheduler")]
pub(crate) struct PyScheduler {
    inner: Arc<Mutex<Inner>>,
}

pub(crate) struct Inner {
    pub(crate) scheduler: Scheduler,
    /// Refilled for the next step if no handle on it is left.
    batch: SharedBatch,
}

/// Run `f` on the scheduler without the GIL.
pub(crate) fn with<T: Send>(
    py: Python<'_>,
    inner: &Mutex<Inner>,
    f: impl FnOnce(&mut Inner) -> Result<T, Error> + Send,
) -> PyResult<T> {
    enter(py, || {
        // A panic half-way may leave anything behind: nothing is computed from it any more.
        let poisoned = |_: PoisonError<_>| {
            Error::Internal("the scheduler failed earlier; load the model again".to_owned())
        };
        f(&mut *inner.lock().map_err(poisoned)?)
    })
}

impl PyScheduler {
    /// Run `f` on the scheduler without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Inner) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        with(py, &self.inner, f)
    }

    /// `f` of a request that was submitted and not taken yet.
    fn with_output<T: Send>(
        &self,
        py: Python<'_>,
        request_id: u64,
        f: impl FnOnce(&inferlib_core::RequestOutput) -> Option<T> + Send,
    ) -> PyResult<T> {
        let found = self.with(py, |inner| {
            Ok(inner.scheduler.output(RequestId(request_id)).and_then(f))
        })?;
        found.ok_or_else(|| unknown(request_id))
    }
}

#[pymethods]
impl PyScheduler {
    /// An idle scheduler with an empty KV cache.
    ///
    /// `groups` holds `(num_blocks, window)` of each KV group of the program. `prefix_hash_key` is random unless given.
    ///
    /// With `num_speculative_tokens` a sequence's last `prompt_lookup_max` down to `prompt_lookup_min` tokens are
    /// looked up among its earlier ones, and up to that many tokens that followed are drafted, as long as the step has
    /// no more than `rows_per_pass` rows.
    #[new]
    #[pyo3(signature = (
        *, groups, max_num_seqs, max_num_batched_tokens, max_model_len, vocab_size, enable_prefix_caching = true,
        num_speculative_tokens = None, prompt_lookup_max = 4, prompt_lookup_min = 1, rows_per_pass = 6,
        max_chunk = None, max_waiting = None, max_waiting_tokens = None, prefix_hash_key = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        py: Python<'_>,
        groups: Vec<(u32, Option<usize>)>,
        max_num_seqs: usize,
        max_num_batched_tokens: usize,
        max_model_len: usize,
        vocab_size: usize,
        enable_prefix_caching: bool,
        num_speculative_tokens: Option<usize>,
        prompt_lookup_max: usize,
        prompt_lookup_min: usize,
        rows_per_pass: usize,
        max_chunk: Option<usize>,
        max_waiting: Option<usize>,
        max_waiting_tokens: Option<usize>,
        prefix_hash_key: Option<(u64, u64)>,
    ) -> PyResult<Self> {
        let group = |(num_blocks, window)| GroupConfig { num_blocks, window };
        let (first, second) = prefix_hash_key.unwrap_or_else(|| {
            let random = RandomState::new();
            (random.hash_one(0), random.hash_one(1))
        });
        let config = SchedulerConfig {
            groups: groups.into_iter().map(group).collect(),
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            vocab_size,
            speculation: num_speculative_tokens.map(|num_speculative_tokens| PromptLookup {
                num_speculative_tokens,
                prompt_lookup_max,
                prompt_lookup_min,
            }),
            rows_per_pass,
            enable_prefix_caching,
            max_chunk,
            max_waiting,
            max_waiting_tokens,
            prefix_hash: PrefixHash {
                key: [first, second],
                ..PrefixHash::default()
            },
        };
        let scheduler = enter(py, || Scheduler::new(config))?;
        let inner = Inner {
            scheduler,
            batch: SharedBatch::default(),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// Queue a request; its id. Raises `RequestError`, `PromptTooLongError` or `OverloadedError` at once.
    ///
    /// It goes on from the held `sequence`, whose salt it has; with `keep` its tokens are the sequence's once it ended.
    /// `SequenceBusyError` if another such request runs.
    #[pyo3(signature = (
        prompt, params, *, n = 1, seed = 0, cache_salt = None, priority = 0, speculation = true, sequence = None,
        keep = false, now = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned array"
    )]
    fn submit(
        &self,
        py: Python<'_>,
        prompt: Vector<'_, i32>,
        params: &PySamplingParams,
        n: u32,
        seed: u64,
        cache_salt: Option<String>,
        priority: i32,
        speculation: bool,
        sequence: Option<u64>,
        keep: bool,
        now: Option<f64>,
    ) -> PyResult<u64> {
        let now = clock(py, now)?;
        let prompt = prompt.view().to_vec();
        let params = params.shared();
        let new = NewRequest {
            prompt,
            params,
            n,
            seed,
            cache_salt,
            priority,
            speculation,
            continues: sequence.map(|id| Continuation {
                sequence: SequenceId(id),
                keep,
            }),
        };
        self.with(py, |inner| Ok(inner.scheduler.submit(new, now)?.0))
    }

    /// End a request with `finish_reason="abort"`, also while a step is in flight; whether it was alive.
    #[pyo3(signature = (request_id, now = None))]
    fn cancel(&self, py: Python<'_>, request_id: u64, now: Option<f64>) -> PyResult<bool> {
        let now = clock(py, now)?;
        self.with(py, |inner| {
            Ok(inner.scheduler.cancel(RequestId(request_id), now))
        })
    }

    /// End one sequence, also while a step is in flight; whether it was alive. `reason` is `"stop"`, `"length"`,
    /// `"abort"` or `"error"`.
    ///
    /// With `num_output_tokens` it ends with that token: what the same step brought behind it goes, even if the
    /// sequence ended with that meanwhile.
    #[pyo3(signature = (request_id, sequence_index, reason, now = None, *, num_output_tokens = None))]
    fn finish(
        &self,
        py: Python<'_>,
        request_id: u64,
        sequence_index: u32,
        reason: &str,
        now: Option<f64>,
        num_output_tokens: Option<usize>,
    ) -> PyResult<bool> {
        let now = clock(py, now)?;
        let reason = FinishReason::from_name(reason).ok_or_else(|| {
            let message =
                format!(r#"reason is {reason:?}; it can be "stop", "length", "abort" or "error""#);
            to_py_err(
                py,
                Error::Request {
                    field: "reason",
                    message,
                },
            )
        })?;
        self.with(py, |inner| {
            let id = RequestId(request_id);
            Ok(inner
                .scheduler
                .finish(id, sequence_index, reason, num_output_tokens, now))
        })
    }

    /// Plan a step; `None` if there is nothing to do. A step still in flight is discarded.
    #[pyo3(signature = (now = None))]
    fn schedule(&self, py: Python<'_>, now: Option<f64>) -> PyResult<Option<PyBatch>> {
        let now = clock(py, now)?;
        self.with(py, |inner| {
            if Arc::strong_count(&inner.batch) > 1 {
                inner.batch = SharedBatch::default(); // somebody still reads the last one
            }
            let planned = inner.scheduler.schedule_into(&mut lock(&inner.batch), now);
            Ok(planned.then(|| PyBatch::new(Arc::clone(&inner.batch))))
        })
    }

    /// Account for the result of the step in flight.
    #[pyo3(signature = (output, now = None))]
    fn update(
        &self,
        py: Python<'_>,
        output: &PyStepOutput,
        now: Option<f64>,
    ) -> PyResult<PyEvents> {
        let now = clock(py, now)?;
        let output = output.output();
        let events = self.with(py, |inner| Ok(inner.scheduler.update(output, now)?.clone()))?;
        Ok(PyEvents::new(py, events))
    }

    /// The step failed or was interrupted: nothing of it counts, the next `schedule` plans it again.
    fn discard_step(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| {
            inner.scheduler.discard_step();
            Ok(())
        })
    }

    /// Whether `schedule` would give a batch.
    fn has_work(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |inner| Ok(inner.scheduler.has_work()))
    }

    /// A snapshot of a request's results. `KeyError` if it is unknown or was taken.
    fn output(&self, py: Python<'_>, request_id: u64) -> PyResult<PyRequestOutput> {
        self.with_output(py, request_id, |output| {
            Some(PyRequestOutput::new(output.clone()))
        })
    }

    /// Remove a finished request; its results. `KeyError` if it is unknown, was taken, or is not finished.
    fn take(&self, py: Python<'_>, request_id: u64) -> PyResult<PyRequestOutput> {
        let taken = self.with(py, |inner| Ok(inner.scheduler.take(RequestId(request_id))))?;
        taken
            .map(PyRequestOutput::new)
            .ok_or_else(|| unknown(request_id))
    }

    /// One sequence of a request, from its token `start` on. `KeyError` as in `output`.
    fn sequence_since(
        &self,
        py: Python<'_>,
        request_id: u64,
        sequence_index: usize,
        start: usize,
    ) -> PyResult<PySequenceOutput> {
        self.with_output(py, request_id, |output| {
            let sequence = output.sequences.get(sequence_index)?;
            Some(PySequenceOutput::since(sequence, start))
        })
    }

    /// Tokens generated by all sequences of a request. `KeyError` as in `output`.
    fn num_output_tokens(&self, py: Python<'_>, request_id: u64) -> PyResult<usize> {
        self.with_output(py, request_id, |output| {
            Some(
                output
                    .sequences
                    .iter()
                    .map(|sequence| sequence.token_ids.len())
                    .sum(),
            )
        })
    }

    /// Whether every sequence of a request ended. `KeyError` as in `output`.
    fn is_finished(&self, py: Python<'_>, request_id: u64) -> PyResult<bool> {
        self.with_output(py, request_id, |output| Some(output.is_finished()))
    }

    /// `"waiting"`, `"running"`, `"preempted"` or `"finished"`. `KeyError` as in `output`.
    fn status(&self, py: Python<'_>, request_id: u64) -> PyResult<&'static str> {
        let status = self.with(py, |inner| {
            Ok(inner.scheduler.status(RequestId(request_id)))
        })?;
        status
            .map(RequestStatus::as_str)
            .ok_or_else(|| unknown(request_id))
    }

    /// Why a request does not run, as a plain dict; `None` if it runs, has ended, or is unknown. `reason` is that of the
    /// latest step: `"blocks"`, `"max_num_seqs"`, `"token_budget"`, `"preemption"` or `None`.
    #[pyo3(signature = (request_id) -> "dict[str, object] | None")]
    fn why_waiting<'py>(
        &self,
        py: Python<'py>,
        request_id: u64,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let waiting = self.with(py, |inner| {
            Ok(inner.scheduler.why_waiting(RequestId(request_id)))
        })?;
        let Some(waiting) = waiting else {
            return Ok(None);
        };
        let dict = PyDict::new(py);
        dict.set_item("reason", waiting.reason.map(WaitReason::as_str))?;
        dict.set_item("num_ahead", waiting.num_ahead)?;
        dict.set_item("num_needed_blocks", waiting.num_needed_blocks)?;
        dict.set_item("num_free_blocks", waiting.num_free_blocks)?;
        dict.set_item("num_running_seqs", waiting.num_running_seqs)?;
        dict.set_item("is_preempted", waiting.is_preempted)?;
        Ok(Some(dict))
    }

    /// The sequences that are held between requests.
    #[getter]
    fn sequences(&self) -> PyHeldSequences {
        PyHeldSequences::new(Arc::clone(&self.inner))
    }

    /// Counters now.
    fn stats(&self, py: Python<'_>) -> PyResult<PySchedulerStats> {
        let stats = self.with(py, |inner| Ok(inner.scheduler.stats()))?;
        Ok(PySchedulerStats::new(&stats))
    }

    /// Verify every invariant; `InternalError` with the first contradiction. For tests.
    fn check_integrity(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| {
            inner.scheduler.check_integrity().map_err(Error::Internal)
        })
    }
}

/// What a step brought, as parallel arrays: no object per request.
#[pyclass(frozen, module = "inferlib._core", name = "Events")]
pub(crate) struct PyEvents {
    request_ids: Py<PyArray1<i64>>,
    sequence_indices: Py<PyArray1<i32>>,
    token_indices: Py<PyArray1<i32>>,
    token_ids: Py<PyArray1<i32>>,
    finished: Py<PyArray1<bool>>,
    finished_requests: Py<PyArray1<i64>>,
}

impl PyEvents {
    fn new(py: Python<'_>, events: Events) -> Self {
        // Ids and indices are below their signed types' limits by construction.
        let ids = |ids: Vec<RequestId>| ids.into_iter().map(|id| id.0.cast_signed());
        let indices = events.sequence_indices.into_iter().map(u32::cast_signed);
        let token_indices = events.token_indices.into_iter().map(u32::cast_signed);
        Self {
            request_ids: PyArray1::from_iter(py, ids(events.request_ids)).unbind(),
            sequence_indices: PyArray1::from_iter(py, indices).unbind(),
            token_indices: PyArray1::from_iter(py, token_indices).unbind(),
            token_ids: PyArray1::from_vec(py, events.token_ids).unbind(),
            finished: PyArray1::from_vec(py, events.finished).unbind(),
            finished_requests: PyArray1::from_iter(py, ids(events.finished_requests)).unbind(),
        }
    }
}

#[pymethods]
impl PyEvents {
    /// `[num_tokens]`: whose token.
    #[getter]
    fn request_ids<'py>(&self, py: Python<'py>) -> Array<'py, i64> {
        Array(self.request_ids.bind(py).clone())
    }

    /// `[num_tokens]`: which of its sequences.
    #[getter]
    fn sequence_indices<'py>(&self, py: Python<'py>) -> Array<'py, i32> {
        Array(self.sequence_indices.bind(py).clone())
    }

    /// `[num_tokens]`: which of the sequence's output tokens. A step may bring several of one sequence, in order.
    #[getter]
    fn token_indices<'py>(&self, py: Python<'py>) -> Array<'py, i32> {
        Array(self.token_indices.bind(py).clone())
    }

    /// `[num_tokens]`: the token appended.
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> Array<'py, i32> {
        Array(self.token_ids.bind(py).clone())
    }

    /// `[num_tokens]`: whether the sequence ended with it.
    #[getter]
    fn finished<'py>(&self, py: Python<'py>) -> Array<'py, bool> {
        Array(self.finished.bind(py).clone())
    }

    /// Requests whose last sequence ended in this step, also without a token. Not those that `cancel` or `finish`
    /// ended.
    #[getter]
    fn finished_requests<'py>(&self, py: Python<'py>) -> Array<'py, i64> {
        Array(self.finished_requests.bind(py).clone())
    }
}

fn unknown(request_id: u64) -> PyErr {
    PyKeyError::new_err(format!("no such request: {request_id}"))
}

/// `now`, or what `time.monotonic()` says.
fn clock(py: Python<'_>, now: Option<f64>) -> PyResult<f64> {
    static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    match now {
        Some(now) => Ok(now),
        None => MONOTONIC
            .import(py, "time", "monotonic")?
            .call0()?
            .extract(),
    }
}
