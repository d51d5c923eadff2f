//! The header of a safetensors file: eight bytes of length, then JSON that gives each tensor its type, shape and place.
//!
//! Source: <https://github.com/huggingface/safetensors#format>. The `safetensors` crate is the oracle of this module's
//! tests, not a part of it: it lets the second of two equal names win, has no tensor and no byte position in its errors,
//! and holds about ten times the header in memory while it reads (serde's `flatten`).

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::cursor::{Cursor, as_u64};
use crate::dtype::{Dtype, ShapeFault};
use crate::error::WeightsError;
use crate::metadata::{Metadata, MetadataValue};
use crate::table::{TensorTable, in_file_order};

/// The reference implementation's limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
const METADATA_KEY: &str = "__metadata__";

/// Add the tensors of the file to `table`, as those of `file`, and return its `__metadata__`.
pub(crate) fn read_header(
    path: &Path,
    bytes: &[u8],
    file: u16,
    table: &mut TensorTable,
) -> Result<Metadata, WeightsError> {
    let mut cursor = Cursor::new(path, bytes);
    let header_len = cursor.u64("the length of the header")?;
    if header_len > MAX_HEADER_BYTES {
        return Err(WeightsError::HeaderTooLarge {
            path: path.to_owned(),
            found: header_len,
            limit: MAX_HEADER_BYTES,
        });
    }
    let header = cursor.take(header_len, "the header")?;
    let first = table.entries().len();
    let mut reader = HeaderReader {
        path,
        file,
        table,
        metadata: None,
        fault: None,
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    let read = reader.deserialize_header(&mut json);
    if let Err(error) = read.and_then(|()| json.end()) {
        return Err(reader.fault.unwrap_or_else(|| {
            let offset = LENGTH_BYTES.saturating_add(json_offset(header, &error));
            cursor.malformed(offset, "a safetensors header in JSON", short(&error))
        }));
    }
    let pairs = reader.metadata.unwrap_or_default();
    let metadata = Metadata::new(pairs).map_err(|key| WeightsError::DuplicateKey {
        path: path.to_owned(),
        key: key.into(),
    })?;
    place_tensors(path, &cursor, as_u64(bytes.len()), first, table)?;
    Ok(metadata)
}

/// Fills the table while the JSON is read, so that no tree of it is ever built.
struct HeaderReader<'t> {
    path: &'t Path,
    file: u16,
    table: &'t mut TensorTable,
    metadata: Option<Vec<(Box<str>, MetadataValue)>>,
    /// What ended the reading, where it was not the JSON.
    fault: Option<WeightsError>,
}

impl HeaderReader<'_> {
    fn deserialize_header<'de, D: de::Deserializer<'de>>(
        &mut self,
        json: D,
    ) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }

    fn add_tensor(&mut self, name: &str, info: &TensorInfo<'_>) -> Result<(), WeightsError> {
        let (path, tensor) = (|| self.path.to_owned(), || name.to_owned());
        let shape = info.shape.as_slice();
        // Quantized types are GGUF's; here their names mean nothing.
        let dtype = Dtype::from_name(&info.dtype)
            .filter(|dtype| !dtype.is_quantized())
            .ok_or_else(|| WeightsError::UnsupportedDtype {
                path: path(),
                tensor: tensor(),
                dtype: info.dtype.chars().take(40).collect(),
            })?;
        let expected = dtype.tensor_bytes(shape).map_err(|fault| match fault {
            ShapeFault::TooLarge => WeightsError::ShapeTooLarge {
                path: path(),
                tensor: tensor(),
                shape: shape.to_owned(),
            },
            ShapeFault::PartialBlock { row } => WeightsError::PartialBlock {
                path: path(),
                tensor: tensor(),
                dtype,
                row,
            },
        })?;
        let [start, end] = info.data_offsets;
        if end.checked_sub(start) != Some(expected) {
            return Err(WeightsError::TensorSize {
                path: path(),
                tensor: tensor(),
                shape: shape.to_owned(),
                dtype,
                expected,
                found: end.saturating_sub(start),
            });
        }
        self.table
            .push(name, dtype, shape, self.file, (start, end))
            .map_err(|_| WeightsError::Malformed {
                path: path(),
                offset: LENGTH_BYTES,
                expected: "fewer tensors".to_owned(),
                found: "more than can be counted".to_owned(),
            })
    }
}

impl<'de> Visitor<'de> for &mut HeaderReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(name)) = map.next_key()? {
            if name == METADATA_KEY {
                let pairs = map.next_value_seed(Pairs)?;
                if self.metadata.replace(pairs).is_some() {
                    return Err(de::Error::custom("a second \"__metadata__\""));
                }
                continue;
            }
            let info: TensorInfo<'_> = map.next_value()?;
            if let Err(fault) = self.add_tensor(&name, &info) {
                self.fault = Some(fault);
                return Err(de::Error::custom("see fault"));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(expecting = "an object of dtype, shape and data_offsets")]
struct TensorInfo<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// A shape without an allocation.
#[derive(Default)]
struct Shape {
    dimensions: [usize; TensorTable::MAX_RANK],
    rank: usize,
}

impl Shape {
    fn as_slice(&self) -> &[usize] {
        self.dimensions.get(..self.rank).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {} dimensions", TensorTable::MAX_RANK)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Shape::default();
                while let Some(dimension) = seq.next_element()? {
                    let Some(slot) = shape.dimensions.get_mut(shape.rank) else {
                        return Err(de::Error::custom(format_args!(
                            "more than {} dimensions",
                            TensorTable::MAX_RANK
                        )));
                    };
                    *slot = dimension;
                    shape.rank = shape.rank.saturating_add(1);
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// `__metadata__`: an object of strings, or null.
struct Pairs;

impl<'de> DeserializeSeed<'de> for Pairs {
    type Value = Vec<(Box<str>, MetadataValue)>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(Box<str>, MetadataValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((Key(key), Key(value))) = map.next_entry()? {
            if pairs.len() == Metadata::MAX_PAIRS {
                return Err(de::Error::custom(format_args!(
                    "more than {} metadata pairs",
                    Metadata::MAX_PAIRS
                )));
            }
            pairs.push((key.into(), MetadataValue::String(value.into())));
        }
        Ok(pairs)
    }
}

/// Check that the new tensors cover the data section without overlap or gap, and turn their offsets in it into offsets
/// in the file.
fn place_tensors(
    path: &Path,
    cursor: &Cursor<'_>,
    file_len: u64,
    first: usize,
    table: &mut TensorTable,
) -> Result<(), WeightsError> {
    let data_start = cursor.offset();
    let new = table.entries().get(first..).unwrap_or_default();
    let mut expected = 0_u64;
    for index in in_file_order(new) {
        let Some(entry) = new.get(index) else { break };
        let tensor = table.name(entry);
        if entry.start != expected {
            return Err(WeightsError::TensorOffset {
                path: path.to_owned(),
                tensor: tensor.to_owned(),
                expected,
                found: entry.start,
            });
        }
        let start = data_start.saturating_add(entry.start);
        let end = data_start.saturating_add(entry.end);
        if end > file_len {
            return Err(WeightsError::Truncated {
                path: path.to_owned(),
                what: format!("tensor {tensor:?}"),
                offset: start,
                expected: end.saturating_sub(start),
                found: file_len.saturating_sub(start),
            });
        }
        expected = entry.end;
    }
    let data_end = data_start.saturating_add(expected);
    if data_end != file_len {
        return Err(WeightsError::TrailingBytes {
            path: path.to_owned(),
            expected: data_end,
            found: file_len,
        });
    }
    for entry in table.entries_from_mut(first) {
        entry.start = entry.start.saturating_add(data_start);
        entry.end = entry.end.saturating_add(data_start);
    }
    Ok(())
}

/// Where in `text` a JSON error is, in bytes.
pub(crate) fn json_offset(text: &[u8], error: &serde_json::Error) -> u64 {
    let lines_before = error.line().saturating_sub(1);
    let before: usize = text
        .split_inclusive(|&byte| byte == b'\n')
        .take(lines_before)
        .map(<[u8]>::len)
        .sum();
    as_u64(before.saturating_add(error.column().saturating_sub(1)))
}

/// A JSON error's message, without the text of the file going on and on.
pub(crate) fn short(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}
