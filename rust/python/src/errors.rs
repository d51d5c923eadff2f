//! Rust errors as the Python classes of `errors.py`. One match per crate's enum without `_ =>`, so that a new
//! variant does not compile until it has a class.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// Name → class, handed over by `inferlib/__init__.py`.
static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// Receive the exception classes of `errors.py`, by name. Called once, at import.
#[pyfunction]
pub(crate) fn set_error_classes(py: Python<'_>, classes: Bound<'_, PyDict>) {
    // A second import of the same module hands over the same classes.
    let _ = CLASSES.set(py, classes.unbind());
}

/// Every error that crosses the boundary.
#[derive(Debug)]
pub(crate) enum Error {
    /// A panic: a bug of ours.
    Internal(String),
    /// An invalid argument: field and message.
    Request {
        field: &'static str,
        message: String,
    },
}

/// A class of `errors.py` with its message and keyword attributes.
pub(crate) struct PyError {
    class: &'static str,
    message: String,
    /// Set on the instance after construction.
    attributes: Vec<(&'static str, Attribute)>,
}

/// Value of an attribute of an exception.
pub(crate) enum Attribute {
    /// A string.
    Text(String),
    /// A byte count or index.
    Number(u64),
}

impl PyError {
    pub(crate) fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            attributes: Vec::new(),
        }
    }

    pub(crate) fn with_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, Attribute::Text(value.into())));
        self
    }

    pub(crate) fn with_number(mut self, name: &'static str, value: u64) -> Self {
        self.attributes.push((name, Attribute::Number(value)));
        self
    }
}

/// The exception for `error`.
pub(crate) fn to_py_err(py: Python<'_>, error: Error) -> PyErr {
    raise(py, describe(error)).unwrap_or_else(|failure| failure)
}

fn describe(error: Error) -> PyError {
    match error {
        Error::Internal(message) => PyError::new(
            "InternalError",
            format!("inferlib failed internally: {message}"),
        )
        .with_text("hint", "this is a bug; please report it"),
        Error::Request { field, message } => {
            PyError::new("RequestError", message).with_text("field", field)
        }
    }
}

fn raise(py: Python<'_>, error: PyError) -> PyResult<PyErr> {
    let Some(classes) = CLASSES.get(py) else {
        return Ok(PyRuntimeError::new_err(error.message));
    };
    let class = classes
        .bind(py)
        .get_item(error.class)?
        .ok_or_else(|| PyRuntimeError::new_err(error.message.clone()))?;
    let instance = class.call1((error.message,))?;
    for (name, value) in error.attributes {
        match value {
            Attribute::Text(text) => instance.setattr(name, text)?,
            Attribute::Number(number) => instance.setattr(name, number)?,
        }
    }
    Ok(PyErr::from_value(instance))
}
