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
        let now = now.map_or(0, |now| now.as_nanos().cast_signed());
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
