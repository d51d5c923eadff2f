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

#[test]
fn some_bytes_of_a_released_tensor_are_read_again() {
    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    for options in [OpenOptions::default(), READ] {
        let weights = Weights::open(&path, options).unwrap();
        assert_eq!(weights.is_mapped(), options.mmap);
        let before = weights.tensor("w").unwrap().bytes.to_vec();
        for bytes in [0..10, 5..before.len(), 0..usize::MAX, 999..1000] {
            weights.release_bytes("w", bytes);
        }
        weights.release_bytes("no such tensor", 0..10);
        assert_eq!(weights.tensor("w").unwrap().bytes, before);
        samples::check_integrity(&weights);
    }
}

#[cfg(unix)]
#[test]
fn a_file_whose_path_leads_nowhere_any_more_cannot_be_checked() {
    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    let weights = Weights::open(&path, MAPPED).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(matches!(
        weights.check_unchanged().unwrap_err(),
        WeightsError::Unreadable { path: named, .. } if named == path
    ));
    samples::check_integrity(&weights);
}

/// The files of sysfs say that they are as long as a page.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_holds_less_than_the_system_says_is_refused() {
    let path = std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let error = Weights::open(path, READ).unwrap_err();
    assert!(
        matches!(error, WeightsError::Changed { expected, found, .. }
            if expected == metadata.len() && found < expected),
        "{error:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_stamp_tells_whether_a_file_was_written() {
    use inferlib_weights::FileStamp;

    let scratch = Scratch::new();
    let path = scratch.write("m.gguf", samples::gguf().bytes());
    let weights = Weights::open(&path, MAPPED).unwrap();
    let stamp = FileStamp::of(&fs::metadata(&path).unwrap()).unwrap();
    assert_eq!(weights.stamps(), Some(vec![stamp]));
    assert_eq!(stamp.bytes, fs::metadata(&path).unwrap().len());
    let in_memory = samples::read("m.gguf", &samples::gguf().bytes()).unwrap();
    assert_eq!(in_memory.stamps(), None);

    let touched = FileStamp {
        changed_ns: stamp.changed_ns + 1,
        ..stamp
    };
    assert!(!touched.was_written_since(&stamp));
    for written in [
        FileStamp {
            inode: stamp.inode + 1,
            ..stamp
        },
        FileStamp {
            bytes: stamp.bytes + 1,
            ..stamp
        },
        FileStamp {
            modified_ns: stamp.modified_ns + 1,
            ..stamp
        },
    ] {
        assert!(written.was_written_since(&stamp));
    }
    let latest = stamp.modified_ns.max(stamp.changed_ns);
    assert!(!stamp.is_settled(latest) && !stamp.is_settled(latest + 3_000_000_000));
    assert!(stamp.is_settled(latest + 3_000_000_001));
}
