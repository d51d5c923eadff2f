//! Which files of a folder make a checkpoint, and what to suggest where there is none.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::WeightsError;
use crate::imposters::has_extension;

const ONE_FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Names that an error lists at most.
const LISTED: usize = 8;
/// Folders are read up to this many names.
const MAX_NAMES: usize = 100_000;

/// The file to begin with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// One file (or the first of a split GGUF model, which names the others).
    File(PathBuf),
    /// An index of safetensors shards.
    Index(PathBuf),
}

/// Find a folder's checkpoint.
///
/// In this order: `model.safetensors`, `model.safetensors.index.json`, the only `*.safetensors`, the only `*.gguf` (or
/// the only set of parts of one). Several candidates without an index are an error, not a guess.
pub(crate) fn find_checkpoint(folder: &Path) -> Result<Checkpoint, WeightsError> {
    let names = names(folder)?;
    let has = |name: &str| names.iter().any(|known| known == name);
    if has(ONE_FILE) {
        return Ok(Checkpoint::File(folder.join(ONE_FILE)));
    }
    if has(INDEX) {
        return Ok(Checkpoint::Index(folder.join(INDEX)));
    }
    let with_extension = |extension: &str| -> Vec<&String> {
        names
            .iter()
            .filter(|name| has_extension(name.as_ref(), &[extension]))
            .collect()
    };
    let safetensors = with_extension("safetensors");
    let mut gguf = with_extension("gguf");
    // The image encoder of a model, kept beside it.
    gguf.retain(|name| !name.starts_with("mmproj"));
    let candidates = if safetensors.is_empty() {
        gguf
    } else {
        safetensors
    };
    match candidates.as_slice() {
        [] => Err(WeightsError::NoWeights {
            path: folder.to_owned(),
            found: shown(names.iter()),
        }),
        [only] => Ok(Checkpoint::File(folder.join(only))),
        [first, ..]
            if split_parts(first)
                .is_some_and(|parts| parts.iter().eq(candidates.iter().copied())) =>
        {
            Ok(Checkpoint::File(folder.join(first)))
        }
        several => Err(WeightsError::ManyCheckpoints {
            path: folder.to_owned(),
            found: shown(several.iter().copied()),
        }),
    }
}

/// The error for a path where nothing is: with names beside it that look alike.
pub(crate) fn not_found(path: &Path) -> WeightsError {
    let mut near = Vec::new();
    if let (Some(wanted), Some(parent)) = (
        path.file_name().and_then(|name| name.to_str()),
        path.parent(),
    ) {
        let folder = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let wanted = wanted.to_lowercase();
        let limit = wanted.len().div_euclid(3).max(2);
        let mut ranked: Vec<(usize, String)> = names(folder)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| {
                let distance = edit_distance(&wanted, &name.to_lowercase(), limit)?;
                Some((distance, name))
            })
            .collect();
        ranked.sort_unstable();
        near.extend(ranked.into_iter().take(3).map(|(_, name)| name));
    }
    WeightsError::NotFound {
        path: path.to_owned(),
        near,
    }
}

/// The file names of all parts where `name` is one of a split GGUF model (`model-00002-of-00003.gguf`).
pub(crate) fn split_parts(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let five_digits =
        |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !five_digits(number) || !five_digits(count) {
        return None;
    }
    let count_value: u32 = count.parse().ok()?;
    let number_value: u32 = number.parse().ok()?;
    (1..=count_value).contains(&number_value).then(|| {
        (1..=count_value)
            .map(|part| format!("{prefix}-{part:05}-of-{count}.gguf"))
            .collect()
    })
}

/// Names of the entries of a folder, sorted; those that are not Unicode are left out.
fn names(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let entries = fs::read_dir(folder).map_err(|source| WeightsError::Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    let mut names: Vec<String> = entries
        .take(MAX_NAMES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn shown<'n>(names: impl ExactSizeIterator<Item = &'n String>) -> Vec<String> {
    let total = names.len();
    let mut shown: Vec<String> = names.take(LISTED).cloned().collect();
    if let Some(more @ 1..) = total.checked_sub(LISTED) {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// Letters to change, add or drop (Levenshtein), or `None` above `limit`.
fn edit_distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, letter) in a.chars().take(256).enumerate() {
        let mut diagonal = index;
        let mut left = index.saturating_add(1);
        let mut rest = row.iter_mut();
        if let Some(first) = rest.next() {
            *first = left;
        }
        for (cell, &other) in rest.zip(&b) {
            let replaced = diagonal.saturating_add(usize::from(letter != other));
            diagonal = *cell;
            left = replaced.min(left.min(*cell).saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_to_change_are_counted() {
        for (a, b, distance) in [
            ("", "", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("xy", "yx", 2),
            ("x", "x", 0),
        ] {
            assert_eq!(edit_distance(a, b, 9), Some(distance), "{a} {b}");
            assert_eq!(edit_distance(b, a, 9), Some(distance), "{b} {a}");
        }
        assert_eq!(edit_distance("abc", "", 2), None);
    }

    #[test]
    fn the_parts_of_a_split_model_are_named() {
        let parts = split_parts("m-x-00002-of-00003.gguf").unwrap();
        assert_eq!(
            parts,
            [
                "m-x-00001-of-00003.gguf",
                "m-x-00002-of-00003.gguf",
                "m-x-00003-of-00003.gguf"
            ]
        );
        for name in [
            "m.gguf",
            "m-2-of-3.gguf",
            "m-00004-of-00003.gguf",
            "m-00000-of-00003.gguf",
            "m-0000é-of-00003.gguf",
        ] {
            assert_eq!(split_parts(name), None, "{name}");
        }
    }
}
