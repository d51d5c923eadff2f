//! Sequences that the scheduler holds between requests, by their ids.

use std::sync::{Arc, Mutex};

use inferlib_core::{SequenceError, SequenceId};
use inferlib_cpu::{CpuError, KvRows};
use pyo3::prelude::*;

use crate::arrays::{Array, Vector};
use crate::errors::Error;
use crate::executor::PyCpuExecutor;
use crate::scheduler::{Inner, with};

/// K, V, scales of K, scales of V.
type ByteArrays<'py> = (
    Array<'py, u8>,
    Array<'py, u8>,
    Array<'py, u8>,
    Array<'py, u8>,
);
/// The same as arguments.
type ByteVectors<'py> = (
    Vector<'py, u8>,
    Vector<'py, u8>,
    Vector<'py, u8>,
    Vector<'py, u8>,
);

/// Tokens and blocks that outlive requests. A sequence that is not there raises `ClosedError`.
#[pyclass(frozen, module = "inferlib._core", name = "HeldSequences")]
pub(crate) struct PyHeldSequences {
    inner: Arc<Mutex<Inner>>,
}

impl PyHeldSequences {
    pub(crate) fn new(inner: Arc<Mutex<Inner>>) -> Self {
        Self { inner }
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Inner) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        with(py, &self.inner, f)
    }
}

#[pymethods]
impl PyHeldSequences {
    /// Hold a sequence without tokens; its id. A request with `keep` gives it some.
    #[pyo3(signature = (cache_salt = None))]
    fn open(&self, py: Python<'_>, cache_salt: Option<String>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.scheduler.open_sequence(cache_salt).0))
    }

    /// Hold a sequence's tokens and blocks once more; the new id. Costs a reference per block.
    fn fork(&self, py: Python<'_>, sequence: u64) -> PyResult<u64> {
        self.with(py, |inner| {
            Ok(inner.scheduler.fork_sequence(SequenceId(sequence))?.0)
        })
    }

    /// Take the last `num_tokens` tokens off. `RequestError` if it has fewer, `SequenceBusyError` if a request that
    /// will change it is running.
    fn rewind(&self, py: Python<'_>, sequence: u64, num_tokens: usize) -> PyResult<()> {
        self.with(py, |inner| {
            let id = SequenceId(sequence);
            Ok(inner.scheduler.rewind_sequence(id, num_tokens)?)
        })
    }

    /// Let a sequence go; whether there was one.
    fn close(&self, py: Python<'_>, sequence: u64) -> PyResult<bool> {
        self.with(py, |inner| {
            Ok(inner.scheduler.close_sequence(SequenceId(sequence)))
        })
    }

    /// All tokens of a sequence.
    fn token_ids<'py>(&self, py: Python<'py>, sequence: u64) -> PyResult<Array<'py, i32>> {
        let tokens = self.with(py, |inner| {
            let held = inner.scheduler.sequence(SequenceId(sequence));
            Ok(held.ok_or(SequenceError::Closed)?.tokens().to_vec())
        })?;
        Array::read_only(py, &tokens)
    }

    /// Tokens of a sequence, and how many of them have K and V: none once it lost its blocks to somebody who ran.
    fn lengths(&self, py: Python<'_>, sequence: u64) -> PyResult<(usize, usize)> {
        self.with(py, |inner| {
            let held = inner.scheduler.sequence(SequenceId(sequence));
            let held = held.ok_or(SequenceError::Closed)?;
            Ok((held.tokens().len(), held.num_computed_tokens()))
        })
    }

    /// K and V of a sequence's computed tokens, per KV group: K, V, and the scales of both where the type has them, as
    /// the bytes of row-major `[layer][token][head][d]` arrays. Waits for a step that runs.
    #[pyo3(signature = (sequence, executor) -> "list[tuple[NDArray[uint8], NDArray[uint8], NDArray[uint8], NDArray[uint8]]]")]
    fn export<'py>(
        &self,
        py: Python<'py>,
        sequence: u64,
        executor: &PyCpuExecutor,
    ) -> PyResult<Vec<ByteArrays<'py>>> {
        let groups = self.with(py, |inner| {
            let held = inner.scheduler.sequence(SequenceId(sequence));
            let held = held.ok_or(SequenceError::Closed)?;
            let executor = executor.lock();
            let executor = executor.as_ref().ok_or(CpuError::Closed)?;
            let num_groups = inner.scheduler.config().groups.len();
            let export =
                |group| executor.export_kv(group, held.table(group), held.num_computed_tokens());
            Ok((0..num_groups).map(export).collect::<Result<Vec<_>, _>>()?)
        })?;
        let arrays = |rows: KvRows| -> PyResult<ByteArrays<'py>> {
            Ok((
                Array::read_only(py, &rows.k)?,
                Array::read_only(py, &rows.v)?,
                Array::read_only(py, &rows.k_scales)?,
                Array::read_only(py, &rows.v_scales)?,
            ))
        };
        groups.into_iter().map(arrays).collect()
    }

    /// Give a sequence tokens, and K and V of the first `num_computed` of them as `export` gave them; whether there was
    /// room for these. They are never published.
    #[pyo3(signature = (sequence, token_ids, num_computed, executor, groups: "list[tuple[NDArray[uint8], NDArray[uint8], NDArray[uint8], NDArray[uint8]]]"))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 hands over owned arrays"
    )]
    fn restore(
        &self,
        py: Python<'_>,
        sequence: u64,
        token_ids: Vector<'_, i32>,
        num_computed: usize,
        executor: &PyCpuExecutor,
        groups: Vec<ByteVectors<'_>>,
    ) -> PyResult<bool> {
        let tokens = token_ids.view().to_vec();
        let bytes = |array: &Vector<'_, u8>| array.view().to_vec();
        let groups: Vec<KvRows> = groups
            .iter()
            .map(|(k, v, k_scales, v_scales)| KvRows {
                k: bytes(k),
                v: bytes(v),
                k_scales: bytes(k_scales),
                v_scales: bytes(v_scales),
            })
            .collect();
        self.with(py, |inner| {
            let id = SequenceId(sequence);
            let mut executor = executor.lock();
            let executor = executor.as_mut().ok_or(CpuError::Closed)?;
            let vocab_size = inner.scheduler.config().vocab_size;
            let known = |token: i32| usize::try_from(token).is_ok_and(|token| token < vocab_size);
            if let Some(token) = tokens.iter().find(|&&token| !known(token)) {
                return Err(Error::Request {
                    field: "token_ids",
                    message: format!("{token} is no token of the model"),
                });
            }
            if groups.len() != inner.scheduler.config().groups.len() {
                return Err(Error::Request {
                    field: "groups",
                    message: format!("{} KV groups are not the model's", groups.len()),
                });
            }
            if !inner.scheduler.restore_sequence(id, tokens, num_computed)? {
                return Ok(false);
            }
            let held = inner.scheduler.sequence(id).ok_or(SequenceError::Closed)?;
            let num_computed = held.num_computed_tokens();
            for (group, rows) in groups.iter().enumerate() {
                let written = executor.import_kv(group, held.table(group), num_computed, rows);
                if let Err(error) = written {
                    inner.scheduler.close_sequence(id);
                    return Err(error.into());
                }
            }
            Ok(true)
        })
    }
}
