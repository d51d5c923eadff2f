//! `_core.LogitsSampler`: the CPU executor's sampler, for executors in Python whose logits come from another device.

use std::sync::{Arc, Mutex, PoisonError};

use inferlib_cpu::sampling::Sampler;
use inferlib_program::{
    Batch, LogitsRow, LogprobsMode, RowStatus, SampledRow, SamplingParams, StepOutput,
};
use pyo3::prelude::*;

use crate::arrays::{Matrix, Vector};
use crate::batch::{PyBatch, lock};
use crate::boundary::enter;
use crate::errors::Error;
use crate::step_output::PyStepOutput;

/// Draws or scores rows from logits on the host, all options included. One per executor: it keeps its scratch.
#[pyclass(frozen, module = "inferlib._core", name = "LogitsSampler")]
pub(crate) struct PyLogitsSampler {
    sampler: Mutex<Sampler>,
    vocab_size: usize,
}

#[pymethods]
impl PyLogitsSampler {
    /// For rows of `vocab_size` logits.
    #[new]
    fn new(vocab_size: usize) -> Self {
        Self {
            sampler: Mutex::new(Sampler::new(vocab_size)),
            vocab_size,
        }
    }

    /// Complete a step: rows `rows` of the batch from their `logits` `[len(rows), vocab_size]`, the others as `token_ids`
    /// and `failed` `[num_sampled]` say, drawn elsewhere.
    ///
    /// The same bits as the CPU executor gives for the same logits. Without the GIL.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over owned arrays"
    )]
    fn complete(
        &self,
        py: Python<'_>,
        batch: &PyBatch,
        rows: Vector<'_, i32>,
        logits: Matrix<'_, f32>,
        token_ids: Vector<'_, i32>,
        failed: Vector<'_, bool>,
    ) -> PyResult<PyStepOutput> {
        let (batch, rows, logits) = (batch.share(), rows.view(), logits.view());
        let (token_ids, failed) = (token_ids.view(), failed.view());
        enter(py, move || {
            let batch = lock(&batch);
            check("logits", logits.nrows(), rows.len())?;
            check("logits", logits.ncols(), self.vocab_size)?;
            check("token_ids", token_ids.len(), batch.num_sampled())?;
            check("failed", failed.len(), batch.num_sampled())?;
            let status = |&failed: &bool| {
                if failed {
                    RowStatus::Failed
                } else {
                    RowStatus::Ok
                }
            };
            let mut output = StepOutput {
                token_ids: token_ids.to_vec(),
                status: failed.iter().map(status).collect(),
                logprobs: vec![None; batch.num_sampled()],
                captures: Vec::new(),
                mirostat_mu: Vec::new(),
                logits: Vec::new(),
            };
            let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
            let mut values = Vec::with_capacity(self.vocab_size);
            for (logits, &row) in logits.rows().into_iter().zip(rows) {
                let (index, drawn_row) = sampled_row(&batch, row)?;
                values.clear();
                values.extend(logits);
                let result = sampler.run(&mut values, drawn_row, history(&batch, drawn_row));
                output.token_ids[index] = result.token_id;
                output.status[index] = result.status;
                output
                    .mirostat_mu
                    .extend(result.mirostat_mu.map(|mu| (index, mu)));
                output.logprobs[index] = match result.status {
                    RowStatus::Ok => result.logprobs,
                    RowStatus::Failed | RowStatus::Redraw => None,
                };
                output
                    .logits
                    .extend(result.logits.map(|logits| (index, logits)));
            }
            Ok::<_, Error>(PyStepOutput::from_output(output))
        })
    }

    /// The result of a step with tokens for `rows` whose logits it hands out, drawn from `logits` `[len(rows), vocab_size]`
    /// instead. Raw log-probabilities are those of the logits that were handed out. Without the GIL.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over owned arrays"
    )]
    fn redraw(
        &self,
        py: Python<'_>,
        batch: &PyBatch,
        output: &PyStepOutput,
        rows: Vector<'_, i32>,
        logits: Matrix<'_, f32>,
    ) -> PyResult<PyStepOutput> {
        let (batch, rows, logits) = (batch.share(), rows.view(), logits.view());
        let mut output = output.output().clone();
        enter(py, move || {
            let batch = lock(&batch);
            check("logits", logits.nrows(), rows.len())?;
            check("logits", logits.ncols(), self.vocab_size)?;
            check("output", output.token_ids.len(), batch.num_sampled())?;
            let own = std::mem::take(&mut output.logits);
            let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
            for (logits, &row) in logits.rows().into_iter().zip(rows) {
                let (index, wanting) = sampled_row(&batch, row)?;
                let row = SampledRow {
                    wants_logits: false,
                    ..wanting.clone()
                };
                let history = history(&batch, wanting);
                let result = sampler.run(&mut logits.to_vec(), &row, history);
                output.token_ids[index] = result.token_id;
                output.status[index] = result.status;
                output
                    .mirostat_mu
                    .extend(result.mirostat_mu.map(|mu| (index, mu)));
                output.logprobs[index] = None;
                if result.status == RowStatus::Ok {
                    let place = own.binary_search_by_key(&index, |&(row, _)| row);
                    output.logprobs[index] = match (row.params.logprobs_mode, place) {
                        (LogprobsMode::Raw, Ok(place)) if row.params.logprobs.is_some() => {
                            let scored = scoring(&row, result.token_id);
                            sampler
                                .run(&mut own[place].1.clone(), &scored, &[])
                                .logprobs
                        }
                        _ => result.logprobs,
                    };
                }
            }
            output.mirostat_mu.sort_unstable_by_key(|&(row, _)| row);
            Ok::<_, Error>(PyStepOutput::from_output(output))
        })
    }
}

/// A row of a batch by its number.
fn sampled_row(batch: &Batch, row: i32) -> Result<(usize, &SampledRow), Error> {
    let index = usize::try_from(row).unwrap_or(usize::MAX);
    match batch.sampled.get(index) {
        Some(sampled) => Ok((index, sampled)),
        None => Err(Error::Request {
            field: "rows",
            message: format!(
                "rows holds {row}, the batch has {} rows",
                batch.num_sampled()
            ),
        }),
    }
}

/// The tokens that a row's penalties look at.
fn history<'a>(batch: &'a Batch, row: &SampledRow) -> &'a [i32] {
    let start = row.history_start as usize;
    let len = row.history_prompt_len + row.history_output_len;
    let history = batch.history.get(start..start + len as usize);
    history.unwrap_or_default()
}

/// The row that reports of `target` what `row` reports of the token that it draws.
fn scoring(row: &SampledRow, target: i32) -> SampledRow {
    SampledRow {
        kind: LogitsRow::Score { target },
        params: Arc::new(SamplingParams {
            prompt_logprobs: row.params.logprobs,
            ..SamplingParams::clone(&row.params)
        }),
        ..row.clone()
    }
}

fn check(field: &'static str, found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    let message = format!("{field} has length {found}, not {wanted}");
    Err(Error::Request { field, message })
}
