//! The header of a GGUF file, versions 2 and 3, little-endian.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Like llama.cpp, and more strictly than that
//! page, tensors must lie one after the other, each padded to the alignment; so nothing overlaps and nothing is hidden
//! between them. Cost: one pass over the header, two allocations per string array (262,144 tokens: about 3 ms).

use std::path::Path;

use crate::cursor::{Cursor, as_u64};
use crate::dtype::{Dtype, ShapeFault};
use crate::error::WeightsError;
use crate::gguf_values::{read_value, value_type_name};
use crate::metadata::{Metadata, MetadataValue};
use crate::table::{TensorTable, in_file_order};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
const PAIRS: Count = Count {
    what: "the number of metadata pairs",
    most: Metadata::MAX_PAIRS as u64,
    min_bytes: 13, // an empty key, a type, one byte
};
const TENSORS: Count = Count {
    what: "the number of tensors",
    most: 1 << 20,
    min_bytes: 24, // an empty name, no dimensions, a type, an offset
};

/// Add the tensors of the file to `table`, as those of `file`, and return the file's version and metadata.
pub(crate) fn read_header(
    path: &Path,
    bytes: &[u8],
    file: u16,
    table: &mut TensorTable,
) -> Result<(u32, Metadata), WeightsError> {
    let mut cursor = Cursor::new(path, bytes);
    let magic: [u8; 4] = cursor.array("the magic \"GGUF\"")?;
    if magic != *MAGIC {
        return Err(cursor.malformed(0, "the magic \"GGUF\"", magic.escape_ascii().to_string()));
    }
    let version = cursor.u32("the version")?;
    if version.trailing_zeros() >= 16 && version != 0 {
        return Err(WeightsError::BigEndian {
            path: path.to_owned(),
        });
    }
    if !(2..=3).contains(&version) {
        return Err(WeightsError::UnsupportedVersion {
            path: path.to_owned(),
            version,
        });
    }
    let tensor_count = TENSORS.read(&mut cursor)?;
    let pair_count = PAIRS.read(&mut cursor)?;

    let metadata = read_metadata(path, &mut cursor, pair_count)?;
    let alignment = alignment(&cursor, &metadata)?;
    let first = table.entries().len();
    table.reserve(tensor_count);
    for _ in 0..tensor_count {
        read_tensor_description(path, &mut cursor, file, table)?;
    }
    place_tensors(path, &cursor, as_u64(bytes.len()), alignment, first, table)?;
    Ok((version, metadata))
}

/// How many of something follow: no more than is sane, and no more than the rest of the file could describe.
struct Count {
    what: &'static str,
    most: u64,
    min_bytes: u64,
}

impl Count {
    fn read(&self, cursor: &mut Cursor<'_>) -> Result<u64, WeightsError> {
        let offset = cursor.offset();
        let count = cursor.u64(self.what)?;
        let room = cursor.remaining().checked_div(self.min_bytes);
        let most = self.most.min(room.unwrap_or(0));
        if count > most {
            let expected = format!("{}, at most {most} in a file of this length", self.what);
            return Err(cursor.malformed(offset, expected, count.to_string()));
        }
        Ok(count)
    }
}

fn read_metadata(
    path: &Path,
    cursor: &mut Cursor<'_>,
    count: u64,
) -> Result<Metadata, WeightsError> {
    let mut pairs = Vec::new();
    for _ in 0..count {
        let key = cursor.string("a metadata key")?;
        let value = read_value(cursor, key)?;
        pairs.push((key.into(), value));
    }
    Metadata::new(pairs).map_err(|key| WeightsError::DuplicateKey {
        path: path.to_owned(),
        key: key.into(),
    })
}

fn alignment(cursor: &Cursor<'_>, metadata: &Metadata) -> Result<u64, WeightsError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(MetadataValue::U32(alignment)) if alignment.is_power_of_two() => {
            Ok(u64::from(*alignment))
        }
        Some(other) => {
            let found = match other {
                MetadataValue::U32(alignment) => alignment.to_string(),
                other => value_type_name(other).to_owned(),
            };
            let expected = "general.alignment to be a power of two of type U32";
            Err(cursor.malformed(cursor.offset(), expected, found))
        }
    }
}

fn read_tensor_description(
    path: &Path,
    cursor: &mut Cursor<'_>,
    file: u16,
    table: &mut TensorTable,
) -> Result<(), WeightsError> {
    let start = cursor.offset();
    let name = cursor.string("a tensor name")?;
    let rank_offset = cursor.offset();
    let rank = cursor.u32("a number of dimensions")?;
    if rank > MAX_DIMENSIONS {
        let expected = format!("at most {MAX_DIMENSIONS} dimensions for tensor {name:?}");
        return Err(cursor.malformed(rank_offset, expected, rank.to_string()));
    }
    let mut shape = Vec::with_capacity(TensorTable::MAX_RANK);
    for _ in 0..rank {
        let offset = cursor.offset();
        let dimension = cursor.u64("a dimension")?;
        shape.push(usize::try_from(dimension).map_err(|_| {
            cursor.malformed(
                offset,
                "a dimension of this machine's word",
                dimension.to_string(),
            )
        })?);
    }
    shape.reverse();
    let type_number = cursor.u32("a tensor type")?;
    let dtype = dtype_from_number(type_number).ok_or_else(|| WeightsError::UnsupportedDtype {
        path: path.to_owned(),
        tensor: name.to_owned(),
        dtype: unsupported_name(type_number),
    })?;
    let offset = cursor.u64("a tensor offset")?;
    let len = dtype.tensor_bytes(&shape).map_err(|fault| {
        let (path, tensor) = (path.to_owned(), name.to_owned());
        match fault {
            ShapeFault::TooLarge => WeightsError::ShapeTooLarge {
                path,
                tensor,
                shape: shape.clone(),
            },
            ShapeFault::PartialBlock { row } => WeightsError::PartialBlock {
                path,
                tensor,
                dtype,
                row,
            },
        }
    })?;
    let end = offset.checked_add(len).ok_or_else(|| {
        cursor.malformed(
            start,
            format!("an offset of tensor {name:?} inside the file"),
            offset.to_string(),
        )
    })?;
    table
        .push(name, dtype, &shape, file, (offset, end))
        .map_err(|_| cursor.malformed(start, "fewer tensors", "more than can be counted"))
}

/// Check that the new tensors follow each other in the data section, and turn their offsets in it into offsets in the file.
fn place_tensors(
    path: &Path,
    cursor: &Cursor<'_>,
    file_len: u64,
    alignment: u64,
    first: usize,
    table: &mut TensorTable,
) -> Result<(), WeightsError> {
    let too_far = || cursor.truncated(u64::MAX, "the tensor data");
    let data_start = cursor
        .offset()
        .checked_next_multiple_of(alignment)
        .ok_or_else(too_far)?;
    let new = table.entries().get(first..).unwrap_or_default();
    let mut expected = 0_u64;
    let mut data_end = data_start;
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
        let start = data_start.checked_add(entry.start).ok_or_else(too_far)?;
        data_end = data_start.checked_add(entry.end).ok_or_else(too_far)?;
        if data_end > file_len {
            return Err(WeightsError::Truncated {
                path: path.to_owned(),
                what: format!("tensor {tensor:?}"),
                offset: start,
                expected: data_end.saturating_sub(start),
                found: file_len.saturating_sub(start),
            });
        }
        expected = entry
            .end
            .checked_next_multiple_of(alignment)
            .ok_or_else(too_far)?;
    }
    // Writers pad the last tensor as well, and some cut that padding off.
    let padded_end = data_end
        .checked_next_multiple_of(alignment)
        .ok_or_else(too_far)?;
    if file_len > padded_end {
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

/// The type that ggml gives this number.
pub(crate) fn dtype_from_number(number: u32) -> Option<Dtype> {
    Some(match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        6 => Dtype::Q5_0,
        7 => Dtype::Q5_1,
        8 => Dtype::Q8_0,
        10 => Dtype::Q2K,
        11 => Dtype::Q3K,
        12 => Dtype::Q4K,
        13 => Dtype::Q5K,
        14 => Dtype::Q6K,
        20 => Dtype::Iq4Nl,
        23 => Dtype::Iq4Xs,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::BF16,
        39 => Dtype::Mxfp4,
        _ => return None,
    })
}

/// What ggml calls a type that is not read here.
fn unsupported_name(number: u32) -> String {
    let name = match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return format!("number {number}"),
    };
    name.to_owned()
}
