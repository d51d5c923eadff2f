//! The one place where the GIL is released and where a panic becomes an exception.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::marker::Ungil;
use pyo3::prelude::*;

use crate::errors::{Error, to_py_err};

/// Run `f` without the GIL; its error, or its panic, becomes a Python exception.
/// All that is O(tokens) or O(weights) passes here; nothing else calls `detach`.
pub(crate) fn enter<T, E, F>(py: Python<'_>, f: F) -> PyResult<T>
where
    F: Ungil + Send + FnOnce() -> Result<T, E>,
    T: Ungil + Send,
    E: Ungil + Send + Into<Error>,
{
    match py.detach(|| catch_unwind(AssertUnwindSafe(f))) {
        Ok(result) => result.map_err(|error| to_py_err(py, error.into())),
        Err(panic) => Err(to_py_err(
            py,
            Error::Internal(panic_message(panic.as_ref())),
        )),
    }
}

/// The text of a panic, for `InternalError`.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
