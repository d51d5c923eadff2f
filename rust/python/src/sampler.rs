//! `_core.LogitsSampler`: the CPU executor's sampler, for executors in Python whose logits come from another device.

use std::sync::{Mutex, PoisonError};

use inferlib_cpu::sampling::Sampler;
use inferlib_program::{RowStatus, StepOutput};
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
            };
            let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
            let mut values = Vec::with_capacity(self.vocab_size);
            for (logits, &row) in logits.rows().into_iter().zip(rows) {
                let index = usize::try_from(row).unwrap_or(usize::MAX);
                let Some(drawn_row) = batch.sampled.get(index) else {
                    let message = format!(
                        "rows holds {row}, the batch has {} rows",
                        batch.num_sampled()
                    );
                    return Err(Error::Request {
                        field: "rows",
                        message,
                    });
                };
                values.clear();
                values.extend(logits);
                let start = drawn_row.history_start as usize;
                let len = drawn_row.history_prompt_len + drawn_row.history_output_len;
                let history = batch.history.get(start..start + len as usize);
                let result = sampler.run(&mut values, drawn_row, history.unwrap_or_default());
                output.token_ids[index] = result.token_id;
                output.status[index] = result.status;
                output
                    .mirostat_mu
                    .extend(result.mirostat_mu.map(|mu| (index, mu)));
                output.logprobs[index] = match result.status {
                    RowStatus::Ok => result.logprobs,
                    RowStatus::Failed | RowStatus::Redraw => None,
                };
            }
            Ok(PyStepOutput::from_output(output))
        })
    }
}

fn check(field: &'static str, found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    let message = format!("{field} has length {found}, not {wanted}");
    Err(Error::Request { field, message })
}
