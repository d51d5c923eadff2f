//! `_core.Scheduler`: which requests run next. One object per model, usable from any thread; a step crosses here twice.
//!
//! For an executor in Rust: `PyBatch::share` gives the `inferlib_program::Batch` behind a `Batch` (lock it with
//! `batch::lock`, inside `enter`, for as long as the step runs; the scheduler does not wait for it), and
//! `PyStepOutput::from_output` makes what `Scheduler.update` takes.

mod arguments;
mod clock;
mod shared;
mod waiting;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use inferlib_core::kv_cache::GroupConfig;
use inferlib_core::scheduler::BACKGROUND_TOKENS;
use inferlib_core::{
    Continuation, DraftModel, NewRequest, Policy, PromptLookup, RequestStatus, Scheduler,
    SchedulerConfig, SequenceId, TenantStats, WantedDraft,
};
use inferlib_program::RequestId;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Array, Vector};
use crate::batch::{PyBatch, SharedBatch, lock};
use crate::boundary::enter;
use crate::errors::Error;
use crate::events::PyEvents;
use crate::held_sequences::PyHeldSequences;
use crate::request_output::{PyRequestOutput, PySequenceOutput};
use crate::sampling_params::PySamplingParams;
use crate::scheduler_stats::PySchedulerStats;
use crate::step_output::PyStepOutput;
use clock::clock;
pub(crate) use shared::{Inner, with};

/// Decides what runs next: requests in, batches out, results back.
///
/// `now` is the time in seconds of `time.monotonic()`; without it the clock is read.
#[pyclass(frozen, module = "inferlib._core", name = "Scheduler")]
pub(crate) struct PyScheduler {
    inner: Arc<Mutex<Inner>>,
}

impl PyScheduler {
    /// Run `f` on the scheduler without the GIL.
    pub(crate) fn with<T: Send>(
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
    /// no more than `rows_per_pass` rows. With `num_model_tokens` a draft model stands beside it: `wanted_drafts` says what
    /// it is to draft, up to that many tokens, and `suggest` takes them.
    ///
    /// With `whole_prompts` every prompt is one step and nothing is kept of it: for models whose tokens see those behind
    /// them.
    ///
    /// `policy` is `"fcfs"`, `"priority"` (better by a class for every `steps_per_class` steps), `"fair"` (per tenant; a
    /// prompt token costs `input_weight`, a generated one `output_weight`) or `"deadline"` (a request without one has
    /// `patience_seconds`). Requests in the background get `background_tokens` of a step at most.
    #[new]
    #[pyo3(signature = (
        *, groups, max_num_seqs, max_num_batched_tokens, max_model_len, vocab_size, enable_prefix_caching = true,
        num_speculative_tokens = None, prompt_lookup_max = 4, prompt_lookup_min = 1, num_model_tokens = None, rows_per_pass = 6,
        policy = "fcfs", steps_per_class = Policy::STEPS_PER_CLASS, input_weight = Policy::INPUT_WEIGHT,
        output_weight = Policy::OUTPUT_WEIGHT, patience_seconds = Policy::PATIENCE_SECONDS, background_tokens = BACKGROUND_TOKENS,
        whole_prompts = false, max_chunk = None, max_waiting = None, max_waiting_tokens = None, prefix_hash_key = None,
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
        num_model_tokens: Option<usize>,
        rows_per_pass: usize,
        policy: &str,
        steps_per_class: u32,
        input_weight: u32,
        output_weight: u32,
        patience_seconds: f64,
        background_tokens: usize,
        whole_prompts: bool,
        max_chunk: Option<usize>,
        max_waiting: Option<usize>,
        max_waiting_tokens: Option<usize>,
        prefix_hash_key: Option<(u64, u64)>,
    ) -> PyResult<Self> {
        let group = |(num_blocks, window)| GroupConfig { num_blocks, window };
        let policy = arguments::policy(
            py,
            policy,
            steps_per_class,
            (input_weight, output_weight),
            patience_seconds,
        )?;
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
            draft_model: num_model_tokens.map(|num_speculative_tokens| DraftModel {
                num_speculative_tokens,
            }),
            rows_per_pass,
            policy,
            background_tokens,
            enable_prefix_caching,
            whole_prompts,
            max_chunk,
            max_waiting,
            max_waiting_tokens,
            prefix_hash: arguments::prefix_hash(prefix_hash_key),
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

    /// Write everything from now on to a new file: what this scheduler is told, and what it decides. `RequestError` if the
    /// file exists or cannot be made. For a scheduler that nothing was given to yet.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned path"
    )]
    fn log_decisions(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |inner| {
            let refuse = |error: std::io::Error| Error::Request {
                field: "decision_log",
                message: format!("cannot write the decision log {}: {error}", path.display()),
            };
            let file = File::create_new(&path).map_err(refuse)?;
            inner
                .scheduler
                .log_decisions(Box::new(file))
                .map_err(refuse)
        })
    }

    /// End the log of decisions, if there is one; why it ended earlier, if it could not be written.
    fn end_decision_log(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.with(py, |inner| {
            let error = inner.scheduler.end_decision_log();
            Ok(error.map(|error| error.to_string()))
        })
    }

    /// Queue a request; its id. Raises `RequestError`, `PromptTooLongError` or `OverloadedError` at once.
    ///
    /// One in the `background` runs where all others leave room. It goes on from the held `sequence`, whose salt it has;
    /// with `keep` its tokens are the sequence's once it ended.
    /// `SequenceBusyError` if another such request runs. It is computed with the executor's `adapter` of that number, which
    /// is never given to another one: prefixes are shared only under it. At `deadline`, a moment like `now`, it ends with
    /// what it has; one that `closes` has a second more for that. Prompt lookup drafts for it where `speculation` says so,
    /// the draft model where `draft_model` does.
    ///
    /// Of the `captures`, by number and kind of rows (`"tokens"` from `capture_start` on, `"sequences"`, or `"sampled"`: the
    /// logits that `prompt_logprobs` scores and the first token is drawn from), the rows of the prompt are handed out:
    /// `RequestOutput.captures`. The second of two texts begins at `second_segment`.
    #[pyo3(signature = (
        prompt, params, *, n = 1, seed = 0, cache_salt = None, priority = 0, background = false, tenant = None, deadline = None,
        closes = false, speculation = true, draft_model = true, sequence = None, keep = false, captures = vec![],
        capture_start = 0, second_segment = None,
        adapter = 0, now = None
    ))]
    #[expect(clippy::fn_params_excessive_bools, reason = "keyword-only in Python")]
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
        background: bool,
        tenant: Option<String>,
        deadline: Option<f64>,
        closes: bool,
        speculation: bool,
        draft_model: bool,
        sequence: Option<u64>,
        keep: bool,
        captures: Vec<(u32, String)>,
        capture_start: usize,
        second_segment: Option<usize>,
        adapter: u32,
        now: Option<f64>,
    ) -> PyResult<u64> {
        let now = clock(py, now)?;
        let prompt = prompt.view().to_vec();
        let params = params.shared();
        let captures = arguments::captures(py, captures, capture_start)?;
        let new = NewRequest {
            captures,
            second_segment,
            prompt,
            params,
            n,
            seed,
            cache_salt,
            priority,
            background,
            tenant,
            deadline,
            closes,
            speculation,
            draft_model,
            continues: sequence.map(|id| Continuation {
                sequence: SequenceId(id),
                keep,
            }),
            adapter,
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
    /// `"abort"`, `"error"`, `"deadline"` or `"abstain"`.
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
        let reason = arguments::finish_reason(py, reason)?;
        self.with(py, |inner| {
            let id = RequestId(request_id);
            Ok(inner
                .scheduler
                .finish(id, sequence_index, reason, num_output_tokens, now))
        })
    }

    /// What the draft model is to draft before the next step: `(request_id, sequence_index, num_tokens, num_drafts)` of
    /// sequences that have `num_tokens` tokens now, of which the next step has rows for `num_drafts` more. To be asked once
    /// per step.
    fn wanted_drafts(&self, py: Python<'_>) -> PyResult<Vec<(u64, u32, usize, usize)>> {
        self.with(py, |inner| {
            let wanted = inner.scheduler.wanted_drafts().iter();
            let row = |each: &WantedDraft| {
                let WantedDraft {
                    request_id,
                    sequence_index,
                    num_tokens,
                    num_drafts,
                } = *each;
                (request_id.0, sequence_index, num_tokens, num_drafts)
            };
            Ok(wanted.map(row).collect())
        })
    }

    /// Tokens that the draft model thinks follow what a sequence has now; false if it has ended or wants none. What is
    /// drawn at their rows decides.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned array"
    )]
    fn suggest(
        &self,
        py: Python<'_>,
        request_id: u64,
        sequence_index: u32,
        token_ids: Vector<'_, i32>,
    ) -> PyResult<bool> {
        let tokens = token_ids.view().to_vec();
        self.with(py, |inner| {
            let id = RequestId(request_id);
            Ok(inner.scheduler.suggest(id, sequence_index, &tokens))
        })
    }

    /// Tokens of one sequence of a request, prompt and output, from its `start`-th on. `KeyError` as in `output`.
    fn tokens_since<'py>(
        &self,
        py: Python<'py>,
        request_id: u64,
        sequence_index: usize,
        start: usize,
    ) -> PyResult<Array<'py, i32>> {
        let tokens = self.with_output(py, request_id, |output| {
            let (prompt, said) = (
                &output.prompt_token_ids,
                &output.sequences.get(sequence_index)?.token_ids,
            );
            let tokens = prompt.iter().chain(said).skip(start);
            Some(tokens.copied().collect::<Vec<_>>())
        })?;
        Array::read_only(py, &tokens)
    }

    /// Tokens that certainly follow what a sequence has now: rows of its next step. What is drawn at their rows decides all
    /// the same. Forgotten once the sequence goes on; whether it was alive.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over an owned list"
    )]
    fn force(
        &self,
        py: Python<'_>,
        request_id: u64,
        sequence_index: u32,
        token_ids: Vec<i32>,
    ) -> PyResult<bool> {
        self.with(py, |inner| {
            let id = RequestId(request_id);
            Ok(inner.scheduler.force(id, sequence_index, &token_ids))
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
            if !planned && inner.scheduler.has_work() {
                // Cannot be, by the argument for progress in `inferlib_core::scheduler`; better said than waited for.
                return Err(Error::Internal("the scheduler is stuck".to_owned()));
            }
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

    /// What happened without a step: requests that ended at their deadline when `schedule` had nothing else to do.
    /// Otherwise `update` tells of them.
    fn overdue(&self, py: Python<'_>) -> PyResult<PyEvents> {
        let events = self.with(py, |inner| Ok(inner.scheduler.overdue().clone()))?;
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
    /// latest step: `"blocks"`, `"max_num_seqs"`, `"token_budget"`, `"preemption"` or `None`. What its place in the queue
    /// comes from is said by `policy` and, by policy, `priority` and `effective_priority`, `service` and `least_service`
    /// (weighted tokens of its tenant, and of the one that was served least), or `due` and `has_deadline`.
    #[pyo3(signature = (request_id) -> "dict[str, object] | None")]
    fn why_waiting<'py>(
        &self,
        py: Python<'py>,
        request_id: u64,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let waiting = self.with(py, |inner| {
            Ok(inner.scheduler.why_waiting(RequestId(request_id)))
        })?;
        waiting
            .map(|waiting| waiting::as_dict(py, waiting))
            .transpose()
    }

    /// Weighted tokens that each tenant got under fair share, `(tenant, service, num_seqs, num_waiting_seqs)`, as far as
    /// they are remembered: tenants with something to do, and those that are ahead. In order of the names.
    #[expect(
        clippy::type_complexity,
        reason = "a list of tuples; a class would be no clearer"
    )]
    fn tenants(&self, py: Python<'_>) -> PyResult<Vec<(Option<String>, u64, usize, usize)>> {
        let mut tenants = self.with(py, |inner| {
            let tenants = inner.scheduler.tenants();
            let row = |each: TenantStats| {
                (
                    each.tenant,
                    each.service,
                    each.num_seqs,
                    each.num_waiting_seqs,
                )
            };
            Ok(tenants.map(row).collect::<Vec<_>>())
        })?;
        tenants.sort();
        Ok(tenants)
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

fn unknown(request_id: u64) -> PyErr {
    PyKeyError::new_err(format!("no such request: {request_id}"))
}
