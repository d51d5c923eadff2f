//! `_core.CpuExecutor`: load weights, run steps.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inferlib_cpu::{
    AdapterPart, CpuError, CpuExecutor, KvDtype, MatrixSource, Options, Part, PlantedPanic,
    Precision, Tier, WeightLoader, WeightMemory, WeightsOrigin,
};
use inferlib_weights::{Dtype, Tensor};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::arrays::{Matrix, Vector};
use crate::batch::{PyBatch, lock};
use crate::boundary::enter;
use crate::errors::{Error, to_py_err};
use crate::program::PyProgram;
use crate::step_output::PyStepOutput;
use crate::weights::Weights;

/// Runs a program on the CPU, with the GIL released: packed weights, KV cache, workspaces, threads.
///
/// Load every weight of the program, `seal`, then `run` batches. One step runs at a time.
#[pyclass(frozen, module = "inferlib._core", name = "CpuExecutor")]
pub(crate) struct PyCpuExecutor {
    /// `None` after `close`.
    inner: Mutex<Option<CpuExecutor>>,
    abort: Arc<AtomicBool>,
    /// Asked without the lock, so that nobody waits for a step to end.
    weight_memory: Mutex<WeightMemory>,
}

/// A weight's name, its first row, A, B transposed, and the scale.
type PartOfAdapter<'py> = (String, usize, Matrix<'py, f32>, Matrix<'py, f32>, f32);

/// A matrix's name and its parts: a tensor's name, and the order of its rows.
type NamedParts<'py> = (String, Vec<(String, Option<PyReadonlyArray1<'py, i32>>)>);

fn parse_precision(py: Python<'_>, precision: &str) -> PyResult<Precision> {
    match precision {
        "fast" => Ok(Precision::Fast),
        "balanced" => Ok(Precision::Balanced),
        "exact" => Ok(Precision::Exact),
        _ => Err(to_py_err(
            py,
            Error::Request {
                field: "precision",
                message: format!(
                    "precision={precision:?}: choose \"fast\", \"balanced\" or \"exact\""
                ),
            },
        )),
    }
}

/// `None` is what the precision says.
fn parse_kv_cache_dtype(py: Python<'_>, dtype: &str) -> PyResult<Option<KvDtype>> {
    if dtype == "auto" {
        return Ok(None);
    }
    let known = KvDtype::ALL.into_iter().find(|known| known.name() == dtype);
    known.map(Some).ok_or_else(|| {
        to_py_err(
            py,
            Error::Request {
                field: "kv_cache_dtype",
                message: format!(
                    "kv_cache_dtype={dtype:?}: choose \"auto\", \"f16\", \"bf16\", \"int8\" or \"f32\""
                ),
            },
        )
    })
}

fn lock_memory(memory: &Mutex<WeightMemory>) -> MutexGuard<'_, WeightMemory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PyCpuExecutor {
    /// The executor; a panic during a step leaves nothing behind that the next step reads.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<CpuExecutor>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut CpuExecutor) -> Result<T, CpuError> + Send,
    ) -> PyResult<T> {
        enter(py, || f(self.lock().as_mut().ok_or(CpuError::Closed)?))
    }
}

#[pymethods]
#[expect(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands over owned arguments"
)]
impl PyCpuExecutor {
    /// Reserve the KV cache (`num_blocks` per KV group) and choose kernels. Starts no thread.
    #[new]
    #[pyo3(signature = (program, *, num_blocks, precision = "fast", kv_cache_dtype = "auto", threads = None, tier = None, max_num_batched_tokens = 512))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        py: Python<'_>,
        program: &PyProgram,
        num_blocks: Vec<usize>,
        precision: &str,
        kv_cache_dtype: &str,
        threads: Option<usize>,
        tier: Option<String>,
        max_num_batched_tokens: usize,
    ) -> PyResult<Self> {
        let options = Options {
            precision: parse_precision(py, precision)?,
            kv_cache_dtype: parse_kv_cache_dtype(py, kv_cache_dtype)?,
            threads,
            tier,
            max_num_batched_tokens,
            num_blocks,
        };
        let program = Arc::clone(program.inner());
        let executor = enter(py, || CpuExecutor::new(program, &options))?;
        Ok(Self {
            abort: executor.abort_flag(),
            inner: Mutex::new(Some(executor)),
            weight_memory: Mutex::default(),
        })
    }

    /// Bytes of one KV block in each group of the program.
    #[staticmethod]
    #[pyo3(signature = (program, precision, kv_cache_dtype = "auto"))]
    fn bytes_per_block(
        py: Python<'_>,
        program: &PyProgram,
        precision: &str,
        kv_cache_dtype: &str,
    ) -> PyResult<Vec<usize>> {
        let precision = parse_precision(py, precision)?;
        let dtype = parse_kv_cache_dtype(py, kv_cache_dtype)?;
        Ok(CpuExecutor::bytes_per_block(
            program.inner(),
            dtype.unwrap_or_else(|| precision.kv_dtype()),
        ))
    }

    /// Names of the kernel tiers that this machine runs, best first.
    #[staticmethod]
    fn tiers() -> Vec<&'static str> {
        Tier::available().into_iter().map(Tier::name).collect()
    }

    /// Cores that this process may use.
    #[staticmethod]
    fn available_cores() -> usize {
        inferlib_cpu::available_cores()
    }

    /// Give all matrices of the program as tensors of a checkpoint, stacked by rows: row `i` of a part is row
    /// `row_order[i]` of its tensor. Packed into memory, or with `packed_cache` (a folder) into a file there once, which
    /// later loads map. Signals are looked at meanwhile. With `row_scales` matrices in `Q8_0` whose rows have one scale each are
    /// multiplied with activations of one scale per row.
    ///
    /// Returns where the weights came from (`"packed"`, `"written"` or `"opened"`), and what was wrong with a file of the
    /// cache that had to be replaced.
    #[pyo3(signature = (checkpoint, matrices: "list[tuple[str, list[tuple[str, NDArray[int32] | None]]]]", *, packed_cache = None, row_scales = false) -> "tuple[str, str | None]")]
    fn load_matrices(
        &self,
        py: Python<'_>,
        checkpoint: &Weights,
        matrices: Vec<NamedParts<'_>>,
        packed_cache: Option<PathBuf>,
        row_scales: bool,
    ) -> PyResult<(&'static str, Option<String>)> {
        let checkpoint = checkpoint.shared();
        let (program, threads) = self.with(py, |executor| {
            Ok((Arc::clone(executor.program()), executor.threads()))
        })?;
        let mut sources = Vec::with_capacity(matrices.len());
        for (name, parts) in &matrices {
            let mut resolved = Vec::with_capacity(parts.len());
            for (tensor, order) in parts {
                let row_order = order.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
                let tensor = checkpoint.tensor(tensor).ok_or_else(|| {
                    let name = tensor.clone();
                    to_py_err(py, CpuError::UnknownWeight { name }.into())
                })?;
                resolved.push(Part { tensor, row_order });
            }
            sources.push(MatrixSource {
                name,
                parts: resolved,
                row_scales,
            });
        }
        let cache = packed_cache.as_deref();
        let mut loader = enter(py, || {
            checkpoint.check_unchanged().map_err(Error::from)?;
            WeightLoader::new(&program, &checkpoint, &sources, threads, cache).map_err(Error::from)
        })?;
        let mut weights = loop {
            if let Some(weights) = enter(py, || loader.advance())? {
                break weights;
            }
            py.check_signals()?;
        };
        let origin = match weights.origin {
            WeightsOrigin::Packed => "packed",
            WeightsOrigin::Written => "written",
            WeightsOrigin::Opened => "opened",
        };
        let replaced = weights.replaced.take();
        self.with(py, |executor| {
            executor.adopt(weights);
            *lock_memory(&self.weight_memory) = executor.weight_memory();
            Ok(())
        })?;
        Ok((origin, replaced))
    }

    /// Give a matrix as float32 values, `[out_features, in_features]`.
    fn load_array(&self, py: Python<'_>, name: &str, values: Matrix<'_, f32>) -> PyResult<()> {
        let array = values.view();
        let shape = [array.nrows(), array.ncols()];
        let bytes: Vec<u8> = array.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.with(py, |executor| {
            let tensor = Tensor {
                name,
                dtype: Dtype::F32,
                shape: &shape,
                bytes: &bytes,
            };
            executor.load_matrix(
                name,
                &[Part {
                    tensor,
                    row_order: None,
                }],
            )
        })
    }

    /// Give a vector, `[width]` float32.
    fn load_vector(&self, py: Python<'_>, name: &str, values: Vector<'_, f32>) -> PyResult<()> {
        let values = values.view().to_vec();
        self.with(py, |executor| executor.load_vector(name, values))
    }

    /// Load a low-rank adapter under a number above 0, which `submit` names it by: per part a weight's name, the first of
    /// its rows that it adapts, A `[rank, in_features]`, B transposed `[rank, rows]`, and what multiplies `B (A x)`.
    fn load_adapter(
        &self,
        py: Python<'_>,
        adapter: u32,
        parts: Vec<PartOfAdapter<'_>>,
    ) -> PyResult<()> {
        let parts: Vec<AdapterPart> = parts
            .into_iter()
            .map(|(weight, first_row, a, b, scale)| {
                let (a, b) = (a.view(), b.view());
                let rank = a.nrows();
                let b_is_whole = b.nrows() == rank;
                AdapterPart {
                    weight,
                    first_row,
                    a: a.iter().copied().collect(),
                    // One with another rank fits nothing.
                    b: if b_is_whole {
                        b.iter().copied().collect()
                    } else {
                        Vec::new()
                    },
                    rank,
                    scale,
                }
            })
            .collect();
        self.with(py, |executor| executor.load_adapter(adapter, parts))
    }

    /// Forget an adapter that no request uses any more; whether there was one.
    fn unload_adapter(&self, py: Python<'_>, adapter: u32) -> PyResult<bool> {
        self.with(py, |executor| Ok(executor.unload_adapter(adapter)))
    }

    /// All weights are there: build the plan and the workspaces.
    fn seal(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CpuExecutor::seal)
    }

    /// Run one step. `None` if `abort` was called: then discard the step; running it again is safe.
    fn run(&self, py: Python<'_>, batch: &PyBatch) -> PyResult<Option<PyStepOutput>> {
        let batch = batch.share();
        let output = self.with(py, |executor| match executor.run(&lock(&batch)) {
            Err(CpuError::Aborted) => {
                executor.clear_abort();
                Ok(None)
            }
            result => result.map(Some),
        })?;
        Ok(output.map(PyStepOutput::from_output))
    }

    /// Let the next step panic, in every worker or, with `in_caller`, outside of them: `inferlib.testing` shows with it
    /// that a bug ends neither the process nor the model.
    #[pyo3(signature = (*, in_caller = false))]
    fn plant_panic(&self, py: Python<'_>, in_caller: bool) -> PyResult<()> {
        let place = if in_caller {
            PlantedPanic::Caller
        } else {
            PlantedPanic::Workers
        };
        self.with(py, |executor| {
            executor.plant_panic(place);
            Ok(())
        })
    }

    /// End the running step at its next barrier, from any thread.
    fn abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    /// Tier, threads, type of the KV cache and bytes in use, as a plain dict.
    ///
    /// `weight_bytes_by_type` counts matrices by their tensor type. `fallback_weights` lists those whose type has no
    /// packed layout and which are held as floats: `{"name", "type", "held_as", "bytes", "file_bytes"}`.
    #[pyo3(signature = () -> "dict[str, object]")]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (tier, threads, weight_bytes, by_type, held, kv_dtype, kv_cache_bytes) =
            self.with(py, |executor| {
                Ok((
                    executor.tier(),
                    executor.threads(),
                    executor.weight_bytes(),
                    executor.weight_bytes_by_type(),
                    executor.held_weights(),
                    executor.kv_dtype(),
                    executor.kv_cache_bytes(),
                ))
            })?;
        let fallbacks = PyList::empty(py);
        for weight in held.iter().filter(|weight| weight.packing.is_fallback()) {
            let fallback = PyDict::new(py);
            fallback.set_item("name", &weight.name)?;
            fallback.set_item("type", weight.dtype.name())?;
            fallback.set_item("held_as", weight.packing.name())?;
            fallback.set_item("bytes", weight.bytes)?;
            fallback.set_item("file_bytes", weight.file_bytes)?;
            fallbacks.append(fallback)?;
        }
        let types = PyDict::new(py);
        for (dtype, bytes) in by_type {
            types.set_item(dtype.name(), bytes)?;
        }
        let info = PyDict::new(py);
        info.set_item("device", "cpu")?;
        info.set_item("tier", tier.name())?;
        info.set_item("threads", threads)?;
        info.set_item("weight_bytes", weight_bytes)?;
        info.set_item("weight_bytes_by_type", types)?;
        info.set_item("fallback_weights", fallbacks)?;
        info.set_item("kv_cache_dtype", kv_dtype.name())?;
        info.set_item("kv_cache_bytes", kv_cache_bytes)?;
        Ok(info)
    }

    /// How the weights of `load_matrices` lie in memory now, as a plain dict; empty where the system does not tell.
    /// Costs a walk over the process's page tables: not for every step.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn residency<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let memory = lock_memory(&self.weight_memory).clone();
        let residency = enter(py, || Ok::<_, CpuError>(memory.residency()))?;
        let dict = PyDict::new(py);
        if let Some(residency) = residency {
            dict.set_item("weight_resident_bytes", residency.resident_bytes)?;
            dict.set_item("weight_huge_page_bytes", residency.huge_page_bytes)?;
            dict.set_item("weight_proportional_bytes", residency.proportional_bytes)?;
        }
        Ok(dict)
    }

    /// Give back memory and threads. A running step is aborted first. Later calls raise `ClosedError`.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.abort.store(true, Ordering::Release);
        enter(py, || {
            drop(self.lock().take());
            Ok::<(), CpuError>(())
        })
    }
}
