//! What arguments name: rows, activations and scores.

use inferlib_program::program::{Activation, PooledRow, Rows, Scoring};
use pyo3::prelude::*;

use crate::errors::request_error;

pub(super) fn rows(py: Python<'_>, name: &str) -> PyResult<Rows> {
    Rows::from_name(name)
        .ok_or_else(|| invalid(py, "rows", name, r#""tokens", "sampled" or "sequences""#))
}

pub(super) fn pooled_row(py: Python<'_>, name: &str) -> PyResult<PooledRow> {
    PooledRow::from_name(name).ok_or_else(|| invalid(py, "row", name, r#""first" or "last""#))
}

pub(super) fn activation(py: Python<'_>, name: &str) -> PyResult<Activation> {
    Activation::from_name(name).ok_or_else(|| {
        let known = Activation::ALL.map(|known| format!("{:?}", known.name()));
        invalid(
            py,
            "activation",
            name,
            &format!("one of {}", known.join(", ")),
        )
    })
}

pub(super) fn scoring(py: Python<'_>, name: &str) -> PyResult<Scoring> {
    Scoring::from_name(name)
        .ok_or_else(|| invalid(py, "scoring", name, r#""softmax" or "sigmoid""#))
}

fn invalid(py: Python<'_>, field: &'static str, found: &str, known: &str) -> PyErr {
    request_error(py, field, format!("{field} must be {known}, not {found:?}"))
}
