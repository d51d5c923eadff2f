//! The one place where the GIL is released and where a panic becomes an exception.
//!
//! A panic writes nothing to stderr, which is the host's: where it happened is told by the exception. The hook is that of
//! this module's own copy of the standard library, so that no other module is concerned.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

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

/// Where the latest panic was, in whichever thread.
static LATEST_PLACE: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic only notes its place.
pub(crate) fn silence_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        *LATEST_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// A panic's message with its place.
pub(crate) fn with_place(message: &str) -> String {
    let place = LATEST_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    match place.as_deref() {
        Some(place) => format!("{message} (at {place})"),
        None => message.to_owned(),
    }
}

/// The text of a panic, for `InternalError`.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    with_place(text.unwrap_or("a panic without a message"))
}
