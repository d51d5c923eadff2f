//! `model.safetensors.index.json`: which tensor is in which file beside it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::cursor::as_u64;
use crate::error::WeightsError;
use crate::safetensors::{json_offset, short};

/// Several times the largest real one.
pub(crate) const MAX_INDEX_BYTES: u64 = 100_000_000;

/// The shards' file names, and each tensor's shard.
#[derive(Debug, Default)]
pub(crate) struct ShardIndex {
    shards: Vec<String>,
    names: String,
    /// Where the tensor's name ends in `names`, and its shard.
    tensors: Vec<(u32, u16)>,
}

impl ShardIndex {
    /// Read the text of an index; `path` is where it is from.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, WeightsError> {
        let mut index = Self::default();
        let mut json = serde_json::Deserializer::from_slice(text);
        let read = IndexReader(&mut index).deserialize(&mut json);
        if let Err(error) = read.and_then(|()| json.end()) {
            return Err(WeightsError::Malformed {
                path: path.to_owned(),
                offset: json_offset(text, &error),
                expected: "a safetensors index: a JSON object with \"weight_map\"".to_owned(),
                found: short(&error),
            });
        }
        if let Some(shard) = index.shards.iter().find(|shard| !is_plain_name(shard)) {
            return Err(WeightsError::ShardPath {
                path: path.to_owned(),
                shard: shard.chars().take(200).collect(),
            });
        }
        Ok(index)
    }

    /// File names, in the order in which the index first mentions them.
    pub(crate) fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Each tensor's name and the number of its shard.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, u16)> {
        let mut start = 0_usize;
        self.tensors.iter().map(move |&(end, shard)| {
            let end = usize::try_from(end).unwrap_or(start);
            let name = self.names.get(start..end).unwrap_or_default();
            start = end;
            (name, shard)
        })
    }
}

/// Whether a shard is a file beside the index and nothing else: no folder, no drive, no way up.
///
/// The file itself may be a symbolic link to anywhere: Hugging Face's cache is made of such links, and who can write
/// links into the folder can write the index as well.
fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && !name.contains(|letter: char| matches!(letter, '/' | '\\' | ':') || letter.is_control())
}

struct IndexReader<'i>(&'i mut ShardIndex);

impl<'de> DeserializeSeed<'de> for IndexReader<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IndexReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"weight_map\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(Text(key)) = map.next_key()? {
            if key == "weight_map" {
                if seen {
                    return Err(de::Error::duplicate_field("weight_map"));
                }
                seen = true;
                map.next_value_seed(WeightMap(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if seen {
            Ok(())
        } else {
            Err(de::Error::missing_field("weight_map"))
        }
    }
}

struct WeightMap<'i>(&'i mut ShardIndex);

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that gives each tensor its file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut numbers: HashMap<String, u16> = HashMap::new();
        while let Some((Text(tensor), Text(shard))) = map.next_entry()? {
            let number = if let Some(&number) = numbers.get(&*shard) {
                number
            } else {
                let number = u16::try_from(self.0.shards.len())
                    .map_err(|_| de::Error::custom("more than 65,536 shards"))?;
                self.0.shards.push(shard.clone().into_owned());
                numbers.insert(shard.into_owned(), number);
                number
            };
            self.0.names.push_str(&tensor);
            let end = u32::try_from(self.0.names.len())
                .map_err(|_| de::Error::custom("more than 4 GiB of names"))?;
            self.0.tensors.push((end, number));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The error for an index that is larger than any real one.
pub(crate) fn check_size(path: &Path, len: usize) -> Result<(), WeightsError> {
    let found = as_u64(len);
    if found > MAX_INDEX_BYTES {
        return Err(WeightsError::HeaderTooLarge {
            path: path.to_owned(),
            found,
            limit: MAX_INDEX_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ShardIndex, WeightsError> {
        ShardIndex::parse(Path::new("index"), text.as_bytes())
    }

    #[test]
    fn shards_are_listed_once_and_tensors_know_theirs() {
        let index = parse(
            r#"{"metadata": {"total_size": [1, {}]}, "weight_map": {"a": "y", "b": "x", "c": "y", "\u00e9": "x"}}"#,
        )
        .unwrap();
        assert_eq!(index.shards(), ["y", "x"]);
        assert!(index.tensors().eq([("a", 0), ("b", 1), ("c", 0), ("é", 1)]));
    }

    #[test]
    fn a_shard_that_is_not_a_plain_file_name_is_refused() {
        for shard in [
            "../x.safetensors",
            "/etc/passwd",
            "a/b",
            "..",
            ".",
            "",
            "C:x",
            r"..\\x",
            r"\\\\host\\x",
            r"x\u0000",
        ] {
            let error = parse(&format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#)).unwrap_err();
            assert!(
                matches!(error, WeightsError::ShardPath { .. }),
                "{shard}: {error}"
            );
        }
    }

    #[test]
    fn an_index_that_breaks_the_form_is_refused_with_the_place() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            "{}",
            r#"{"weight_map": 1}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {}, "weight_map": {}}"#,
            r#"{"weight_map": {}} x"#,
            r#"{"weight_map": {"a": NaN}}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                matches!(error, WeightsError::Malformed { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn json_nested_a_hundred_thousand_deep_is_skipped_or_refused_without_recursion() {
        let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&format!(r#"{{"metadata": {open}"#)).is_err());
        assert!(parse(&format!(r#"{{"weight_map": {{"a": {open}{close}}}}}"#)).is_err());
        let index = parse(&format!(
            r#"{{"metadata": {open}{close}, "weight_map": {{}}}}"#
        ))
        .unwrap();
        assert!(index.shards().is_empty());
    }

    #[test]
    fn an_index_larger_than_any_real_one_is_refused_before_it_is_read() {
        let limit = usize::try_from(MAX_INDEX_BYTES).unwrap();
        check_size(Path::new("index"), limit).unwrap();
        let error = check_size(Path::new("index"), limit + 1).unwrap_err();
        assert!(matches!(
            error,
            WeightsError::HeaderTooLarge {
                found: 100_000_001,
                limit: 100_000_000,
                ..
            }
        ));
    }
}
