//! What the system says of a file that changes whenever its content does.

use std::fs::Metadata;

/// A file at one moment. Equal stamps mean equal content, but for a file that is written to within the same tick of the
/// file system's clock: see [`FileStamp::is_settled`].
///
/// The change time (`ctime`) cannot be set by programs, so that a copy that kept its modification time is told apart.
/// The device is left out: container file systems number it anew at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// The inode.
    pub inode: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Change time in nanoseconds since 1970.
    pub changed_ns: i128,
}

impl FileStamp {
    /// The stamp, where the system has inodes and change times.
    #[cfg(unix)]
    #[must_use]
    pub fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds)
                .saturating_mul(1_000_000_000)
                .saturating_add(i128::from(nanoseconds))
        };
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: time(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: time(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The stamp, where the system has inodes and change times.
    #[cfg(not(unix))]
    #[must_use]
    pub fn of(_metadata: &Metadata) -> Option<Self> {
        None
    }

    /// Whether the file was left alone for so long before `now_ns` that another write would have another time: the
    /// coarsest clocks of file systems tick every two seconds.
    #[must_use]
    pub fn is_settled(&self, now_ns: i128) -> bool {
        now_ns.saturating_sub(self.modified_ns.max(self.changed_ns)) > 3_000_000_000
    }

    /// Whether the content may be another than it was at `earlier`: `chmod` and links change the change time alone.
    #[must_use]
    pub fn was_written_since(&self, earlier: &Self) -> bool {
        (self.inode, self.bytes, self.modified_ns)
            != (earlier.inode, earlier.bytes, earlier.modified_ns)
    }
}
