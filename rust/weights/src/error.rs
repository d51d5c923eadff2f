//! What can be wrong with a checkpoint: one variant per cause, with the facts as fields.
//!
//! A message says what was found, what was expected and what to do. It never quotes more than a few bytes of a file.

use std::io;
use std::path::PathBuf;

use crate::dtype::Dtype;

/// Why a checkpoint could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Nothing is at this path.
    #[error("{} does not exist{}", path.display(), near_matches(near))]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
        /// Names in the same folder that look alike, best first.
        near: Vec<String>,
    },
    /// The system refused to read the file: no permission, a loop of links, a failing disk.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, socket or device stands where a file should.
    #[error("{} is not a regular file; give a .gguf file, a .safetensors file or a folder", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder without weights in a format that is read here.
    #[error(
        "{} holds no model.safetensors, no model.safetensors.index.json and no .gguf file{}{}",
        path.display(), listing("; it holds ", found), pickle_advice(found)
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What it holds instead, the first few names.
        found: Vec<String>,
    },
    /// A folder with several checkpoints and nothing that says which one is meant.
    #[error("{} holds more than one checkpoint{}; give the path of one file", path.display(), listing(": ", found))]
    ManyCheckpoints {
        /// The folder.
        path: PathBuf,
        /// The candidates.
        found: Vec<String>,
    },
    /// A file of no bytes.
    #[error("{} is empty; the download did not happen or was interrupted: fetch the file again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A pickle, which could run code while it is read.
    #[error(
        "{} is a pickle, which can run any code when it is loaded, and is never read here; \
         use the model's .safetensors files, or convert it to safetensors", path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// Git kept the file elsewhere and left a pointer.
    #[error(
        "{} is a Git LFS pointer, not the weights{}; run `git lfs pull` in that folder",
        path.display(), size.map_or_else(String::new, |size| format!(" ({size} bytes)"))
    )]
    GitLfsPointer {
        /// The file.
        path: PathBuf,
        /// Size of the real file, as the pointer tells.
        size: Option<u64>,
    },
    /// A web page was saved in place of the file.
    #[error(
        "{} is an HTML page, not weights: the download returned a web page \
         (a login, a licence to accept, or an error); fetch the file again", path.display()
    )]
    HtmlPage {
        /// The file.
        path: PathBuf,
    },
    /// A compressed or packed file.
    #[error("{} is a {kind} archive; unpack it and give the .gguf or .safetensors file inside", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The kind of archive.
        kind: &'static str,
    },
    /// A file of the formats that came before GGUF.
    #[error("{} is in the old {magic} format; convert it to GGUF", path.display())]
    LegacyGgml {
        /// The file.
        path: PathBuf,
        /// The four letters it begins with.
        magic: &'static str,
    },
    /// Neither GGUF nor safetensors.
    #[error("{} is neither GGUF nor safetensors (it begins with {found}); give a .gguf or .safetensors file", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// A GGUF version that is not read here.
    #[error("{} is GGUF version {version}; versions 2 and 3 can be read: convert the model again", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version it has.
        version: u32,
    },
    /// A GGUF file for machines of the other byte order.
    #[error("{} is a big-endian GGUF file; only little-endian ones can be read: convert the model again", path.display())]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// A tensor of a type that is not read here.
    #[error(
        "{}: tensor {tensor:?} has type {dtype}, which is not supported; supported are {}",
        path.display(), dtype_names()
    )]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's name, or its number in the file.
        dtype: String,
    },
    /// The file ends before what its header announces.
    #[error(
        "{} is truncated: {what} at byte {offset} needs {expected} bytes, but {found} are left; \
         fetch the file again", path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it begins, in bytes from the start of the file.
        offset: u64,
        /// Bytes it needs.
        expected: u64,
        /// Bytes left in the file.
        found: u64,
    },
    /// The file goes on after its last tensor.
    #[error(
        "{} has {found} bytes, but its last tensor ends at byte {expected}; \
         the file is damaged: fetch it again", path.display()
    )]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Where the last tensor ends.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// A part of a header that breaks the format's rules.
    #[error("{} is malformed at byte {offset}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A header larger than any real one.
    #[error("{} announces a header of {found} bytes; at most {limit} are read", path.display())]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes announced.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A metadata key that appears twice.
    #[error("{}: metadata key {key:?} appears twice", path.display())]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A tensor name that appears twice, in one file or in two shards.
    #[error("{}: tensor {tensor:?} appears twice", path.display())]
    DuplicateTensor {
        /// The file with the second one.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A shape whose bytes cannot be counted.
    #[error("{}: tensor {tensor:?} of shape {shape:?} is larger than any file", path.display())]
    ShapeTooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        shape: Vec<usize>,
    },
    /// Rows that are not whole blocks.
    #[error(
        "{}: tensor {tensor:?} has rows of {row} elements, but {dtype} needs a multiple of {}",
        path.display(), dtype.block_size()
    )]
    PartialBlock {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Elements in a row.
        row: usize,
    },
    /// Shape and type ask for another number of bytes than the header gives the tensor.
    #[error(
        "{}: tensor {tensor:?} of shape {shape:?} and type {dtype} takes {expected} bytes, \
         but the header gives it {found}", path.display()
    )]
    TensorSize {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        shape: Vec<usize>,
        /// Its type.
        dtype: Dtype,
        /// Bytes of such a tensor.
        expected: u64,
        /// Bytes that the header gives it.
        found: u64,
    },
    /// A tensor that overlaps the one before it, or leaves a gap.
    #[error(
        "{}: tensor {tensor:?} begins at byte {found} of the tensor data, but the tensor before it makes that {expected}; \
         the file is damaged: fetch it again", path.display()
    )]
    TensorOffset {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it has to begin.
        expected: u64,
        /// Where the header says it begins.
        found: u64,
    },
    /// A shard index that names something other than a file beside it.
    #[error("{}: shard {shard:?} is not the plain name of a file in the same folder", path.display())]
    ShardPath {
        /// The index.
        path: PathBuf,
        /// What it names.
        shard: String,
    },
    /// A shard that is not there.
    #[error("{}: shard {shard:?} is missing from the folder; fetch it too", path.display())]
    MissingShard {
        /// The index, or the first file of a split model.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// Tensors that the index promises and the shards do not have.
    #[error(
        "{}: {count} tensors are not in the shards where the index says they are, such as {}",
        path.display(), tensors.join(", ")
    )]
    ShardMismatch {
        /// The index.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first ten.
        tensors: Vec<String>,
    },
    /// A file that changed after it was opened.
    #[error(
        "{} had {expected} bytes when it was opened and has {found} now; do not change a model's files \
         while they are in use, or load with mmap=False", path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Length when it was opened.
        expected: u64,
        /// Length now.
        found: u64,
    },
    /// Memory for a file that is not mapped could not be had.
    #[error("{} needs {required} bytes of memory, which are not available; load with mmap=True", path.display())]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        required: u64,
    },
    /// Memory for a dequantized tensor could not be had.
    #[error("{required} bytes of memory for a dequantized tensor are not available")]
    ArrayOutOfMemory {
        /// Bytes asked for.
        required: u64,
    },
    /// Bytes and output given to [`dequantize`](crate::dequantize()) that do not fit each other.
    #[error(
        "{bytes} bytes of {dtype} are not {elements} elements (a block of {} elements takes {} bytes)",
        dtype.block_size(), dtype.block_bytes()
    )]
    BlockLength {
        /// The type.
        dtype: Dtype,
        /// Bytes given.
        bytes: usize,
        /// Length of the output.
        elements: usize,
    },
}

fn listing(before: &str, names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("{before}{}", names.join(", "))
    }
}

fn near_matches(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", near.join(" or "))
    }
}

fn pickle_advice(found: &[String]) -> &'static str {
    let pickled = |name: &String| crate::imposters::has_pickle_extension(name.as_ref());
    if found.iter().any(pickled) {
        " (pickle files are never read: they can run any code; get the model's .safetensors files)"
    } else {
        ""
    }
}

fn dtype_names() -> String {
    Dtype::ALL.map(Dtype::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_small_enough_to_return_by_value() {
        assert!(size_of::<WeightsError>() <= 128);
    }
}
