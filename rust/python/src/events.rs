//! `_core.Events`: what a step brought.

use inferlib_core::Events;
use inferlib_program::RequestId;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::Array;

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
    pub(crate) fn new(py: Python<'_>, events: Events) -> Self {
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
