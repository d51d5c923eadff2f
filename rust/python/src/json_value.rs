//! Python values as JSON, for chat templates: copied once, with limits, so that the template sees no Python object.

use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyMapping, PySequence, PyString,
};
use serde_json::{Map, Number, Value};

use crate::errors::{Error, to_py_err};
use crate::utf8::utf8;

const MAX_DEPTH: usize = 64;
/// Bytes of strings, and 16 for each value.
const MAX_BYTES: usize = 64 << 20;

/// `value` as JSON: None, bool, int, float, str, sequences, and mappings with string keys in their order.
pub(crate) fn from_python(value: &Bound<'_, PyAny>, field: &'static str) -> PyResult<Value> {
    let mut conversion = Conversion {
        field,
        bytes_left: MAX_BYTES,
    };
    conversion.convert(value, 0)
}

struct Conversion {
    field: &'static str,
    bytes_left: usize,
}

impl Conversion {
    fn convert(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
        if depth > MAX_DEPTH {
            return Err(self.refuse(value, &format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        self.charge(value, 16)?;
        if value.is_none() {
            return Ok(Value::Null);
        }
        if let Ok(flag) = value.cast::<PyBool>() {
            return Ok(Value::Bool(flag.is_true()));
        }
        if let Ok(text) = value.cast::<PyString>() {
            return Ok(Value::String(self.text(text)?));
        }
        if value.is_instance_of::<PyInt>() {
            let number = value
                .extract::<i64>()
                .map(Number::from)
                .or_else(|_| value.extract::<u64>().map(Number::from));
            return number
                .map(Value::Number)
                .map_err(|_| self.refuse(value, "has an integer of more than 64 bits"));
        }
        if value.is_instance_of::<PyFloat>() {
            let number = Number::from_f64(value.extract()?);
            return number
                .map(Value::Number)
                .ok_or_else(|| self.refuse(value, "has a number that is not finite"));
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            let mut fields = Map::new();
            for (key, value) in dict {
                self.field_of(&mut fields, &key, &value, depth)?;
            }
            return Ok(Value::Object(fields));
        }
        let is_bytes = value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>();
        if !is_bytes && value.cast::<PySequence>().is_ok() {
            let items = value
                .try_iter()?
                .map(|item| self.convert(&item?, depth + 1));
            return items.collect::<PyResult<_>>().map(Value::Array);
        }
        if let Ok(mapping) = value.cast::<PyMapping>() {
            let mut fields = Map::new();
            for item in mapping.items()? {
                let (key, value) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
                self.field_of(&mut fields, &key, &value, depth)?;
            }
            return Ok(Value::Object(fields));
        }
        let kind = value.get_type().name()?.to_string();
        Err(self.refuse(
            value,
            &format!("has a value of type {kind}; give None, bool, int, float, str, list or dict"),
        ))
    }

    fn field_of(
        &mut self,
        fields: &mut Map<String, Value>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        depth: usize,
    ) -> PyResult<()> {
        let Ok(key) = key.cast::<PyString>() else {
            return Err(self.refuse(key, "has a key that is not a string"));
        };
        fields.insert(self.text(key)?, self.convert(value, depth + 1)?);
        Ok(())
    }

    fn text(&mut self, text: &Bound<'_, PyString>) -> PyResult<String> {
        let text_utf8 = utf8(text, self.field)?;
        self.charge(text, text_utf8.len())?;
        Ok(text_utf8.to_owned())
    }

    fn charge(&mut self, value: &Bound<'_, PyAny>, bytes: usize) -> PyResult<()> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(self.refuse(value, "has more than 64 MiB")),
        }
    }

    fn refuse(&self, value: &Bound<'_, PyAny>, problem: &str) -> PyErr {
        let message = format!("{} {problem}", self.field);
        to_py_err(
            value.py(),
            Error::Request {
                field: self.field,
                message,
            },
        )
    }
}
