//! Python strings as UTF-8.

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::errors::request_error;

/// The text of a Python string; one with lone surrogates has no UTF-8.
pub(crate) fn utf8<'a>(text: &'a Bound<'_, PyString>, field: &'static str) -> PyResult<&'a str> {
    text.to_str().map_err(|_| {
        let message = format!("{field} has a lone surrogate, which is no character; decode its source with errors=\"replace\"");
        request_error(text.py(), field, message)
    })
}
