//! Remembers the content hash of checkpoints by what the system says of their files, so that a start needs no second
//! reading of them. One small text per path and folder; whoever finds it unreadable or different hashes the files.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use inferlib_weights::{FileStamp, Weights, xxh64};

/// The record of one checkpoint in one folder.
#[derive(Debug)]
pub(crate) struct SourceRecord {
    path: PathBuf,
    stamps: Vec<FileStamp>,
}

impl SourceRecord {
    /// Where the record of this checkpoint is; `None` if the system tells too little of its files.
    pub(crate) fn of(folder: &Path, checkpoint: &Weights) -> Option<Self> {
        let stamps = checkpoint.stamps()?;
        let mut names = Vec::new();
        for file in checkpoint.files() {
            let absolute = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
            names.extend(absolute.as_os_str().as_encoded_bytes());
            names.push(0);
        }
        let path = folder.join(format!("{:016x}.source", xxh64(&names, 0)));
        Some(Self { path, stamps })
    }

    /// The content hash, if the files are those of the record.
    pub(crate) fn read(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.path).ok()?;
        let content = text.lines().nth(1)?.strip_prefix("content ")?;
        let content = u64::from_str_radix(content, 16).ok()?;
        (text == self.text(content)).then_some(content)
    }

    /// Keep the content hash, unless a file was written to so lately that another write could leave the same times.
    /// Failing is no error: then the next start hashes again.
    pub(crate) fn write(&self, content: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.write_at(content, now.map_or(0, |now| now.as_nanos().cast_signed()));
    }

    fn write_at(&self, content: u64, now: i128) {
        if !self.stamps.iter().all(|stamp| stamp.is_settled(now)) {
            return;
        }
        let partial = self
            .path
            .with_extension(format!("{}.partial", std::process::id()));
        let written = File::create(&partial)
            .and_then(|mut file| file.write_all(self.text(content).as_bytes()))
            .and_then(|()| fs::rename(&partial, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
    }

    /// All of the file; the last line is the hash of those before, so that a cut record is none.
    fn text(&self, content: u64) -> String {
        let mut text = format!("inferlib source 1\ncontent {content:016x}\n");
        for stamp in &self.stamps {
            let _ = writeln!(
                text,
                "file inode {} bytes {} modified {} changed {}",
                stamp.inode, stamp.bytes, stamp.modified_ns, stamp.changed_ns
            );
        }
        let hash = xxh64(text.as_bytes(), 0);
        let _ = writeln!(text, "hash {hash:016x}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(folder: &Path, stamps: Vec<FileStamp>) -> SourceRecord {
        SourceRecord {
            path: folder.join("a.source"),
            stamps,
        }
    }

    fn stamp() -> FileStamp {
        FileStamp {
            inode: 7,
            bytes: 1000,
            modified_ns: 5_000_000_000,
            changed_ns: 6_000_000_000,
        }
    }

    const LONG_AFTER: i128 = 60_000_000_000;

    #[test]
    fn it_knows_the_same_files_and_no_others() {
        let folder = crate::test_folder::TestFolder::new();
        let ours = record(folder.path(), vec![stamp()]);
        assert_eq!(ours.read(), None);
        ours.write_at(0xabc, LONG_AFTER);
        assert_eq!(ours.read(), Some(0xabc));
        let other = |stamp| record(folder.path(), vec![stamp]).read();
        assert_eq!(
            other(FileStamp {
                inode: 8,
                ..stamp()
            }),
            None
        );
        assert_eq!(
            other(FileStamp {
                bytes: 1001,
                ..stamp()
            }),
            None
        );
        assert_eq!(
            other(FileStamp {
                modified_ns: 5_000_000_001,
                ..stamp()
            }),
            None
        );
        assert_eq!(
            other(FileStamp {
                changed_ns: 6_000_000_001,
                ..stamp()
            }),
            None
        );
        assert_eq!(record(folder.path(), vec![stamp(), stamp()]).read(), None);
    }

    #[test]
    fn files_written_to_a_moment_ago_are_not_trusted() {
        let folder = crate::test_folder::TestFolder::new();
        let ours = record(folder.path(), vec![stamp()]);
        ours.write_at(1, stamp().changed_ns + 2_000_000_000);
        assert_eq!(ours.read(), None, "within the same tick of a coarse clock");
        ours.write_at(1, 0);
        assert_eq!(ours.read(), None, "a clock that stands before the file's");
        ours.write_at(1, stamp().changed_ns + 4_000_000_000);
        assert_eq!(ours.read(), Some(1));
    }

    #[test]
    fn a_record_that_is_cut_or_changed_anywhere_is_none() {
        let folder = crate::test_folder::TestFolder::new();
        let ours = record(folder.path(), vec![stamp()]);
        ours.write_at(0x0123_4567_89ab_cdef, LONG_AFTER);
        let whole = fs::read(&ours.path).expect("written");
        for at in 0..whole.len() {
            fs::write(&ours.path, &whole[..at]).expect("a temporary folder");
            assert_eq!(ours.read(), None, "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&ours.path, &changed).expect("a temporary folder");
            assert_eq!(ours.read(), None, "changed at {at}");
        }
    }
}
