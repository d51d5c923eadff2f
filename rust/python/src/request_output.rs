//! `_core.RequestOutput` and its parts: snapshots of a request's results. Arrays and objects are made on access.

use std::ops::Range;
use std::sync::Arc;

use inferlib_core::{
    Pooling, RequestOutput, SequenceOutput, Timestamps, WaitReason, normalize as to_length_one,
};
use inferlib_program::RowLogprobs;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::Array;
use crate::errors::{Error, to_py_err};

/// Results of a request.
#[pyclass(frozen, module = "inferlib._core", name = "RequestOutput")]
pub(crate) struct PyRequestOutput {
    output: Arc<RequestOutput>,
}

impl PyRequestOutput {
    pub(crate) fn new(output: RequestOutput) -> Self {
        Self {
            output: Arc::new(output),
        }
    }
}

#[pymethods]
impl PyRequestOutput {
    /// As `Scheduler.submit` gave it.
    #[getter]
    fn request_id(&self) -> u64 {
        self.output.request_id.0
    }

    /// The prompt.
    #[getter]
    fn prompt_token_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        Array::read_only(py, &self.output.prompt_token_ids)
    }

    /// `[n]`.
    #[getter]
    fn sequences(&self) -> Vec<PySequenceOutput> {
        let sequence = |sequence: &SequenceOutput| PySequenceOutput {
            sequence: sequence.clone(),
        };
        self.output.sequences.iter().map(sequence).collect()
    }

    /// Log-probabilities of the prompt tokens from `prompt_logprobs_start` on; `None` unless asked for.
    #[getter]
    fn prompt_logprobs(&self) -> Option<Vec<PyRowLogprobs>> {
        self.output.prompt_logprobs.as_deref().map(rows)
    }

    /// Position of the first entry of `prompt_logprobs`: 1 or more, since nothing precedes position 0.
    #[getter]
    fn prompt_logprobs_start(&self) -> usize {
        self.output.prompt_logprobs_start
    }

    /// Rows of the capture points that were asked for, in their order: `[rows * width]` each.
    #[getter]
    fn captures<'py>(&self, py: Python<'py>) -> PyResult<Vec<Array<'py, f32>>> {
        let captures = self.output.captures.iter();
        captures.map(|rows| Array::read_only(py, rows)).collect()
    }

    /// `[dimensions]`: one vector of its only capture's rows, which are `width` wide: `pooling` (`"cls"`, `"mean"`,
    /// `"last"`, `"max"`), of it the first `dimensions`, brought to length 1 if `normalize`. `None` if a number is none.
    ///
    /// A mean is summed in float64, token by token, so that it depends on nothing but the rows.
    fn vector<'py>(
        &self,
        py: Python<'py>,
        pooling: &str,
        width: usize,
        dimensions: usize,
        normalize: bool,
    ) -> PyResult<Option<Array<'py, f32>>> {
        let Some(how) = Pooling::from_name(pooling) else {
            let message = format!("pooling is {pooling:?}; it is cls, mean, last or max");
            let field = "pooling";
            return Err(to_py_err(py, Error::Request { field, message }));
        };
        let rows = self.output.captures.first();
        let Some(mut vector) = rows.and_then(|rows| how.pool(rows, width)) else {
            return Ok(None);
        };
        vector.truncate(dimensions);
        if normalize {
            to_length_one(&mut vector);
        }
        Array::read_only(py, &vector).map(Some)
    }

    /// Prompt tokens whose K and V were found in the prefix cache when the request first ran.
    #[getter]
    fn num_cached_tokens(&self) -> usize {
        self.output.num_cached_tokens
    }

    /// How often a sequence of it lost its blocks.
    #[getter]
    fn num_preemptions(&self) -> u32 {
        self.output.num_preemptions
    }

    /// Tokens drafted for it, as far as the model verified them.
    #[getter]
    fn num_drafted_tokens(&self) -> u64 {
        self.output.num_drafted_tokens
    }

    /// Of these, tokens that were drawn: steps saved.
    #[getter]
    fn num_accepted_tokens(&self) -> u64 {
        self.output.num_accepted_tokens
    }

    /// Of the drafted tokens, those of the draft model.
    #[getter]
    fn num_model_drafted_tokens(&self) -> u64 {
        self.output.num_model_drafted_tokens
    }

    /// Of these, tokens that were drawn.
    #[getter]
    fn num_model_accepted_tokens(&self) -> u64 {
        self.output.num_model_accepted_tokens
    }

    /// Tokens that were known before their rows were computed: steps saved.
    #[getter]
    fn num_forced_tokens(&self) -> u64 {
        self.output.num_forced_tokens
    }

    /// When things happened.
    #[getter]
    fn timestamps(&self) -> PyTimestamps {
        PyTimestamps {
            times: self.output.timestamps,
        }
    }

    /// How it was run, in steps: counts by name, and `waited_for`: steps that passed before its first, by why nobody
    /// more was let in (`"blocks"`, `"max_num_seqs"`, `"token_budget"`, `"preemption"`).
    #[pyo3(signature = () -> "dict[str, int | dict[str, int]]")]
    fn run_record<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let run = &self.output.run;
        let dict = PyDict::new(py);
        for (name, count) in [
            ("num_steps", run.num_steps),
            ("num_prefill_steps", run.num_prefill_steps),
            ("num_prefill_tokens", run.num_prefill_tokens),
            ("max_batch_seqs", run.max_batch_seqs),
            ("sum_batch_seqs", run.sum_batch_seqs),
            ("num_deferrals", run.num_deferrals),
        ] {
            dict.set_item(name, count)?;
        }
        let waited_for = PyDict::new(py);
        for (reason, steps) in WaitReason::ALL.into_iter().zip(run.waited_for) {
            waited_for.set_item(reason.as_str(), steps)?;
        }
        dict.set_item("waited_for", waited_for)?;
        Ok(dict)
    }

    /// Whether every sequence ended.
    #[getter]
    fn is_finished(&self) -> bool {
        self.output.is_finished()
    }
}

/// One of a request's sequences.
#[pyclass(frozen, module = "inferlib._core", name = "SequenceOutput")]
pub(crate) struct PySequenceOutput {
    sequence: SequenceOutput,
}

impl PySequenceOutput {
    /// A copy of the tokens from `start` on.
    pub(crate) fn since(sequence: &SequenceOutput, start: usize) -> Self {
        let tail = |len: usize| -> Range<usize> { start.min(len)..len };
        Self {
            sequence: SequenceOutput {
                token_ids: sequence.token_ids[tail(sequence.token_ids.len())].to_vec(),
                logprobs: sequence.logprobs[tail(sequence.logprobs.len())].to_vec(),
                finish_reason: sequence.finish_reason,
                stop_token_id: sequence.stop_token_id,
            },
        }
    }
}

#[pymethods]
impl PySequenceOutput {
    /// Generated tokens, an end or stop token included.
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        Array::read_only(py, &self.sequence.token_ids)
    }

    /// Parallel to `token_ids`; empty unless log-probabilities were asked for.
    #[getter]
    fn logprobs(&self) -> Vec<PyRowLogprobs> {
        rows(&self.sequence.logprobs)
    }

    /// `"stop"`, `"length"`, `"abort"`, `"error"`, or `None` while it lives.
    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.sequence
            .finish_reason
            .map(inferlib_core::FinishReason::as_str)
    }

    /// The stop token that ended it, if one did.
    #[getter]
    fn stop_token_id(&self) -> Option<i32> {
        self.sequence.stop_token_id
    }
}

/// Log-probabilities of one token: its own, then the best `k`.
#[pyclass(frozen, module = "inferlib._core", name = "RowLogprobs")]
pub(crate) struct PyRowLogprobs {
    row: RowLogprobs,
}

#[pymethods]
impl PyRowLogprobs {
    /// Of the chosen (or scored) token.
    #[getter]
    fn logprob(&self) -> f32 {
        self.row.logprob
    }

    /// Its rank, 1 for the most likely.
    #[getter]
    fn rank(&self) -> u32 {
        self.row.rank
    }

    /// `[k]`: the most likely tokens, best first.
    #[getter]
    fn top_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        Array::read_only(py, &self.row.top_ids)
    }

    /// `[k]`: their log-probabilities.
    #[getter]
    fn top_logprobs<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        Array::read_only(py, &self.row.top_logprobs)
    }
}

/// When things happened, in seconds of `time.monotonic()`; `None` for what has not happened.
#[pyclass(frozen, module = "inferlib._core", name = "Timestamps")]
pub(crate) struct PyTimestamps {
    times: Timestamps,
}

#[pymethods]
impl PyTimestamps {
    /// Submitted.
    #[getter]
    fn arrival(&self) -> f64 {
        self.times.arrival
    }

    /// First step that holds a token of it.
    #[getter]
    fn first_scheduled(&self) -> Option<f64> {
        self.times.first_scheduled
    }

    /// The prompt's last token was computed.
    #[getter]
    fn prefill_done(&self) -> Option<f64> {
        self.times.prefill_done
    }

    /// First generated token.
    #[getter]
    fn first_token(&self) -> Option<f64> {
        self.times.first_token
    }

    /// Latest generated token.
    #[getter]
    fn last_token(&self) -> Option<f64> {
        self.times.last_token
    }

    /// The last sequence ended.
    #[getter]
    fn finished(&self) -> Option<f64> {
        self.times.finished
    }
}

fn rows(rows: &[RowLogprobs]) -> Vec<PyRowLogprobs> {
    rows.iter()
        .map(|row| PyRowLogprobs { row: row.clone() })
        .collect()
}
