//! Readers of weights: what they accept has the sizes that it claims, and can be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use inferlib_weights::{OpenOptions, Weights, WeightsError, first_non_finite};

use crate::reader_samples::check_integrity;
use crate::samples;

pub(crate) fn gguf(data: &[u8]) -> bool {
    read("fuzzed.gguf", data)
}

pub(crate) fn safetensors(data: &[u8]) -> bool {
    read("fuzzed.safetensors", data)
}

/// Where a target that reads files has them; whoever is done may remove it.
#[must_use]
pub fn scratch_folder() -> PathBuf {
    std::env::temp_dir().join(format!("inferlib-fuzz-{}", std::process::id()))
}

/// The file that is read lies beside one shard.
pub(crate) fn shard_index(data: &[u8]) -> bool {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = scratch_folder();
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        fs::write(folder.join("a.safetensors"), samples::safetensors()).expect("room for a shard");
        folder
    });
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, data).expect("room for an index");
    check(Weights::open(&path, OpenOptions { mmap: false }), "")
}

fn read(name: &str, data: &[u8]) -> bool {
    check(Weights::from_bytes(Path::new(name), data.to_vec()), name)
}

fn check(result: Result<Weights, WeightsError>, name: &str) -> bool {
    match result {
        Ok(weights) => {
            check_integrity(&weights);
            for tensor in weights.tensors() {
                let _either = first_non_finite(tensor.dtype, tensor.bytes);
            }
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && message.contains(name), "{message}");
            false
        }
    }
}
