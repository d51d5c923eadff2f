//! Mapping a file into memory: the one unsafe act of this crate.
//!
//! The contract with the user: a checkpoint's files are not changed while they are in use. If another process writes
//! into a mapped file, the bytes change under us (results are garbage, memory is not: every read goes through bounds
//! checked against the length at the time of opening). If it truncates the file, touching the lost part raises SIGBUS
//! and ends the process; `mmap=False` never does.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe because others may write to it"
)]

use std::fs::File;
use std::io;
use std::ops::Range;

/// The whole of a file, read-only, as long as it was when it was mapped.
#[derive(Debug)]
pub(crate) struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Map the first `len` bytes of `file`.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and handed out as `&[u8]`, for which every bit pattern is valid. That nobody
        // writes to or truncates the file meanwhile is the user's part of the contract above; parsers copy what they
        // rely on (names, shapes, ranges, metadata) out of the mapping, so a changed byte cannot break an invariant.
        unsafe { memmap2::MmapOptions::new().len(len).map(file) }.map(Self)
    }

    /// The mapped bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tell the system that the pages of `range` are not needed for now; the next touch reads them again.
    ///
    /// A hint: failure changes nothing, and it does nothing where the system has no such call.
    pub(crate) fn release(&self, range: Range<usize>) {
        if range.end > self.0.len() || range.is_empty() {
            return;
        }
        #[cfg(unix)]
        {
            // SAFETY: the range is inside the mapping, and dropping clean pages of a read-only, file-backed mapping
            // only means that the next access reads them from the file again, whose content has not changed.
            let _hint = unsafe {
                self.0.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
    }
}
