//! Writing a packed file: by one process, under another name until all of it is on disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use inferlib_weights::xxh64_of_hashes;

use super::header::Header;
use super::{DATA, Expected, WINDOW, file_bytes, stamp};

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
