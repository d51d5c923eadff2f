//! One opened file: its bytes, mapped or owned.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::WeightsError;
use crate::mapping::Mapping;
use crate::stamp::FileStamp;

/// A file's path and all of its bytes.
#[derive(Debug)]
pub(crate) struct FileBytes {
    path: PathBuf,
    content: Content,
    /// When it was opened.
    stamp: Option<FileStamp>,
}

#[derive(Debug)]
enum Content {
    Mapped {
        mapping: Mapping,
        identity: Option<Identity>,
    },
    Owned(Vec<u8>),
}

/// What stays the same while a file is written to, and differs once another file is renamed over it.
type Identity = (u64, u64);

impl FileBytes {
    /// Open a regular, non-empty file.
    pub(crate) fn open(path: &Path, mmap: bool) -> Result<Self, WeightsError> {
        let unreadable = |source| WeightsError::Unreadable {
            path: path.to_owned(),
            source,
        };
        // Looked at before it is opened: opening a pipe would wait for a writer.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(WeightsError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let len = metadata.len();
        if len == 0 {
            return Err(WeightsError::Empty {
                path: path.to_owned(),
            });
        }
        let out_of_memory = || WeightsError::OutOfMemory {
            path: path.to_owned(),
            required: len,
        };
        let size = usize::try_from(len).map_err(|_| out_of_memory())?;
        let content = if mmap {
            Content::Mapped {
                mapping: Mapping::new(&file, size).map_err(unreadable)?,
                identity: identity(&metadata),
            }
        } else {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(size).map_err(|_| out_of_memory())?;
            file.take(len).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() != size {
                return Err(changed(path, len, bytes.len()));
            }
            Content::Owned(bytes)
        };
        Ok(Self {
            path: path.to_owned(),
            content,
            stamp: FileStamp::of(&metadata),
        })
    }

    /// A file that is in memory already; `path` names it in errors.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            content: Content::Owned(bytes),
            stamp: None,
        }
    }

    /// The file as it was when it was opened; `None` if it was in memory already, or the system tells too little.
    pub(crate) fn stamp(&self) -> Option<FileStamp> {
        self.stamp
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped { mapping, .. } => mapping.bytes(),
            Content::Owned(bytes) => bytes,
        }
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.content, Content::Mapped { .. })
    }

    /// Give the pages of a mapped range back to the system.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Content::Mapped { mapping, .. } = &self.content {
            mapping.release(range);
        }
    }

    /// Refuse a mapped file that has become shorter: touching its lost end would end the process.
    ///
    /// A file that was replaced by renaming another over it is still there for those who mapped it.
    pub(crate) fn check_unchanged(&self) -> Result<(), WeightsError> {
        let Content::Mapped {
            mapping,
            identity: mapped,
        } = &self.content
        else {
            return Ok(());
        };
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            // Unlinked files live on while they are mapped.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(WeightsError::Unreadable {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let expected = u64::try_from(mapping.bytes().len()).unwrap_or(u64::MAX);
        if *mapped == identity(&metadata) && metadata.len() != expected {
            return Err(WeightsError::Changed {
                path: self.path.clone(),
                expected,
                found: metadata.len(),
            });
        }
        Ok(())
    }
}

fn changed(path: &Path, expected: u64, found: usize) -> WeightsError {
    WeightsError::Changed {
        path: path.to_owned(),
        expected,
        found: u64::try_from(found).unwrap_or(u64::MAX),
    }
}

#[cfg(unix)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems have no such numbers"
)]
fn identity(metadata: &fs::Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_metadata: &fs::Metadata) -> Option<Identity> {
    None
}
