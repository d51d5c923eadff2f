//! Dictionaries and tuples that keep their element types in the generated stub, and their order.

use std::convert::Infallible;

#[cfg(feature = "stubs")]
use pyo3::inspect::{PyStaticConstant, PyStaticExpr};
use pyo3::prelude::*;
#[cfg(feature = "stubs")]
use pyo3::type_hint_identifier as name;
#[cfg(feature = "stubs")]
use pyo3::type_hint_subscript as generic;
use pyo3::types::{PyDict, PyTuple};

/// `dict[K, V]` in the order of the pairs.
pub(crate) struct Mapping<K, V>(pub(crate) Vec<(K, V)>);

/// `tuple[int, ...]`.
pub(crate) struct Sizes(pub(crate) Vec<usize>);

/// `dict[str, Any]`: the arguments of one op.
pub(crate) struct Arguments<'py>(pub(crate) Bound<'py, PyDict>);

impl<'py, K, V> IntoPyObject<'py> for Mapping<K, V>
where
    K: IntoPyObject<'py>,
    V: IntoPyObject<'py>,
{
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: PyStaticExpr =
        generic!(name!("builtins", "dict"), K::OUTPUT_TYPE, V::OUTPUT_TYPE);

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (key, value) in self.0 {
            dict.set_item(key, value)?;
        }
        Ok(dict)
    }
}

impl<'py> IntoPyObject<'py> for Sizes {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: PyStaticExpr = generic!(
        name!("builtins", "tuple"),
        usize::OUTPUT_TYPE,
        PyStaticExpr::Constant {
            value: PyStaticConstant::Ellipsis
        }
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0)
    }
}

impl<'py> IntoPyObject<'py> for Arguments<'py> {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = Infallible;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: PyStaticExpr = generic!(
        name!("builtins", "dict"),
        name!("builtins", "str"),
        name!("typing", "Any")
    );

    fn into_pyobject(self, _py: Python<'py>) -> Result<Bound<'py, PyDict>, Infallible> {
        Ok(self.0)
    }
}
