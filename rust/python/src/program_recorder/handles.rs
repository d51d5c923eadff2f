//! What a recorder gives out, for its own calls alone.

use inferlib_program::program::{BufferId, KvLayer, RopeId, WeightId};
use pyo3::prelude::*;

/// A buffer of a program that is being recorded.
#[pyclass(frozen, module = "inferlib._core", name = "Buffer")]
pub(crate) struct PyBuffer {
    pub(super) recorder: u64,
    pub(super) id: BufferId,
    /// The buffer's name.
    #[pyo3(get)]
    pub(super) name: String,
    /// Elements per row.
    #[pyo3(get)]
    pub(super) width: usize,
}

/// A weight of a program that is being recorded.
#[pyclass(frozen, module = "inferlib._core", name = "Weight")]
pub(crate) struct PyWeight {
    pub(super) recorder: u64,
    pub(super) id: WeightId,
    /// Canonical name.
    #[pyo3(get)]
    pub(super) name: String,
}

/// A rotary table of a program that is being recorded.
#[pyclass(frozen, module = "inferlib._core", name = "Rope")]
pub(crate) struct PyRope {
    pub(super) recorder: u64,
    pub(super) id: RopeId,
}

/// Where one layer's K and V live, in a program that is being recorded.
#[pyclass(frozen, module = "inferlib._core", name = "KvLayer")]
pub(crate) struct PyKvLayer {
    pub(super) recorder: u64,
    pub(super) kv: KvLayer,
}
