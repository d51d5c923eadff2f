//! The clock that requests are timed by, where the caller names no moment.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// `now`, or what `time.monotonic()` says.
pub(super) fn clock(py: Python<'_>, now: Option<f64>) -> PyResult<f64> {
    static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    match now {
        Some(now) => Ok(now),
        None => MONOTONIC
            .import(py, "time", "monotonic")?
            .call0()?
            .extract(),
    }
}
