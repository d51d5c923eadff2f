//! safetensors: the header's tree and the data behind it, their lengths right more often than not.

use serde_json::{Map, Value, json};

use super::{another_number, few, json};
use crate::Random;
use crate::reader_samples::{ramp, safetensors};

/// Of a header.
#[rustfmt::skip]
pub const WORDS: &[&str] = &[
    "\"__metadata__\"", "\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"F32\"", "\"BF16\"", "\"F8_E4M3\"", "\"F4\"", "\"U8\"",
    "\"BOOL\"", "\"I64\"", "\"C64\"", "[0,4]", "[4,0]", "[0,18446744073709551615]", "[4294967296,4294967296]", "[]",
    "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", "{\"format\":\"pt\"}",
];

/// Change a file, or make one.
#[must_use]
pub fn mutate(data: &[u8], random: &mut Random) -> Vec<u8> {
    let (header, content) = match split(data) {
        Some((header, content)) if !random.one_in(3) => (header.to_vec(), content.to_vec()),
        _ => synthetic(random),
    };
    let header = if random.one_in(8) {
        header
    } else {
        json::tree(&header, random, WORDS)
    };
    let mut file = safetensors(&String::from_utf8_lossy(&header), &content);
    if random.one_in(8) {
        let length = another_number(header.len() as u64, random);
        file[..8].copy_from_slice(&length.to_le_bytes());
    }
    if random.one_in(8) {
        file.truncate(random.below(file.len()));
    }
    file
}

/// Header and data, if there are such.
fn split(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// A valid file of a few tensors.
fn synthetic(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let mut header = Map::new();
    let mut end = 0;
    for number in 0..random.below(5) {
        let (dtype, size) = *random.pick(&[
            ("F64", 8),
            ("F32", 4),
            ("F16", 2),
            ("BF16", 2),
            ("I64", 8),
            ("I32", 4),
            ("U8", 1),
            ("BOOL", 1),
            ("F8_E5M2", 1),
        ]);
        let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(5)).collect();
        let start = end;
        end += shape.iter().product::<usize>() * size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("t{}", number + few(random)), entry);
    }
    // A name that came twice leaves a gap: refused, which is well, too.
    (Value::Object(header).to_string().into_bytes(), ramp(end))
}
