//! What a checkpoint says about itself besides its tensors: GGUF's key-value pairs, safetensors' `__metadata__`.
//!
//! Large string arrays (a vocabulary of 262,144 tokens) are one buffer and one end per string: two allocations.

use std::fmt;

/// Key-value pairs, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(Box<str>, MetadataValue)>,
    by_key: Vec<u32>,
}

/// One value of the metadata, with the type that it has in the file.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's types")]
pub enum MetadataValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(Box<str>),
    Array(MetadataArray),
}

/// An array of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's types")]
pub enum MetadataArray {
    U8(Box<[u8]>),
    I8(Box<[i8]>),
    U16(Box<[u16]>),
    I16(Box<[i16]>),
    U32(Box<[u32]>),
    I32(Box<[i32]>),
    U64(Box<[u64]>),
    I64(Box<[i64]>),
    F32(Box<[f32]>),
    F64(Box<[f64]>),
    Bool(Box<[bool]>),
    String(StringArray),
}

/// Many strings in one buffer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl Metadata {
    /// More pairs than any real file has.
    pub(crate) const MAX_PAIRS: usize = 65_536;

    /// Pairs by key; the key that appears twice if one does.
    pub(crate) fn new(pairs: Vec<(Box<str>, MetadataValue)>) -> Result<Self, Box<str>> {
        let mut by_key: Vec<u32> = (0..).take(pairs.len()).collect();
        let mut metadata = Self {
            pairs,
            by_key: Vec::new(),
        };
        by_key.sort_unstable_by(|&a, &b| metadata.key_at(a).cmp(metadata.key_at(b)));
        let twice = by_key
            .iter()
            .zip(by_key.iter().skip(1))
            .find(|&(&a, &b)| metadata.key_at(a) == metadata.key_at(b));
        if let Some((&index, _)) = twice {
            return Err(metadata.key_at(index).into());
        }
        metadata.by_key = by_key;
        Ok(metadata)
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        let position = self
            .by_key
            .binary_search_by(|&index| self.key_at(index).cmp(key))
            .ok()?;
        let index = usize::try_from(*self.by_key.get(position)?).ok()?;
        self.pairs.get(index).map(|(_, value)| value)
    }

    /// All pairs, in the order of the file.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &MetadataValue)> {
        self.pairs.iter().map(|(key, value)| (&**key, value))
    }

    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn key_at(&self, index: u32) -> &str {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.pairs.get(index))
            .map_or("", |(key, _)| key)
    }
}

impl MetadataValue {
    /// An integer of any width that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// A floating-point number of either width.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// An array.
    #[must_use]
    pub fn as_array(&self) -> Option<&MetadataArray> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// An array of strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&StringArray> {
        match self {
            Self::Array(MetadataArray::String(strings)) => Some(strings),
            _ => None,
        }
    }
}

impl MetadataArray {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StringArray {
    /// Strings that lie one after the other in `text` and end at `ends`; `None` if an end is out of order, out of range
    /// or inside a character.
    pub(crate) fn new(text: Box<str>, ends: Box<[u32]>) -> Option<Self> {
        let mut start = 0_usize;
        for &end in &ends {
            let end = usize::try_from(end).ok()?;
            if end < start || !text.is_char_boundary(end) {
                return None;
            }
            start = end;
        }
        (start == text.len()).then_some(Self { text, ends })
    }

    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = usize::try_from(*self.ends.get(index)?).ok()?;
        let start = match index.checked_sub(1) {
            Some(before) => usize::try_from(*self.ends.get(before)?).ok()?,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// All strings in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0_usize;
        self.ends.iter().map(move |&end| {
            let end = usize::try_from(end).unwrap_or(start);
            let string = self.text.get(start..end).unwrap_or_default();
            start = end;
            string
        })
    }
}

impl<S: AsRef<str>> FromIterator<S> for StringArray {
    /// Collect strings.
    ///
    /// # Panics
    /// Where they hold more than 4 GiB together.
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut text = String::new();
        let ends = strings
            .into_iter()
            .map(|string| {
                text.push_str(string.as_ref());
                let Ok(end) = u32::try_from(text.len()) else {
                    panic!("a string array holds at most 4 GiB");
                };
                end
            })
            .collect();
        Self {
            text: text.into(),
            ends,
        }
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_went_in() {
        let strings = ["", "a", "é漢", "", "z", ""];
        let array: StringArray = strings.iter().collect();
        assert!(array.iter().eq(strings));
        for (index, string) in strings.iter().enumerate() {
            assert_eq!(array.get(index), Some(*string));
        }
        assert_eq!(array.get(strings.len()), None);
        assert_eq!(array.len(), strings.len());
    }

    #[test]
    fn an_end_inside_a_character_makes_no_array() {
        assert!(StringArray::new("é".into(), [1, 2].into()).is_none());
        assert!(StringArray::new("ab".into(), [2, 1].into()).is_none());
        assert!(StringArray::new("ab".into(), [1].into()).is_none());
        assert!(StringArray::new("ab".into(), [3].into()).is_none());
    }

    #[test]
    fn values_are_found_by_key_and_listed_in_file_order() {
        let pairs = ["z", "a", "m"].map(|key| (key.into(), MetadataValue::String(key.into())));
        let metadata = Metadata::new(pairs.into()).unwrap();
        assert!(metadata.iter().map(|(key, _)| key).eq(["z", "a", "m"]));
        assert_eq!(metadata.get("m").and_then(MetadataValue::as_str), Some("m"));
        assert_eq!(metadata.get("b"), None);
    }

    #[test]
    fn a_negative_integer_is_no_count() {
        assert_eq!(MetadataValue::I32(-1).as_u64(), None);
        assert_eq!(MetadataValue::I64(5).as_u64(), Some(5));
        assert_eq!(MetadataValue::F32(5.0).as_u64(), None);
    }

    #[test]
    fn integers_of_every_width_are_counts_if_not_negative() {
        for (value, count) in [
            (MetadataValue::U8(u8::MAX), Some(255)),
            (MetadataValue::U16(u16::MAX), Some(65_535)),
            (MetadataValue::U32(u32::MAX), Some(4_294_967_295)),
            (MetadataValue::U64(u64::MAX), Some(u64::MAX)),
            (MetadataValue::I8(i8::MAX), Some(127)),
            (MetadataValue::I8(-1), None),
            (MetadataValue::I16(i16::MAX), Some(32_767)),
            (MetadataValue::I16(-1), None),
            (MetadataValue::I64(i64::MIN), None),
            (MetadataValue::F64(5.0), None),
            (MetadataValue::Bool(true), None),
            (MetadataValue::String("5".into()), None),
            (MetadataValue::Array(MetadataArray::U8([5].into())), None),
        ] {
            assert_eq!(value.as_u64(), count, "{value:?}");
        }
    }

    #[test]
    fn a_value_is_given_as_its_own_type_alone() {
        let names: StringArray = ["a", "b"].iter().collect();
        let values = [
            MetadataValue::U32(1),
            MetadataValue::F32(0.5),
            MetadataValue::F64(0.1),
            MetadataValue::Bool(false),
            MetadataValue::String("1".into()),
            MetadataValue::Array(MetadataArray::Bool([true].into())),
            MetadataValue::Array(MetadataArray::String(names.clone())),
        ];
        let which = |is: &dyn Fn(&MetadataValue) -> bool| -> Vec<usize> {
            (0..values.len()).filter(|&i| is(&values[i])).collect()
        };
        assert_eq!(which(&|value| value.as_u64().is_some()), [0]);
        assert_eq!(which(&|value| value.as_f64().is_some()), [1, 2]);
        assert_eq!(which(&|value| value.as_bool().is_some()), [3]);
        assert_eq!(which(&|value| value.as_str().is_some()), [4]);
        assert_eq!(which(&|value| value.as_array().is_some()), [5, 6]);
        assert_eq!(which(&|value| value.as_strings().is_some()), [6]);
        assert_eq!(values[1].as_f64(), Some(0.5));
        assert_eq!(values[2].as_f64(), Some(0.1));
        assert_eq!(values[3].as_bool(), Some(false));
        assert_eq!(values[6].as_strings(), Some(&names));
    }

    #[test]
    fn arrays_of_every_type_have_a_length() {
        let arrays = |len: usize| {
            let strings: StringArray = std::iter::repeat_n("x", len).collect();
            [
                MetadataArray::U8(vec![1; len].into()),
                MetadataArray::I8(vec![1; len].into()),
                MetadataArray::U16(vec![1; len].into()),
                MetadataArray::I16(vec![1; len].into()),
                MetadataArray::U32(vec![1; len].into()),
                MetadataArray::I32(vec![1; len].into()),
                MetadataArray::U64(vec![1; len].into()),
                MetadataArray::I64(vec![1; len].into()),
                MetadataArray::F32(vec![1.0; len].into()),
                MetadataArray::F64(vec![1.0; len].into()),
                MetadataArray::Bool(vec![true; len].into()),
                MetadataArray::String(strings),
            ]
        };
        for len in [0, 3] {
            for array in arrays(len) {
                assert_eq!(
                    (array.len(), array.is_empty()),
                    (len, len == 0),
                    "{array:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_empty_and_one_pair_is_not() {
        assert!(Metadata::default().is_empty());
        let metadata = Metadata::new(vec![("k".into(), MetadataValue::U8(1))]).unwrap();
        assert!(!metadata.is_empty());
        assert_eq!(metadata.len(), 1);
        assert!(StringArray::default().is_empty());
        assert!(!["", ""].iter().collect::<StringArray>().is_empty());
    }

    #[test]
    fn strings_are_shown_as_a_list() {
        let strings: StringArray = ["a", "", "é\n"].iter().collect();
        assert_eq!(format!("{strings:?}"), r#"["a", "", "é\n"]"#);
    }
}
