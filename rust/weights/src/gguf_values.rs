//! The values of GGUF's metadata: scalars, strings and arrays of them.

use crate::cursor::Cursor;
use crate::error::WeightsError;
use crate::metadata::{MetadataArray, MetadataValue, StringArray};

/// GGUF's number for an array.
const ARRAY: u32 = 9;
/// Bytes before the text of each string.
const STRING_LENGTH_BYTES: u64 = 8;

/// Read the value of `key`: a type number, then what that type holds.
pub(crate) fn read_value(
    cursor: &mut Cursor<'_>,
    key: &str,
) -> Result<MetadataValue, WeightsError> {
    let offset = cursor.offset();
    let number = cursor.u32("a metadata type")?;
    let what = "a metadata value";
    Ok(match number {
        0 => MetadataValue::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => MetadataValue::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => MetadataValue::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => MetadataValue::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => MetadataValue::U32(u32::from_le_bytes(cursor.array(what)?)),
        5 => MetadataValue::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => MetadataValue::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => {
            let offset = cursor.offset();
            let [byte] = cursor.array(what)?;
            MetadataValue::Bool(read_bool(cursor, offset, key, byte)?)
        }
        8 => MetadataValue::String(cursor.string(what)?.into()),
        ARRAY => MetadataValue::Array(read_array(cursor, key)?),
        10 => MetadataValue::U64(u64::from_le_bytes(cursor.array(what)?)),
        11 => MetadataValue::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => MetadataValue::F64(f64::from_le_bytes(cursor.array(what)?)),
        other => {
            let expected = format!("a type number up to 12 for metadata key {key:?}");
            return Err(cursor.malformed(offset, expected, other.to_string()));
        }
    })
}

/// What GGUF calls the type of a value.
pub(crate) fn value_type_name(value: &MetadataValue) -> &'static str {
    match value {
        MetadataValue::U8(_) => "U8",
        MetadataValue::I8(_) => "I8",
        MetadataValue::U16(_) => "U16",
        MetadataValue::I16(_) => "I16",
        MetadataValue::U32(_) => "U32",
        MetadataValue::I32(_) => "I32",
        MetadataValue::U64(_) => "U64",
        MetadataValue::I64(_) => "I64",
        MetadataValue::F32(_) => "F32",
        MetadataValue::F64(_) => "F64",
        MetadataValue::Bool(_) => "BOOL",
        MetadataValue::String(_) => "STRING",
        MetadataValue::Array(_) => "ARRAY",
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<MetadataArray, WeightsError> {
    let offset = cursor.offset();
    let number = cursor.u32("the type of a metadata array")?;
    let count = cursor.u64("the length of a metadata array")?;
    Ok(match number {
        0 => MetadataArray::U8(cursor.take(count, "a metadata array")?.into()),
        1 => MetadataArray::I8(numbers(cursor, count, i8::from_le_bytes)?),
        2 => MetadataArray::U16(numbers(cursor, count, u16::from_le_bytes)?),
        3 => MetadataArray::I16(numbers(cursor, count, i16::from_le_bytes)?),
        4 => MetadataArray::U32(numbers(cursor, count, u32::from_le_bytes)?),
        5 => MetadataArray::I32(numbers(cursor, count, i32::from_le_bytes)?),
        6 => MetadataArray::F32(numbers(cursor, count, f32::from_le_bytes)?),
        7 => {
            let offset = cursor.offset();
            let bytes = cursor.take(count, "a metadata array")?;
            let flags = bytes
                .iter()
                .map(|&byte| read_bool(cursor, offset, key, byte));
            MetadataArray::Bool(flags.collect::<Result<_, _>>()?)
        }
        8 => MetadataArray::String(strings(cursor, key, count)?),
        10 => MetadataArray::U64(numbers(cursor, count, u64::from_le_bytes)?),
        11 => MetadataArray::I64(numbers(cursor, count, i64::from_le_bytes)?),
        12 => MetadataArray::F64(numbers(cursor, count, f64::from_le_bytes)?),
        other => {
            let found = match other {
                ARRAY => "an array of arrays".to_owned(),
                other => other.to_string(),
            };
            let expected = format!("numbers, truth values or strings in metadata array {key:?}");
            return Err(cursor.malformed(offset, expected, found));
        }
    })
}

fn numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    count: u64,
    from_le_bytes: fn([u8; N]) -> T,
) -> Result<Box<[T]>, WeightsError> {
    let bytes = cursor.take_many(count, crate::cursor::as_u64(N), "a metadata array")?;
    let (values, _) = bytes.as_chunks::<N>();
    Ok(values.iter().map(|&value| from_le_bytes(value)).collect())
}

/// Strings, in two passes: the first finds how long all are together, so that the second allocates once.
fn strings(cursor: &mut Cursor<'_>, key: &str, count: u64) -> Result<StringArray, WeightsError> {
    let what = "a string of a metadata array";
    let start = cursor.offset();
    let least = count.saturating_mul(STRING_LENGTH_BYTES);
    let Some(count) = usize::try_from(count)
        .ok()
        .filter(|_| least <= cursor.remaining())
    else {
        return Err(cursor.truncated(least, "a metadata array"));
    };
    let mut ahead = cursor.clone();
    for _ in 0..count {
        let len = ahead.u64(what)?;
        ahead.take(len, what)?;
    }
    let total = ahead.offset().saturating_sub(start).saturating_sub(least);
    let too_long = |cursor: &Cursor<'_>| {
        let expected = format!("at most 4 GiB of text in metadata array {key:?}");
        cursor.malformed(start, expected, format!("{total} bytes"))
    };
    let Ok(total_end) = u32::try_from(total) else {
        return Err(too_long(cursor));
    };

    let mut text = Vec::with_capacity(usize::try_from(total_end).unwrap_or(0));
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        let len = cursor.u64(what)?;
        text.extend_from_slice(cursor.take(len, what)?);
        ends.push(u32::try_from(text.len()).map_err(|_| too_long(cursor))?);
    }
    String::from_utf8(text)
        .ok()
        .and_then(|text| StringArray::new(text.into(), ends.into()))
        .ok_or_else(|| {
            let expected = format!("strings in UTF-8 in metadata array {key:?}");
            cursor.malformed(start, expected, "other bytes")
        })
}

fn read_bool(cursor: &Cursor<'_>, offset: u64, key: &str, byte: u8) -> Result<bool, WeightsError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            let expected = format!("0 or 1 as a truth value of metadata key {key:?}");
            Err(cursor.malformed(offset, expected, other.to_string()))
        }
    }
}
