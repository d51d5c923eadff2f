//! What was written is found again whole, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::test_folder::TestFolder;

const EXPECTED: Expected = Expected {
    content: 11,
    recipe: 22,
    bytes: WINDOW + 1000,
};

fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..=250).cycle().take(EXPECTED.bytes).collect();
    image.resize(2 * WINDOW, 0);
    image
}

fn writer(folder: &TestFolder) -> PackedWriter {
    match PackedWriter::begin(folder.path(), EXPECTED).expect("writable") {
        Place::Ours(writer) => writer,
        Place::Taken => panic!("nobody else writes"),
    }
}

fn written(folder: &TestFolder) -> PathBuf {
    let writer = writer(folder);
    writer.allocate().expect("there is room");
    let image = image();
    let windows: Vec<&[u8]> = image.chunks(WINDOW).collect();
    for (window, bytes) in windows.iter().enumerate().rev() {
        writer.write(window, bytes).expect("there is room");
    }
    let hashes: Vec<u64> = windows.iter().map(|bytes| window_hash(bytes)).collect();
    writer.publish(&hashes).expect("there is room");
    folder.path().join(EXPECTED.name())
}

fn content(path: &Path) -> Result<Vec<u8>, Unusable> {
    let mapping = open(path, EXPECTED, 2)?;
    // SAFETY: the whole mapping.
    Ok(unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) }.to_vec())
}

fn is_damaged(path: &Path) -> bool {
    matches!(open(path, EXPECTED, 2), Err(Unusable::Damaged(_)))
}

/// Write over some bytes of the published file, as any program could.
fn change(path: &Path, at: u64, bytes: &[u8]) {
    let mut permissions = fs::metadata(path).expect("there").permissions();
    permissions.set_mode(0o644);
    fs::set_permissions(path, permissions).expect("ours");
    let file = File::options().write(true).open(path).expect("writable");
    file.write_all_at(bytes, at).expect("writable");
}

#[test]
fn what_was_written_is_mapped() {
    let folder = TestFolder::new();
    let path = written(&folder);
    assert_eq!(folder.names(), [EXPECTED.name()]);
    assert_eq!(content(&path).expect("whole"), image()[..EXPECTED.bytes]);
}

#[test]
fn another_model_recipe_or_size_is_refused() {
    let folder = TestFolder::new();
    let path = written(&folder);
    for other in [
        Expected {
            content: 1,
            ..EXPECTED
        },
        Expected {
            recipe: 1,
            ..EXPECTED
        },
        Expected {
            bytes: EXPECTED.bytes + 1,
            ..EXPECTED
        },
        Expected {
            bytes: 1,
            ..EXPECTED
        },
    ] {
        assert!(
            matches!(open(&path, other, 1), Err(Unusable::Damaged(_))),
            "{other:?}"
        );
    }
    let missing = folder.path().join("missing");
    assert!(matches!(
        open(&missing, EXPECTED, 1),
        Err(Unusable::Missing)
    ));
}

#[test]
fn a_changed_byte_of_header_or_image_is_found() {
    let folder = TestFolder::new();
    let path = written(&folder);
    for at in [0, 15, 16, 40, 55, 56, 1000, HEADER - 1] {
        let mut byte = [0];
        let file = File::open(&path).expect("there");
        file.read_exact_at(&mut byte, at as u64).expect("there");
        change(&path, at as u64, &[byte[0] ^ 1]);
        assert!(is_damaged(&path), "header, {at}");
        change(&path, at as u64, &byte);
    }
    for at in [0, WINDOW - 1, WINDOW, EXPECTED.bytes - 1] {
        change(&path, (DATA + at) as u64, &[image()[at] ^ 16]);
        assert!(is_damaged(&path), "image, {at}");
        change(&path, (DATA + at) as u64, &[image()[at]]);
    }
    assert!(content(&path).is_ok(), "all is as it was");
}

#[test]
fn a_cut_or_longer_file_is_found() {
    let folder = TestFolder::new();
    let path = written(&folder);
    let whole = fs::metadata(&path).expect("there").len();
    for length in [whole + 1, whole - 1, DATA as u64, 4096, 100, 0] {
        change(&path, 0, &[]);
        let file = File::options().write(true).open(&path).expect("writable");
        file.set_len(length).expect("there is room");
        assert!(is_damaged(&path), "{length} of {whole} bytes");
    }
}

#[test]
fn a_copy_is_hashed_once_and_then_known() {
    let folder = TestFolder::new();
    let path = written(&folder);
    let copy = folder.path().join("copy");
    fs::write(&copy, fs::read(&path).expect("there")).expect("there is room");
    let stamped = |path: &Path| fs::metadata(path).expect("there").modified().expect("unix");
    assert_ne!(stamped(&copy), stamped(&path));
    assert!(content(&copy).is_ok());
    assert_eq!(stamped(&copy), stamped(&path));
}

#[test]
fn one_writes_and_what_it_leaves_unfinished_goes() {
    let folder = TestFolder::new();
    let first = writer(&folder);
    first.allocate().expect("there is room");
    first.write(0, &image()[..WINDOW]).expect("there is room");
    let second = PackedWriter::begin(folder.path(), EXPECTED).expect("writable");
    assert!(matches!(second, Place::Taken));
    let path = folder.path().join(EXPECTED.name());
    assert!(matches!(open(&path, EXPECTED, 1), Err(Unusable::Missing)));
    drop(first);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn what_a_crash_left_is_written_over() {
    let folder = TestFolder::new();
    let partial = folder
        .path()
        .join(EXPECTED.name())
        .with_extension("partial");
    fs::write(&partial, vec![7; 3 * WINDOW]).expect("there is room");
    let path = written(&folder);
    assert_eq!(content(&path).expect("whole"), image()[..EXPECTED.bytes]);
    assert_eq!(folder.names(), [EXPECTED.name()]);
}

#[test]
fn a_damaged_file_is_replaced_and_who_mapped_it_keeps_it() {
    let folder = TestFolder::new();
    let path = written(&folder);
    let mapping = open(&path, EXPECTED, 1).expect("whole");
    let path = written(&folder);
    // SAFETY: the whole mapping.
    let bytes = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) };
    assert_eq!(bytes, &image()[..EXPECTED.bytes]);
    fs::remove_file(path).expect("there");
    assert_eq!(bytes, &image()[..EXPECTED.bytes]);
}
