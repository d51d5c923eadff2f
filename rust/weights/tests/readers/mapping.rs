//! Mapped files: release, and files that change while they are mapped.

use std::fs::{self, OpenOptions as FileOptions};

use inferlib_weights::{OpenOptions, Weights, WeightsError};

use crate::samples;
use crate::scratch::Scratch;

const MAPPED: OpenOptions = OpenOptions { mmap: true };
const READ: OpenOptions = OpenOptions { mmap: false };

#[test]
fn a_released_tensor_is_read_again() {
    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    for options in [MAPPED, READ] {
        let weights = Weights::open(&path, options).unwrap();
        assert_eq!(weights.is_mapped(), options.mmap);
        let before = weights.tensor("w").unwrap().bytes.to_vec();
        for name in ["w", "empty", "no such tensor"] {
            weights.release(name);
        }
        assert_eq!(weights.tensor("w").unwrap().bytes, before);
    }
}

#[test]
fn a_truncated_or_extended_file_is_noticed_before_it_is_touched() {
    for len in [100, 100_000] {
        let scratch = Scratch::new();
        let path = scratch.write("m.gguf", samples::gguf().bytes());
        let mapped = Weights::open(&path, MAPPED).unwrap();
        let read = Weights::open(&path, READ).unwrap();
        mapped.check_unchanged().unwrap();
        FileOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len)
            .unwrap();
        assert!(matches!(
            mapped.check_unchanged().unwrap_err(),
            WeightsError::Changed { found, .. } if found == len
        ));
        read.check_unchanged().unwrap();
        samples::check_integrity(&read);
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_was_replaced_or_removed_stays_readable() {
    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    let weights = Weights::open(&path, MAPPED).unwrap();
    let other = scratch.write("other", "short");
    fs::rename(other, &path).unwrap();
    weights.check_unchanged().unwrap();
    samples::check_integrity(&weights);
    fs::remove_file(&path).unwrap();
    weights.check_unchanged().unwrap();
    samples::check_integrity(&weights);
}
