//! All tensors of a checkpoint, compactly: a 32-byte entry each, one buffer for names, one for dimensions.
//!
//! A header of n bytes makes a table of at most about 2n, however many tensors a hostile one announces.

use std::path::Path;

use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::file_bytes::FileBytes;

/// Where one tensor is and what it looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    name_start: u32,
    name_len: u32,
    shape_start: u32,
    rank: u8,
    /// The type of its elements or blocks.
    pub(crate) dtype: Dtype,
    /// Index of the file that holds it.
    pub(crate) file: u16,
    /// First byte, from the start of that file.
    pub(crate) start: u64,
    /// One past the last byte.
    pub(crate) end: u64,
}

/// Tensors in the order of the files, and that order by name.
#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    names: String,
    shapes: Vec<usize>,
    entries: Vec<Entry>,
    by_name: Vec<u32>,
}

/// More tensors, dimensions or letters of names than the table can count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableFull;

impl TensorTable {
    /// Tensors with more dimensions than this are malformed.
    pub(crate) const MAX_RANK: usize = 8;

    /// Make room for exactly so many more tensors; a checked count, or growing would take up to twice as much.
    pub(crate) fn reserve(&mut self, tensors: u64) {
        if let Ok(tensors) = usize::try_from(tensors) {
            self.entries.reserve_exact(tensors);
        }
    }

    /// Add a tensor; [`index_names`](Self::index_names) must be called after the last one.
    pub(crate) fn push(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        file: u16,
        range: (u64, u64),
    ) -> Result<(), TableFull> {
        let count = |len: usize| u32::try_from(len).map_err(|_| TableFull);
        let entry = Entry {
            name_start: count(self.names.len())?,
            name_len: count(name.len())?,
            shape_start: count(self.shapes.len())?,
            rank: u8::try_from(shape.len()).map_err(|_| TableFull)?,
            dtype,
            file,
            start: range.0,
            end: range.1,
        };
        count(self.entries.len())?;
        self.names.push_str(name);
        self.shapes.extend_from_slice(shape);
        self.entries.push(entry);
        Ok(())
    }

    /// Make tensors findable by name; refuse a name that is there twice.
    pub(crate) fn index_names(&mut self, files: &[FileBytes]) -> Result<(), WeightsError> {
        let mut by_name: Vec<u32> = (0..).take(self.entries.len()).collect();
        by_name.sort_unstable_by(|&a, &b| self.name_at(a).cmp(self.name_at(b)).then(a.cmp(&b)));
        let twice = by_name
            .iter()
            .zip(by_name.iter().skip(1))
            .find(|&(&a, &b)| self.name_at(a) == self.name_at(b));
        if let Some((_, &second)) = twice {
            let file = self
                .entry_at(second)
                .and_then(|entry| files.get(usize::from(entry.file)));
            return Err(WeightsError::DuplicateTensor {
                path: file.map_or(Path::new(""), FileBytes::path).to_owned(),
                tensor: self.name_at(second).to_owned(),
            });
        }
        self.by_name = by_name;
        Ok(())
    }

    /// All entries, in the order of the files.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries from `first` on, to set their places in the file.
    pub(crate) fn entries_from_mut(&mut self, first: usize) -> &mut [Entry] {
        self.entries.get_mut(first..).unwrap_or_default()
    }

    /// Find a tensor by name.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        let position = self
            .by_name
            .binary_search_by(|&index| self.name_at(index).cmp(name))
            .ok()?;
        self.by_name
            .get(position)
            .and_then(|&index| self.entry_at(index))
    }

    pub(crate) fn name(&self, entry: &Entry) -> &str {
        range(entry.name_start, entry.name_len)
            .and_then(|range| self.names.get(range))
            .unwrap_or_default()
    }

    /// Dimensions, outermost first.
    pub(crate) fn shape(&self, entry: &Entry) -> &[usize] {
        range(entry.shape_start, u32::from(entry.rank))
            .and_then(|range| self.shapes.get(range))
            .unwrap_or_default()
    }

    fn entry_at(&self, index: u32) -> Option<&Entry> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.entries.get(index))
    }

    fn name_at(&self, index: u32) -> &str {
        self.entry_at(index).map_or("", |entry| self.name(entry))
    }
}

fn range(start: u32, len: u32) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(start).ok()?;
    Some(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// Indices of `entries` in ascending order of their place, without sorting where they are in that order already.
pub(crate) fn in_file_order(entries: &[Entry]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    let place = |&index: &usize| {
        entries
            .get(index)
            .map_or((0, 0), |entry| (entry.start, entry.end))
    };
    if !order.is_sorted_by_key(place) {
        order.sort_unstable_by_key(|index| (place(index), *index));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_32_bytes() {
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn tensors_are_found_by_name_and_listed_in_file_order() {
        let mut table = TensorTable::default();
        for name in ["b", "", "a", "ab"] {
            table
                .push(name, Dtype::F32, &[name.len(), 2], 0, (0, 0))
                .unwrap();
        }
        table.index_names(&[]).unwrap();
        let names: Vec<_> = table
            .entries()
            .iter()
            .map(|entry| table.name(entry))
            .collect();
        assert_eq!(names, ["b", "", "a", "ab"]);
        for name in names {
            assert_eq!(table.shape(table.find(name).unwrap()), [name.len(), 2]);
        }
        assert!(table.find("c").is_none());
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let mut table = TensorTable::default();
        for name in ["w", "v", "w"] {
            table.push(name, Dtype::F32, &[1], 0, (0, 4)).unwrap();
        }
        let error = table.index_names(&[]).unwrap_err();
        assert!(matches!(error, WeightsError::DuplicateTensor { tensor, .. } if tensor == "w"));
    }
}
