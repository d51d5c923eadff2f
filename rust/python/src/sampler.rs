//! `_core.sample_rows`: the CPU executor's sampler, for executors in Python whose logits come from another device.

use inferlib_core::{RowStatus, StepOutput};
use inferlib_cpu::sampling::Sampler;
use pyo3::prelude::*;

use crate::arrays::Matrix;
use crate::batch::{PyBatch, lock};
use crate::boundary::enter;
use crate::errors::Error;
use crate::step_output::PyStepOutput;

/// Draw or score every row of a batch from its logits, `[num_sampled, vocab_size]`.
///
/// The same bits as the CPU executor gives for the same logits, all options included. Without the GIL.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands over owned arrays"
)]
pub(crate) fn sample_rows(
    py: Python<'_>,
    batch: &PyBatch,
    logits: Matrix<'_, f32>,
) -> PyResult<PyStepOutput> {
    let (batch, logits) = (batch.share(), logits.view());
    enter(py, move || {
        let batch = lock(&batch);
        if logits.nrows() != batch.num_sampled() {
            let (field, rows) = ("logits", logits.nrows());
            let message = format!("logits has {rows} rows, the batch {}", batch.num_sampled());
            return Err(Error::Request { field, message });
        }
        let mut sampler = Sampler::new(logits.ncols());
        let mut output = StepOutput::default();
        let mut values = Vec::with_capacity(logits.ncols());
        for (row, sampled) in logits.rows().into_iter().zip(&batch.sampled) {
            values.clear();
            values.extend(row);
            let start = sampled.history_start as usize;
            let len = sampled.history_prompt_len + sampled.history_output_len;
            let history = batch.history.get(start..start + len as usize);
            let result = sampler.run(&mut values, sampled, history.unwrap_or_default());
            output.token_ids.push(result.token_id);
            output.status.push(result.status);
            output.logprobs.push(match result.status {
                RowStatus::Ok => result.logprobs,
                RowStatus::Failed => None,
            });
        }
        Ok(PyStepOutput::from_output(output))
    })
}
