//! The file that holds a packed image: a header of one page, then the image from 2 MiB on, padded to whole huge pages.
//!
//! Nothing in the header places anything: where matrices lie follows from the program and the checkpoint, and the header
//! must agree with that. So a damaged or hostile file can make wrong numbers at worst, and that is what the checksum is
//! for. Little-endian; the page between header and image is a hole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use inferlib_weights::{xxh64, xxh64_of_hashes};

use crate::arena::{HUGE, Mapping};

/// Begins every file; the number is the format's version.
const MAGIC: &[u8; 16] = b"inferlib packed1";
const HEADER: usize = 4096;
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

/// A file that is being written under another name, by the one process that holds its lock. What a crash leaves behind
/// is never looked at: the next writer begins anew in its place.
#[derive(Debug)]
pub(crate) struct PackedWriter {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    expected: Expected,
    published: bool,
}

/// What asking for the writer's place gives.
#[derive(Debug)]
pub(crate) enum Place {
    /// It is ours.
    Ours(PackedWriter),
    /// Another process, or another thread of this one, has it.
    Taken,
}

impl PackedWriter {
    /// Take the writer's place for `folder`'s file, without waiting. Takes no space yet.
    pub(crate) fn begin(folder: &Path, expected: Expected) -> io::Result<Place> {
        let path = folder.join(expected.name());
        let partial = path.with_extension("partial");
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o644)
                .open(&partial)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(Place::Taken),
                Err(fs::TryLockError::Error(_)) => {
                    // A file system without locks: everybody writes a file of its own, and the last one stays.
                    let _ = fs::remove_file(&partial);
                    let now = SystemTime::now().duration_since(UNIX_EPOCH);
                    let now = now.map_or(0, |now| now.as_nanos());
                    let name = format!("{}-{now}.partial", std::process::id());
                    let partial = path.with_extension(name);
                    let file = File::create_new(&partial)?;
                    return Ok(Place::Ours(Self::new(file, partial, path, expected)));
                }
            }
            // The one before may have renamed or removed the file that we opened and waited for.
            let current = fs::metadata(&partial).map(|now| (now.dev(), now.ino()));
            let ours = file.metadata()?;
            if current.is_ok_and(|current| current == (ours.dev(), ours.ino())) {
                return Ok(Place::Ours(Self::new(file, partial, path, expected)));
            }
        }
    }

    fn new(file: File, partial: PathBuf, path: PathBuf, expected: Expected) -> Self {
        Self {
            file,
            partial,
            path,
            expected,
            published: false,
        }
    }

    /// Empty the file and take all of its space, so that a full disk is noticed before the work.
    pub(crate) fn allocate(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        let bytes = file_bytes(self.expected.bytes);
        self.file.set_len(bytes)?;
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let start = DATA as u64;
            let (start, length) = (start.cast_signed(), (bytes - start).cast_signed());
            // SAFETY: a call on our own file.
            let result = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, start, length) };
            let error = io::Error::last_os_error();
            let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
            if result != 0
                && error
                    .raw_os_error()
                    .is_some_and(|code| full.contains(&code))
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Write a whole window of the image, the last one padded with zeros; any thread, any order.
    pub(crate) fn write(&self, window: usize, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all_at(bytes, (DATA + window * WINDOW) as u64)
    }

    /// Make the file visible under its name, whole and on disk. `hashes` are those of all windows.
    pub(crate) fn publish(mut self, hashes: &[u64]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // Even: file systems whose clock ticks every two seconds keep it.
        let seconds = now.map_or(0, |now| now.as_secs()) & !1;
        let header = Header {
            expected: self.expected,
            checksum: xxh64_of_hashes(hashes, 0),
            stamp: seconds.cast_signed(),
        };
        self.file.write_all_at(&header.encode(), 0)?;
        // Nobody has a reason to write to it again.
        let mut permissions = self.file.metadata()?.permissions();
        permissions.set_readonly(true);
        self.file.set_permissions(permissions)?;
        stamp(&self.file, header.stamp)?;
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.published = true;
        if let Some(folder) = self
            .path
            .parent()
            .and_then(|folder| File::open(folder).ok())
        {
            let _ = folder.sync_all(); // else a crash loses the file's name: no harm
        }
        Ok(())
    }
}

impl Drop for PackedWriter {
    /// Still under the lock, so that it is nobody else's file.
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.partial);
        }
    }
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

/// The first page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    expected: Expected,
    /// Hash over the hashes of all windows.
    checksum: u64,
    /// Modification time in seconds since 1970.
    stamp: i64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut page = [0; HEADER];
        page[..16].copy_from_slice(MAGIC);
        let numbers = [
            self.expected.content,
            self.expected.recipe,
            self.expected.bytes as u64,
            self.checksum,
            self.stamp.cast_unsigned(),
        ];
        for (to, number) in page[16..].chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        let hash = xxh64(&page[..HEADER - 8], 0);
        page[HEADER - 8..].copy_from_slice(&hash.to_le_bytes());
        page
    }

    fn decode(page: &[u8; HEADER]) -> Option<Self> {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&page[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let whole = number(HEADER - 8) == xxh64(&page[..HEADER - 8], 0);
        (whole && page.starts_with(MAGIC)).then(|| Self {
            expected: Expected {
                content: number(16),
                recipe: number(24),
                bytes: usize::try_from(number(32)).unwrap_or(0),
            },
            checksum: number(40),
            stamp: number(48).cast_signed(),
        })
    }
}

#[cfg(test)]
mod tests {
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

    use std::os::unix::fs::PermissionsExt;

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
}
