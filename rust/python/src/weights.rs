//! `Weights`: an opened checkpoint, and any tensor type as float32.

use std::path::PathBuf;
use std::sync::Arc;

use inferlib_weights::{
    Dtype, Format, MetadataArray, MetadataValue, OpenOptions, Tensor, dequantize_to_vec,
};
use numpy::ndarray::ArrayView1;
use numpy::{IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::arrays::Array;
use crate::boundary::enter;
use crate::errors::{Error, to_py_err};

/// Longer arrays (vocabularies, merges, scores) are converted only when they are asked for by name.
const MAX_LISTED: usize = 1024;

/// An opened checkpoint: a `.gguf` file, a `.safetensors` file or its shards. Immutable; any thread may use it.
#[pyclass(frozen, module = "inferlib._core")]
pub(crate) struct Weights {
    inner: Arc<inferlib_weights::Weights>,
}

impl Weights {
    /// The checkpoint, for an executor to keep.
    pub(crate) fn shared(&self) -> Arc<inferlib_weights::Weights> {
        Arc::clone(&self.inner)
    }

    fn tensor(&self, name: &str) -> PyResult<Tensor<'_>> {
        self.inner
            .tensor(name)
            .ok_or_else(|| PyKeyError::new_err(name.to_owned()))
    }
}

#[pymethods]
impl Weights {
    /// Open a `.gguf` file, a `.safetensors` file, a `*.index.json` of shards, or a folder with one of them.
    ///
    /// Reads headers only, unless `mmap` is off: then all bytes are read into memory, and a file that is truncated
    /// later cannot end the process.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = true))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<Self> {
        let inner = enter(py, move || {
            inferlib_weights::Weights::open(&path, OpenOptions { mmap })
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Read a checkpoint of one file from memory; `name` stands for its path in errors.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, name: PathBuf, data: &Bound<'_, PyBytes>) -> PyResult<Self> {
        let data = data.as_bytes();
        let inner = enter(py, move || {
            inferlib_weights::Weights::from_bytes(&name, data.to_vec())
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Names of all tensors, in the order of the files.
    #[getter]
    fn names(&self) -> Vec<&str> {
        self.inner.names().collect()
    }

    /// `"gguf"` or `"safetensors"`.
    #[getter]
    fn format(&self) -> &'static str {
        match self.inner.format() {
            Format::Gguf { .. } => "gguf",
            Format::Safetensors => "safetensors",
        }
    }

    /// Paths of the opened files.
    #[getter]
    fn files(&self) -> Vec<String> {
        let files = self.inner.files();
        files
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }

    /// Bytes of all tensors together, as stored.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.total_bytes()
    }

    /// Whether the files are mapped into memory.
    #[getter]
    fn is_mapped(&self) -> bool {
        self.inner.is_mapped()
    }

    /// Metadata as plain Python values, without arrays of more than 1,024 elements: see `metadata_value`.
    #[pyo3(signature = () -> "dict[str, object]")]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (key, value) in self.inner.metadata().iter() {
            if value
                .as_array()
                .is_none_or(|array| array.len() <= MAX_LISTED)
            {
                dict.set_item(key, to_python(py, value)?)?;
            }
        }
        Ok(dict)
    }

    /// The metadata value of `key`, of whatever length; `None` if there is no such key.
    #[pyo3(signature = (key) -> "object | None")]
    fn metadata_value<'py>(
        &self,
        py: Python<'py>,
        key: &str,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = self.inner.metadata().get(key);
        value.map(|value| to_python(py, value)).transpose()
    }

    /// How many elements the array of `key` has; `None` if there is no such array.
    fn metadata_length(&self, key: &str) -> Option<usize> {
        let array = self.inner.metadata().get(key)?.as_array()?;
        Some(array.len())
    }

    /// One element of an array of strings, without converting the others; `None` if there is no such element.
    fn metadata_string(&self, key: &str, index: usize) -> Option<&str> {
        let strings = self.inner.metadata().get(key)?.as_strings()?;
        strings.get(index)
    }

    /// Name of the tensor's type and its shape, outermost dimension first. `KeyError` if there is no such tensor.
    #[pyo3(signature = (name) -> "tuple[str, tuple[int, ...]]")]
    fn info<'py>(
        &self,
        py: Python<'py>,
        name: &str,
    ) -> PyResult<(&'static str, Bound<'py, PyTuple>)> {
        let tensor = self.tensor(name)?;
        Ok((tensor.dtype.name(), PyTuple::new(py, tensor.shape)?))
    }

    /// The tensor as float32, dequantized, in memory of its own. `KeyError` if there is no such tensor.
    #[pyo3(signature = (name) -> "NDArray[float32]")]
    fn array<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let tensor = self.tensor(name)?;
        let values = enter(py, || tensor.to_f32())?;
        values.into_pyarray(py).reshape(tensor.shape)
    }

    /// The tensor's bytes as they are in the file, read-only and not copied; the array keeps the checkpoint open.
    fn raw<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Array<'py, u8>> {
        let view = ArrayView1::from(slf.get().tensor(name)?.bytes);
        // SAFETY: the bytes belong to the checkpoint that `slf` holds, which never moves or changes them, and the array
        // holds `slf`. It is made read-only before anybody else sees it, and NumPy refuses to make it writable again,
        // because its base offers no writable buffer.
        let array = unsafe { PyArray1::borrow_from_array(&view, slf.clone().into_any()) };
        array.readwrite().make_nonwriteable();
        Ok(Array(array))
    }

    /// Give the memory pages of a mapped tensor back to the system; it is read from the file again when it is used.
    fn release(&self, name: &str) {
        self.inner.release(name);
    }

    /// Raise `ModelFormatError` if a mapped file was truncated or extended since it was opened.
    fn check_unchanged(&self, py: Python<'_>) -> PyResult<()> {
        enter(py, || self.inner.check_unchanged())
    }
}

/// Turn whole blocks of a type (`"Q4_K"`, `"BF16"` …) into float32.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands arguments over by value"
)]
#[pyo3(signature = (dtype: "str", data: "NDArray[uint8]") -> "NDArray[float32]")]
pub(crate) fn dequantize<'py>(
    py: Python<'py>,
    dtype: &str,
    data: PyReadonlyArray1<'py, u8>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let known = Dtype::from_name(dtype).ok_or_else(|| {
        let names = Dtype::ALL.map(Dtype::name).join(", ");
        let message = format!("dtype {dtype:?} is unknown; give one of {names}");
        to_py_err(
            py,
            Error::Request {
                field: "dtype",
                message,
            },
        )
    })?;
    let bytes = data.as_slice()?;
    Ok(enter(py, || dequantize_to_vec(known, bytes))?.into_pyarray(py))
}

fn to_python<'py>(py: Python<'py>, value: &MetadataValue) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        MetadataValue::U8(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::I8(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::U16(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::I16(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::U32(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::I32(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::U64(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::I64(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::F32(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::F64(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        MetadataValue::String(value) => (&**value).into_pyobject(py)?.into_any(),
        MetadataValue::Array(array) => array_to_python(py, array)?.into_any(),
    })
}

fn array_to_python<'py>(py: Python<'py>, array: &MetadataArray) -> PyResult<Bound<'py, PyList>> {
    match array {
        MetadataArray::U8(values) => PyList::new(py, values),
        MetadataArray::I8(values) => PyList::new(py, values),
        MetadataArray::U16(values) => PyList::new(py, values),
        MetadataArray::I16(values) => PyList::new(py, values),
        MetadataArray::U32(values) => PyList::new(py, values),
        MetadataArray::I32(values) => PyList::new(py, values),
        MetadataArray::U64(values) => PyList::new(py, values),
        MetadataArray::I64(values) => PyList::new(py, values),
        MetadataArray::F32(values) => PyList::new(py, values),
        MetadataArray::F64(values) => PyList::new(py, values),
        MetadataArray::Bool(values) => PyList::new(py, values),
        MetadataArray::String(strings) => PyList::new(py, strings.iter()),
    }
}
