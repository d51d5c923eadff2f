//! The file that holds a packed image: a header of one page, then the image from 2 MiB on, padded to whole huge pages.
//!
//! Nothing in the header places anything: where matrices lie follows from the program and the checkpoint, and the header
//! must agree with that. So a damaged or hostile file can make wrong numbers at worst, and that is what the checksum is
//! for. Little-endian; the page between header and image is a hole.

mod header;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use inferlib_weights::{xxh64, xxh64_of_hashes};

use crate::arena::{HUGE, Mapping};
use header::{HEADER, Header};
pub(crate) use writer::{PackedWriter, Place};

/// Where the image begins.
const DATA: usize = HUGE;
/// Bytes of the image that are written, and hashed, at once: what makes the page cache use huge pages.
pub(crate) const WINDOW: usize = HUGE;

/// What a file must hold to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Hash of the checkpoint's files.
    pub(crate) content: u64,
    /// Hash of what is packed of them, and how.
    pub(crate) recipe: u64,
    /// Bytes of the image.
    pub(crate) bytes: usize,
}

impl Expected {
    /// The file's name in its folder.
    pub(crate) fn name(&self) -> String {
        format!("{:016x}-{:016x}.packed", self.content, self.recipe)
    }
}

/// Why there is no usable file.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// There is none.
    Missing,
    /// There is one that is cut, damaged or of another version; what is wrong with it.
    Damaged(String),
    /// The system does not let it be read.
    Unreadable(io::Error),
}

/// Map the image of a file, if it is what is expected.
///
/// The bytes are read and hashed only if the file was touched since it was written: its modification time is the one that
/// its header names, in whole seconds, which no later write leaves. (A time survives archives and most copies; where it
/// does not, the file is hashed, and stamped again if it is whole.)
pub(crate) fn open(path: &Path, expected: Expected, threads: usize) -> Result<Mapping, Unusable> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unusable::Missing),
        Err(error) => return Err(Unusable::Unreadable(error)),
    };
    let metadata = file.metadata().map_err(Unusable::Unreadable)?;
    let damaged = |what: &str| Err(Unusable::Damaged(what.to_owned()));
    if !metadata.is_file() {
        return damaged("it is not a file");
    }
    if metadata.len() != file_bytes(expected.bytes) {
        return damaged("its length is not what was written");
    }
    let mut page = [0; HEADER];
    file.read_exact_at(&mut page, 0)
        .map_err(Unusable::Unreadable)?;
    let Some(header) = Header::decode(&page) else {
        return damaged("its header is damaged or of another version");
    };
    if header.expected != expected {
        return damaged("its header is of another model or layout");
    }
    let untouched = (metadata.mtime(), metadata.mtime_nsec()) == (header.stamp, 0);
    if !untouched {
        let checksum = checksum(&file, expected.bytes, threads).map_err(Unusable::Unreadable)?;
        if checksum != header.checksum {
            return damaged("its content was changed");
        }
        let now = file.metadata().map_err(Unusable::Unreadable)?;
        if (now.mtime(), now.mtime_nsec()) == (metadata.mtime(), metadata.mtime_nsec()) {
            let _ = stamp(&file, header.stamp); // only the owner may; without it the next one hashes again
        }
    }
    Mapping::of_file(&file, DATA, expected.bytes).map_err(Unusable::Unreadable)
}

/// The hash of a window's bytes, as [`PackedWriter::publish`] wants it.
pub(crate) fn window_hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// Set the modification time.
fn stamp(file: &File, seconds: i64) -> io::Result<()> {
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()))
}

/// Bytes of a file with an image of `bytes`.
fn file_bytes(bytes: usize) -> u64 {
    (DATA + bytes.next_multiple_of(HUGE)) as u64
}

/// Read and hash all windows. Reads rather than maps: an unreadable block is an error here, not a signal.
fn checksum(file: &File, bytes: usize, threads: usize) -> io::Result<u64> {
    let windows = bytes.div_ceil(WINDOW);
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<(usize, u64)>> {
        let mut hashes = Vec::new();
        let mut buffer = vec![0; WINDOW];
        loop {
            let window = next.fetch_add(1, Ordering::Relaxed);
            if window >= windows {
                return Ok(hashes);
            }
            file.read_exact_at(&mut buffer, (DATA + window * WINDOW) as u64)?;
            hashes.push((window, window_hash(&buffer)));
        }
    };
    let mut hashes = vec![0; windows];
    std::thread::scope(|scope| {
        let others = threads.min(windows).saturating_sub(1);
        let handles: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mut done = work()?;
        for handle in handles {
            done.extend(
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        for (window, hash) in done {
            hashes[window] = hash;
        }
        Ok::<(), io::Error>(())
    })?;
    Ok(xxh64_of_hashes(&hashes, 0))
}
