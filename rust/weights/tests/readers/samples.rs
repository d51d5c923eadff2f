//! Small files that use everything a format has, and what must hold for whatever a reader accepts.

use std::collections::HashSet;
use std::path::Path;

use inferlib_weights::{Weights, WeightsError, dequantize};

use crate::writer::{Gguf, Value};

/// Read a file from memory.
pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<Weights, WeightsError> {
    Weights::from_bytes(Path::new(name), bytes.to_vec())
}

/// A GGUF file of all metadata types and several tensor types.
pub(crate) fn gguf() -> Gguf {
    Gguf::new()
        .pair("general.architecture", Value::string("llama"))
        .pair(
            "a.u8",
            Value {
                type_number: 0,
                bytes: vec![200],
            },
        )
        .pair(
            "a.i8",
            Value {
                type_number: 1,
                bytes: vec![200],
            },
        )
        .pair(
            "a.u16",
            Value {
                type_number: 2,
                bytes: vec![1, 2],
            },
        )
        .pair(
            "a.i16",
            Value {
                type_number: 3,
                bytes: vec![255, 255],
            },
        )
        .pair("general.alignment", Value::u32(32))
        .pair(
            "a.i32",
            Value {
                type_number: 5,
                bytes: (-5_i32).to_le_bytes().into(),
            },
        )
        .pair(
            "a.f32",
            Value {
                type_number: 6,
                bytes: 1.5_f32.to_le_bytes().into(),
            },
        )
        .pair(
            "a.bool",
            Value {
                type_number: 7,
                bytes: vec![1],
            },
        )
        .pair(
            "a.u64",
            Value {
                type_number: 10,
                bytes: u64::MAX.to_le_bytes().into(),
            },
        )
        .pair(
            "a.i64",
            Value {
                type_number: 11,
                bytes: i64::MIN.to_le_bytes().into(),
            },
        )
        .pair(
            "a.f64",
            Value {
                type_number: 12,
                bytes: 0.1_f64.to_le_bytes().into(),
            },
        )
        .pair("tokens", Value::strings(&["<s>", "", "é漢", "▁a"]))
        .pair("flags", Value::array(7, 3, &[1, 0, 1]))
        .pair("scores", Value::array(6, 2, &[0, 0, 128, 63, 0, 0, 0, 192]))
        .pair("none", Value::array(5, 0, &[]))
        .tensor("norm", &[5], 0, &ramp(20))
        .tensor("w", &[64, 3], 2, &ramp(6 * 18))
        .tensor("scalar", &[], 1, &[0, 60])
        .tensor("empty", &[32, 0], 8, &[])
        .tensor("experts", &[256, 1, 2, 1], 12, &ramp(2 * 144))
}

/// The text of a safetensors file's header and its data.
pub(crate) fn safetensors_parts() -> (String, Vec<u8>) {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt","é":"x"},"#,
        r#""w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
        r#""half":{"dtype":"BF16","shape":[1,1,5],"data_offsets":[24,34]},"#,
        r#""none":{"dtype":"F16","shape":[0,7],"data_offsets":[34,34]},"#,
        r#""eight":{"dtype":"F8_E4M3","shape":[],"data_offsets":[34,35]},"#,
        r#""\u0061ids":{"dtype":"I64","shape":[2],"data_offsets":[35,51]}}"#,
    );
    (header.to_owned(), ramp(51))
}

/// A safetensors file of these parts.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = u64::try_from(header.len()).unwrap().to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// Bytes 0, 1, 2, … without the patterns that are infinite as halves.
pub(crate) fn ramp(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 59).unwrap()).collect()
}

/// What must hold for any file that is accepted: tensors have the bytes of their shapes, their names are found and
/// unique, and all of it can be read.
pub(crate) fn check_integrity(weights: &Weights) {
    let mut names = HashSet::new();
    let mut total = 0;
    for tensor in weights.tensors() {
        let elements: usize = tensor.shape.iter().product();
        assert_eq!(
            tensor.bytes.len(),
            elements / tensor.dtype.block_size() * tensor.dtype.block_bytes()
        );
        assert!(names.insert(tensor.name), "{:?} twice", tensor.name);
        let found = weights.tensor(tensor.name).unwrap();
        assert_eq!(found.bytes.as_ptr_range(), tensor.bytes.as_ptr_range());
        dequantize(tensor.dtype, tensor.bytes, &mut vec![0.0; elements]).unwrap();
        total += u64::try_from(tensor.bytes.len()).unwrap();
    }
    assert_eq!(names.len(), weights.len());
    assert_eq!(weights.names().len(), weights.len());
    assert_eq!(weights.total_bytes(), total);
    for (key, value) in weights.metadata().iter() {
        assert!(
            std::ptr::eq(weights.metadata().get(key).unwrap(), value),
            "{key:?} is not found"
        );
        if let Some(strings) = value.as_strings() {
            assert!(
                strings
                    .iter()
                    .enumerate()
                    .all(|(i, text)| strings.get(i) == Some(text))
            );
        }
    }
}
