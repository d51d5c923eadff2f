//! One opened checkpoint, whatever files it is made of.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::cursor::as_u64;
use crate::dequantize::dequantize_to_vec;
use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::file_bytes::FileBytes;
use crate::folder::{self, Checkpoint};
use crate::imposters::{FileKind, recognise};
use crate::metadata::{Metadata, MetadataValue};
use crate::shard_index::{self, ShardIndex};
use crate::stamp::FileStamp;
use crate::table::{Entry, TensorTable};
use crate::{gguf, safetensors};

/// How to open a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Map the files into memory (the default) or read them whole into memory of our own.
    ///
    /// A mapped checkpoint opens in milliseconds and shares its pages with other processes, but if somebody truncates a
    /// file meanwhile, touching it ends the process by a signal; one that was read never does that.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mmap: true }
    }
}

/// The file format of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF of that version.
    Gguf {
        /// 2 or 3.
        version: u32,
    },
    /// safetensors, one file or several.
    Safetensors,
}

/// One tensor of a checkpoint, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// The type of its elements or blocks.
    pub dtype: Dtype,
    /// Dimensions, outermost first like those of an array in Python (GGUF stores them the other way around).
    pub shape: &'a [usize],
    /// Little-endian elements or blocks, row after row. Exactly as many as `dtype` and `shape` ask for, at any
    /// alignment.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// All elements as float32, in order, in memory of their own.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        dequantize_to_vec(self.dtype, self.bytes)
    }
}

/// An opened checkpoint: a `.gguf` file (or its parts), a `.safetensors` file, or shards with their index.
///
/// Immutable, so that any thread may read it. All sizes were checked when it was opened: no tensor reaches beyond its
/// file, none overlap, no name is there twice.
#[derive(Debug)]
pub struct Weights {
    format: Format,
    files: Vec<FileBytes>,
    table: TensorTable,
    metadata: Metadata,
}

impl Weights {
    /// Open a `.gguf` file, a `.safetensors` file, a `*.index.json` of shards, or a folder that holds one of these.
    ///
    /// Costs one pass over the headers; tensor data is not touched unless `mmap` is off. Pickle files are refused.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, WeightsError> {
        let metadata = fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => folder::not_found(path),
            _ => WeightsError::Unreadable {
                path: path.to_owned(),
                source,
            },
        })?;
        let checkpoint = if metadata.is_dir() {
            folder::find_checkpoint(path)?
        } else if path.to_string_lossy().ends_with(".index.json") {
            Checkpoint::Index(path.to_owned())
        } else {
            Checkpoint::File(path.to_owned())
        };
        match checkpoint {
            Checkpoint::File(path) => Self::open_file(&path, options),
            Checkpoint::Index(path) => Self::open_shards(&path, options),
        }
    }

    /// Read a checkpoint of one file from memory; `path` names it in errors, nothing is opened there.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::from_file(FileBytes::from_bytes(path, bytes))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.find(name).and_then(|entry| self.view(entry))
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.table
            .entries()
            .iter()
            .filter_map(|entry| self.view(entry))
    }

    /// All names, in the order of the files.
    #[must_use]
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table
            .entries()
            .iter()
            .map(|entry| self.table.name(entry))
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.entries().len()
    }

    /// Whether there are no tensors (a GGUF file of a vocabulary alone).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.entries().is_empty()
    }

    /// GGUF's key-value pairs; of safetensors the strings under `__metadata__` of the first file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The format of the files.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files that were opened.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(FileBytes::path)
    }

    /// Whether the files are mapped.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.files.iter().any(FileBytes::is_mapped)
    }

    /// Bytes of all tensors together, as stored.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.table
            .entries()
            .iter()
            .map(|entry| entry.end.saturating_sub(entry.start))
            .fold(0, u64::saturating_add)
    }

    /// Give the memory pages of one tensor back to the system, after it was copied elsewhere.
    ///
    /// It stays readable: the next touch reads it from the file again. Nothing happens where the file is not mapped or
    /// there is no such tensor.
    pub fn release(&self, name: &str) {
        if let Some((file, range)) = self.table.find(name).and_then(|entry| self.place(entry)) {
            file.release(range);
        }
    }

    /// Give the pages of some of a tensor's bytes back: [`Self::release`] while the rest is still in use.
    pub fn release_bytes(&self, name: &str, bytes: Range<usize>) {
        let Some((file, range)) = self.table.find(name).and_then(|entry| self.place(entry)) else {
            return;
        };
        let start = range.start.saturating_add(bytes.start);
        file.release(start..range.end.min(range.start.saturating_add(bytes.end)));
    }

    /// Give the pages of some bytes of a file back.
    pub(crate) fn release_in_file(&self, file: usize, bytes: Range<usize>) {
        if let Some(file) = self.files.get(file) {
            file.release(bytes);
        }
    }

    /// All bytes of each file.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(FileBytes::bytes)
    }

    /// The files as they were when they were opened; `None` if one was not opened but handed over in memory, or where the
    /// system tells too little of files.
    #[must_use]
    pub fn stamps(&self) -> Option<Vec<FileStamp>> {
        self.files.iter().map(FileBytes::stamp).collect()
    }

    /// Refuse mapped files that were truncated or extended since they were opened.
    ///
    /// To be called before the first touch of the data, such as repacking: the last chance for an error in place of a
    /// signal.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.files.iter().try_for_each(FileBytes::check_unchanged)
    }

    fn open_file(path: &Path, options: OpenOptions) -> Result<Self, WeightsError> {
        let weights = Self::from_file(FileBytes::open(path, options.mmap)?)?;
        match weights.split_count()? {
            Some(count) => Self::open_split(path, count, options),
            None => Ok(weights),
        }
    }

    fn from_file(file: FileBytes) -> Result<Self, WeightsError> {
        let mut table = TensorTable::default();
        let (path, bytes) = (file.path(), file.bytes());
        let (format, metadata) = match recognise(path, bytes)? {
            FileKind::Gguf => {
                let (version, metadata) = gguf::read_header(path, bytes, 0, &mut table)?;
                (Format::Gguf { version }, metadata)
            }
            FileKind::Safetensors => {
                let metadata = safetensors::read_header(path, bytes, 0, &mut table)?;
                (Format::Safetensors, metadata)
            }
        };
        let files = vec![file];
        table.index_names(&files)?;
        Ok(Self {
            format,
            files,
            table,
            metadata,
        })
    }

    /// The shards that an index names, all of them beside it.
    fn open_shards(path: &Path, options: OpenOptions) -> Result<Self, WeightsError> {
        let text = FileBytes::open(path, options.mmap)?;
        shard_index::check_size(path, text.bytes().len())?;
        let index = match ShardIndex::parse(path, text.bytes()) {
            Ok(index) => index,
            // Only now: an index begins with none of the marks of an imposter.
            Err(error) => {
                return Err(recognise(path, text.bytes())
                    .err()
                    .filter(is_imposter)
                    .unwrap_or(error));
            }
        };
        let mut table = TensorTable::default();
        let mut files = Vec::new();
        let mut first_metadata = None;
        for (number, shard) in (0..=u16::MAX).zip(index.shards()) {
            let file = open_beside(path, shard, options)?;
            if recognise(file.path(), file.bytes())? != FileKind::Safetensors {
                return Err(WeightsError::Malformed {
                    path: file.path().to_owned(),
                    offset: 0,
                    expected: "a safetensors file, as the index says".to_owned(),
                    found: "a GGUF file".to_owned(),
                });
            }
            let metadata = safetensors::read_header(file.path(), file.bytes(), number, &mut table)?;
            first_metadata.get_or_insert(metadata);
            files.push(file);
        }
        table.index_names(&files)?;
        let absent =
            |&(name, shard): &(&str, u16)| table.find(name).is_none_or(|entry| entry.file != shard);
        let count = index.tensors().filter(absent).count();
        if count > 0 {
            let tensors = index.tensors().filter(absent).take(10);
            return Err(WeightsError::ShardMismatch {
                path: path.to_owned(),
                count,
                tensors: tensors.map(|(name, _)| name.to_owned()).collect(),
            });
        }
        Ok(Self {
            format: Format::Safetensors,
            files,
            table,
            metadata: first_metadata.unwrap_or_default(),
        })
    }

    /// All parts of a GGUF model that llama.cpp's `gguf-split` made; the first has the metadata of the model.
    fn open_split(path: &Path, count: u64, options: OpenOptions) -> Result<Self, WeightsError> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let parts = folder::split_parts(name)
            .filter(|parts| as_u64(parts.len()) == count)
            .ok_or_else(|| WeightsError::Malformed {
                path: path.to_owned(),
                offset: 0,
                expected: format!(
                    "a file name that ends in -00001-of-{count:05}.gguf for one of {count} parts"
                ),
                found: format!("{name:?}"),
            })?;
        let mut table = TensorTable::default();
        let mut files = Vec::new();
        let mut first = None;
        for (number, part) in (0..=u16::MAX).zip(&parts) {
            let file = open_beside(path, part, options)?;
            if recognise(file.path(), file.bytes())? != FileKind::Gguf {
                return Err(wrong_part(
                    &file,
                    &format!("part {number} of a GGUF model"),
                    "a safetensors file",
                ));
            }
            let (version, metadata) =
                gguf::read_header(file.path(), file.bytes(), number, &mut table)?;
            let found = metadata.get("split.no").and_then(MetadataValue::as_u64);
            if found != Some(u64::from(number)) {
                let found = found.map_or("none".to_owned(), |found| found.to_string());
                return Err(wrong_part(&file, &format!("split.no {number}"), &found));
            }
            first.get_or_insert((version, metadata));
            files.push(file);
        }
        table.index_names(&files)?;
        let (version, metadata) = first.unwrap_or_default();
        Ok(Self {
            format: Format::Gguf { version },
            files,
            table,
            metadata,
        })
    }

    /// How many files the model is split into, if it is.
    fn split_count(&self) -> Result<Option<u64>, WeightsError> {
        let Some(value) = self
            .metadata
            .get("split.count")
            .filter(|_| self.format != Format::Safetensors)
        else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(0 | 1) => Ok(None),
            Some(count @ 2..=99_999) => Ok(Some(count)),
            _ => Err(WeightsError::Malformed {
                path: self.files().next().unwrap_or(Path::new("")).to_owned(),
                offset: 0,
                expected: "split.count to be a number of files".to_owned(),
                found: format!("{value:?}").chars().take(40).collect(),
            }),
        }
    }

    fn view(&self, entry: &Entry) -> Option<Tensor<'_>> {
        let (file, range) = self.place(entry)?;
        Some(Tensor {
            name: self.table.name(entry),
            dtype: entry.dtype,
            shape: self.table.shape(entry),
            bytes: file.bytes().get(range)?,
        })
    }

    fn place(&self, entry: &Entry) -> Option<(&FileBytes, Range<usize>)> {
        let file = self.files.get(usize::from(entry.file))?;
        Some((
            file,
            usize::try_from(entry.start).ok()?..usize::try_from(entry.end).ok()?,
        ))
    }
}

/// Open a file in the folder of `path`; `name` was checked to be a plain file name.
fn open_beside(path: &Path, name: &str, options: OpenOptions) -> Result<FileBytes, WeightsError> {
    let beside: PathBuf = path.with_file_name(name);
    FileBytes::open(&beside, options.mmap).map_err(|error| match error {
        WeightsError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            WeightsError::MissingShard {
                path: path.to_owned(),
                shard: name.to_owned(),
            }
        }
        other => other,
    })
}

fn wrong_part(file: &FileBytes, expected: &str, found: &str) -> WeightsError {
    WeightsError::Malformed {
        path: file.path().to_owned(),
        offset: 0,
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

/// Whether the error says what a file is rather than what it is not.
fn is_imposter(error: &WeightsError) -> bool {
    !matches!(error, WeightsError::UnknownFormat { .. })
}
