//! The scheduler behind a lock, shared by the classes that stand for it.

use std::sync::{Mutex, PoisonError};

use inferlib_core::Scheduler;
use pyo3::prelude::*;

use crate::batch::SharedBatch;
use crate::boundary::enter;
use crate::errors::Error;

pub(crate) struct Inner {
    pub(crate) scheduler: Scheduler,
    /// Refilled for the next step if no handle on it is left.
    pub(super) batch: SharedBatch,
}

/// Run `f` on the scheduler without the GIL.
pub(crate) fn with<T: Send>(
    py: Python<'_>,
    inner: &Mutex<Inner>,
    f: impl FnOnce(&mut Inner) -> Result<T, Error> + Send,
) -> PyResult<T> {
    enter(py, || {
        // A panic half-way may leave anything behind: nothing is computed from it any more.
        let poisoned = |_: PoisonError<_>| {
            Error::Internal("the scheduler failed earlier; load the model again".to_owned())
        };
        f(&mut *inner.lock().map_err(poisoned)?)
    })
}
