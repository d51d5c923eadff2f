//! `NumPy` arrays that keep their element types in the generated stub.

use numpy::ndarray::{ArrayView, Dimension, Ix1, Ix2};
use numpy::{Element, PyArray1, PyReadonlyArray};
use pyo3::prelude::*;
#[cfg(feature = "stubs")]
use pyo3::{inspect::PyStaticExpr, type_hint_identifier as name, type_hint_subscript as generic};

/// An element type with its name in `NumPy`.
pub(crate) trait Numeric: Element {
    #[cfg(feature = "stubs")]
    const NAME: PyStaticExpr;
}

macro_rules! numeric {
    ($($rust:ty => $numpy:literal),*) => {
        $(impl Numeric for $rust {
            #[cfg(feature = "stubs")]
            const NAME: PyStaticExpr = name!("numpy", $numpy);
        })*
    };
}
numeric!(u8 => "uint8", i32 => "int32", i64 => "int64", u64 => "uint64", f32 => "float32", bool => "bool_");

/// `NDArray[T]` of one dimension, for a return value.
pub(crate) struct Array<'py, T: Numeric>(pub(crate) Bound<'py, PyArray1<T>>);

impl<'py, T: Numeric> Array<'py, T> {
    /// A copy of `values`, read-only.
    pub(crate) fn read_only(py: Python<'py>, values: &[T]) -> PyResult<Self>
    where
        T: Copy,
    {
        let array = PyArray1::from_slice(py, values);
        array.getattr("flags")?.setattr("writeable", false)?;
        Ok(Self(array))
    }
}

impl<'py, T: Numeric> IntoPyObject<'py> for Array<'py, T> {
    type Target = PyArray1<T>;
    type Output = Bound<'py, PyArray1<T>>;
    type Error = std::convert::Infallible;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: PyStaticExpr = generic!(name!("numpy.typing", "NDArray"), T::NAME);

    fn into_pyobject(self, _py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(self.0)
    }
}

/// `NDArray[T]` as an argument: another element type or number of dimensions is a `TypeError`.
pub(crate) struct ArrayArgument<'py, T: Numeric, D: Dimension>(PyReadonlyArray<'py, T, D>);

/// An argument of one dimension.
pub(crate) type Vector<'py, T> = ArrayArgument<'py, T, Ix1>;

/// An argument of two dimensions.
pub(crate) type Matrix<'py, T> = ArrayArgument<'py, T, Ix2>;

impl<T: Numeric, D: Dimension> ArrayArgument<'_, T, D> {
    /// The elements, of whatever strides.
    pub(crate) fn view(&self) -> ArrayView<'_, T, D> {
        self.0.as_array()
    }
}

impl<'a, 'py, T: Numeric + 'a, D: Dimension + 'a> FromPyObject<'a, 'py>
    for ArrayArgument<'py, T, D>
{
    type Error = PyErr;

    #[cfg(feature = "stubs")]
    const INPUT_TYPE: PyStaticExpr = generic!(name!("numpy.typing", "NDArray"), T::NAME);

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self)
    }
}
