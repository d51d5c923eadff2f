//! `_core.StepOutput`: what a step gave.

use inferlib_program::{RowLogprobs, RowStatus, StepOutput};
use pyo3::prelude::*;

use crate::arrays::{Array, Matrix, Vector};
use crate::errors::{Error, to_py_err};

/// The result of one step, parallel to the batch's rows of logits.
#[pyclass(frozen, module = "inferlib._core", name = "StepOutput")]
pub(crate) struct PyStepOutput {
    output: StepOutput,
}

impl PyStepOutput {
    /// For an executor in Rust.
    pub(crate) fn from_output(output: StepOutput) -> Self {
        Self { output }
    }

    pub(crate) fn output(&self) -> &StepOutput {
        &self.output
    }
}

#[pymethods]
impl PyStepOutput {
    /// The result of an executor in Python.
    ///
    /// `token_ids` `[num_sampled]` holds the drawn token, or the target of a scored row; `failed` `[num_sampled]` the
    /// rows whose logits were not numbers. Where a row of the batch asks for log-probabilities, all rows give them:
    /// `logprobs` and `ranks` `[num_sampled]`, `top_ids` and `top_logprobs` `[num_sampled, k]`.
    #[new]
    #[pyo3(signature = (
        token_ids, *, failed = None, logprobs = None, ranks = None, top_ids = None, top_logprobs = None
    ))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over owned arrays"
    )]
    fn new(
        py: Python<'_>,
        token_ids: Vector<'_, i32>,
        failed: Option<Vector<'_, bool>>,
        logprobs: Option<Vector<'_, f32>>,
        ranks: Option<Vector<'_, i32>>,
        top_ids: Option<Matrix<'_, i32>>,
        top_logprobs: Option<Matrix<'_, f32>>,
    ) -> PyResult<Self> {
        let token_ids = token_ids.view().to_vec();
        let count = token_ids.len();
        let check = |field, found| {
            if found == count {
                return Ok(());
            }
            let message = format!("{field} holds {found} rows, token_ids {count}");
            Err(to_py_err(py, Error::Request { field, message }))
        };
        let mut output = StepOutput {
            token_ids,
            status: vec![RowStatus::Ok; count],
            logprobs: vec![None; count],
            captures: Vec::new(),
            mirostat_mu: Vec::new(),
            logits: Vec::new(),
        };
        if let Some(failed) = failed {
            let failed = failed.view();
            check("failed", failed.len())?;
            for (status, &failed) in output.status.iter_mut().zip(failed) {
                *status = if failed {
                    RowStatus::Failed
                } else {
                    RowStatus::Ok
                };
            }
        }
        if let Some(logprobs) = logprobs {
            let logprobs = logprobs.view();
            check("logprobs", logprobs.len())?;
            output.logprobs = logprobs
                .iter()
                .map(|&logprob| {
                    Some(RowLogprobs {
                        logprob,
                        ..RowLogprobs::default()
                    })
                })
                .collect();
        }
        if let Some(ranks) = ranks {
            let ranks = ranks.view();
            check("ranks", ranks.len())?;
            for (row, &rank) in output.logprobs.iter_mut().flatten().zip(ranks) {
                row.rank = u32::try_from(rank).map_err(|_| {
                    let (field, message) = ("ranks", format!("ranks holds {rank}; the best is 1"));
                    to_py_err(py, Error::Request { field, message })
                })?;
            }
        }
        if let Some(top_ids) = top_ids {
            let top_ids = top_ids.view();
            check("top_ids", top_ids.nrows())?;
            for (row, ids) in output.logprobs.iter_mut().flatten().zip(top_ids.rows()) {
                row.top_ids = ids.to_vec();
            }
        }
        if let Some(top_logprobs) = top_logprobs {
            let top_logprobs = top_logprobs.view();
            check("top_logprobs", top_logprobs.nrows())?;
            for (row, values) in output
                .logprobs
                .iter_mut()
                .flatten()
                .zip(top_logprobs.rows())
            {
                row.top_logprobs = values.to_vec();
            }
        }
        Ok(Self { output })
    }

    /// `[num_sampled]`.
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        Array::read_only(py, &self.output.token_ids)
    }

    /// `[k]`: rows whose logits are handed out, ascending; see `Batch.want_logits`.
    #[getter]
    fn logits_rows<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, i32>> {
        let rows = self.output.logits.iter();
        let rows = rows.map(|&(row, _)| i32::try_from(row).unwrap_or(i32::MAX));
        Array::read_only(py, &rows.collect::<Vec<_>>())
    }

    /// `[k]` arrays `[vocab_size]`: the model's own logits of these rows.
    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Vec<Array<'py, f32>>> {
        let logits = self.output.logits.iter();
        logits
            .map(|(_, logits)| Array::read_only(py, logits))
            .collect()
    }

    /// `[num_sampled]`: rows whose logits were not numbers.
    #[getter]
    fn failed<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, bool>> {
        let failed = |status: &RowStatus| *status == RowStatus::Failed;
        Array::read_only(
            py,
            &self.output.status.iter().map(failed).collect::<Vec<_>>(),
        )
    }
}
