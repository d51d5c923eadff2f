//! Files on disk that are not what their names say.

use std::fs;

use inferlib_weights::{OpenOptions, Weights, WeightsError};

use crate::scratch::Scratch;

fn open(path: &std::path::Path) -> WeightsError {
    let mapped = Weights::open(path, OpenOptions { mmap: true }).unwrap_err();
    let read = Weights::open(path, OpenOptions { mmap: false }).unwrap_err();
    assert_eq!(mapped.to_string(), read.to_string());
    mapped
}

#[test]
fn a_missing_file_is_named_with_its_near_matches() {
    let scratch = Scratch::new();
    for name in ["model-q4.gguf", "model-Q5.gguf", "tokenizer.json"] {
        scratch.write(name, "x");
    }
    let error = open(&scratch.path().join("model-q6.gguf"));
    assert!(matches!(
        &error,
        WeightsError::NotFound { near, .. } if *near == ["model-Q5.gguf", "model-q4.gguf"]
    ));
    assert!(error.to_string().contains("did you mean model-Q5.gguf"));
}

#[test]
fn a_path_through_a_missing_folder_or_a_file_is_not_found() {
    let scratch = Scratch::new();
    scratch.write("file", "x");
    for path in ["no/such/model.gguf", "file/model.gguf", "no"] {
        let error = open(&scratch.path().join(path));
        assert!(
            matches!(error, WeightsError::NotFound { .. }),
            "{path}: {error}"
        );
    }
}

#[test]
fn an_empty_file_is_called_that() {
    let scratch = Scratch::new();
    for name in ["m.gguf", "m.safetensors", "m.safetensors.index.json"] {
        assert!(matches!(
            open(&scratch.write(name, "")),
            WeightsError::Empty { .. }
        ));
    }
}

#[test]
fn imposters_are_recognised_on_disk() {
    let scratch = Scratch::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\nsize 7\n";
    for name in ["m.gguf", "m.safetensors.index.json"] {
        assert!(matches!(
            open(&scratch.write(name, pointer)),
            WeightsError::GitLfsPointer { size: Some(7), .. }
        ));
        assert!(matches!(
            open(&scratch.write(name, "<!doctype html>")),
            WeightsError::HtmlPage { .. }
        ));
    }
    assert!(matches!(
        open(&scratch.write("pytorch_model.bin", "\0\0\0\0")),
        WeightsError::Pickle { .. }
    ));
}

#[cfg(unix)]
#[test]
fn a_device_is_refused_without_waiting_for_it() {
    assert!(matches!(
        open("/dev/zero".as_ref()),
        WeightsError::NotAFile { .. }
    ));
}

#[cfg(unix)]
#[test]
fn a_loop_of_links_is_an_error_of_the_system() {
    let scratch = Scratch::new();
    let path = scratch.path().join("loop.gguf");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(matches!(open(&path), WeightsError::Unreadable { .. }));
    fs::remove_file(path).unwrap();
}
