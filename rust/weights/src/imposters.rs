//! Files that stand where weights should be: recognised by their first bytes, so that the error can say what they are.

use std::path::Path;

use crate::cursor::as_u64;
use crate::error::WeightsError;
use crate::gguf;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Gguf,
    Safetensors,
}

const PICKLE_EXTENSIONS: [&str; 7] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle", "pdparams"];
const GIT_LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// GGUF's forerunners, as their magic numbers appear in a file.
const LEGACY_MAGICS: [(&[u8], &str); 4] = [
    (b"lmgg", "GGML"),
    (b"fmgg", "GGMF"),
    (b"tjgg", "GGJT"),
    (b"algg", "GGLA"),
];
const ARCHIVES: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"BZh", "bzip2"),
];

/// Whether files of this name are pickles by custom.
pub(crate) fn has_pickle_extension(path: &Path) -> bool {
    has_extension(path, &PICKLE_EXTENSIONS)
}

pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| {
            extensions
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
}

/// Tell GGUF from safetensors, and both from everything else.
pub(crate) fn recognise(path: &Path, bytes: &[u8]) -> Result<FileKind, WeightsError> {
    let owned = || path.to_owned();
    if bytes.is_empty() {
        return Err(WeightsError::Empty { path: owned() });
    }
    if bytes.starts_with(gguf::MAGIC) {
        return Ok(FileKind::Gguf);
    }
    if bytes.starts_with(GIT_LFS) {
        return Err(WeightsError::GitLfsPointer {
            path: owned(),
            size: git_lfs_size(bytes),
        });
    }
    if is_html(bytes) {
        return Err(WeightsError::HtmlPage { path: owned() });
    }
    if has_pickle_extension(path) || is_pickle(bytes) {
        return Err(WeightsError::Pickle { path: owned() });
    }
    if is_safetensors(bytes) {
        return Ok(FileKind::Safetensors);
    }
    if let Some(&(_, magic)) = LEGACY_MAGICS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
    {
        return Err(WeightsError::LegacyGgml {
            path: owned(),
            magic,
        });
    }
    if let Some(&(_, kind)) = ARCHIVES.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(WeightsError::Archive {
            path: owned(),
            kind,
        });
    }
    // The name decides for what is left, unless it reads as text: servers answer with "Entry not found" and the like.
    if !is_text(bytes) {
        if has_extension(path, &["safetensors"]) {
            return Ok(FileKind::Safetensors);
        }
        if has_extension(path, &["gguf"]) {
            return Ok(FileKind::Gguf);
        }
    }
    let start = bytes.get(..bytes.len().min(24)).unwrap_or_default();
    Err(WeightsError::UnknownFormat {
        path: owned(),
        found: format!("\"{}\"", start.escape_ascii()),
    })
}

fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    rest.first() == Some(&b'{') && u64::from_le_bytes(*length) <= as_u64(rest.len())
}

/// A pickle, or the zip file of pickles that `torch.save` writes.
fn is_pickle(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"PK\x03\x04") {
        let start = bytes.get(..bytes.len().min(256)).unwrap_or_default();
        return contains(start, b"data.pkl");
    }
    // The length of a safetensors header may begin with the same two bytes; then zeros follow.
    matches!(bytes, [0x80, 2..=5, _, _, upper @ ..] if !upper.starts_with(&[0; 4]) && upper.len() >= 4)
}

fn is_html(bytes: &[u8]) -> bool {
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let start = start.trim_ascii_start().to_ascii_lowercase();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.get(..bytes.len().min(64)).unwrap_or_default();
    let printable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    start.len() >= 4 && start.iter().all(printable)
}

/// The `size` line of a pointer.
fn git_lfs_size(bytes: &[u8]) -> Option<u64> {
    let text = bytes.get(..bytes.len().min(1024))?;
    std::str::from_utf8(text)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("size "))?
        .trim()
        .parse()
        .ok()
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, bytes: &[u8]) -> WeightsError {
        recognise(Path::new(name), bytes).unwrap_err()
    }

    #[test]
    fn a_git_lfs_pointer_is_called_that() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for name in ["model.safetensors", "model.gguf", "pytorch_model.bin"] {
            let error = error(name, pointer);
            assert!(matches!(
                error,
                WeightsError::GitLfsPointer {
                    size: Some(12345),
                    ..
                }
            ));
            assert!(error.to_string().contains("git lfs pull"));
        }
    }

    #[test]
    fn a_web_page_is_called_that() {
        for page in ["<!DOCTYPE html><html>", "\u{feff}\n  <HTML lang=en>"] {
            assert!(matches!(
                error("model.gguf", page.as_bytes()),
                WeightsError::HtmlPage { .. }
            ));
        }
    }

    #[test]
    fn pickles_are_refused_by_name_and_by_content_and_safetensors_is_named() {
        let zip = b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl";
        let raw = b"\x80\x02}q\0(X\x05\0\0\0";
        for (name, bytes) in [
            ("a.bin", &b"\0\0\0\0"[..]),
            ("a.safetensors", zip),
            ("a", raw),
            ("a.PT", raw),
        ] {
            let error = error(name, bytes);
            assert!(
                matches!(error, WeightsError::Pickle { .. }),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("safetensors"));
        }
    }

    #[test]
    fn a_header_length_that_looks_like_a_pickle_is_safetensors() {
        let mut file = 0x0280_u64.to_le_bytes().to_vec();
        assert_eq!(
            recognise(Path::new("a.safetensors"), &file).unwrap(),
            FileKind::Safetensors
        );
        file.extend(b"{".iter().chain(&[b' '; 0x0280]));
        assert_eq!(
            recognise(Path::new("a"), &file).unwrap(),
            FileKind::Safetensors
        );
    }

    #[test]
    fn archives_and_old_formats_are_named() {
        assert!(matches!(
            error("a.gguf", b"\x1f\x8b\x08"),
            WeightsError::Archive { kind: "gzip", .. }
        ));
        assert!(matches!(
            error("a.zip", b"PK\x03\x04abcdef"),
            WeightsError::Archive { kind: "zip", .. }
        ));
        assert!(matches!(
            error("a.bin2", b"tjgg\x03\0\0\0"),
            WeightsError::LegacyGgml { magic: "GGJT", .. }
        ));
    }

    #[test]
    fn a_text_answer_of_a_server_is_quoted() {
        for name in ["model.safetensors", "model.gguf"] {
            let error = error(name, b"Entry not found");
            assert!(error.to_string().contains("Entry not found"), "{error}");
        }
    }
}
