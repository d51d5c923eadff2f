//! Memory for packed weights and KV blocks: mappings of our own, 2 MiB aligned, huge pages asked for before first touch.

use std::fs::File;

use crate::error::CpuError;

/// Alignment and granule of huge pages.
pub(crate) const HUGE: usize = 2 << 20;
/// Bytes of an arena chunk; a larger request gets a chunk of its own.
const CHUNK: usize = 32 << 20;

/// One mapping, returned to the system on drop: anonymous and zeroed, or of a file and read-only. Between two pages of
/// no access, so that the system joins it with no other mapping (`residency.rs` finds it by its addresses) and nothing
/// that runs over its end goes unnoticed. Untouched pages take no memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: *mut u8,
    /// What `munmap` gives back: the mapping before alignment.
    raw: *mut u8,
    raw_bytes: usize,
    bytes: usize,
}

// SAFETY: plain memory; who writes where is decided by the owner.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserve `bytes`, aligned to 2 MiB.
    pub(crate) fn new(bytes: usize, what: &'static str) -> Result<Self, CpuError> {
        let mapping = Self::reserve(bytes, what)?;
        // SAFETY: inside the reserved range, which nobody else knows yet; the result is checked.
        let refused = unsafe {
            libc::mprotect(
                mapping.base.cast(),
                mapping.whole_bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
            )
        };
        if refused != 0 {
            return Err(CpuError::OutOfMemory {
                what,
                required: bytes,
            });
        }
        mapping.ask_for_huge_pages();
        Ok(mapping)
    }

    /// Map `bytes` of `file` from `offset` on, read-only; other processes that map the same file share the memory.
    ///
    /// The file holds `bytes` from `offset` on, rounded up to whole huge pages, and whoever truncates it ends this process when the lost part is
    /// touched. Source of the huge pages: where the page cache holds the file in them (recent kernels and file systems
    /// do after writes of 2 MiB at multiples of 2 MiB, and for reads with this advice), they are mapped as such, since
    /// `offset` and the address are multiples of 2 MiB.
    pub(crate) fn of_file(file: &File, offset: usize, bytes: usize) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        let mapping = Self::reserve(bytes, "the packed weights")
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        // SAFETY: replaces pages of the reserved range, which nobody else knows yet; the result is checked.
        let mapped = unsafe {
            libc::mmap(
                mapping.base.cast(),
                mapping.whole_bytes(),
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        mapping.ask_for_huge_pages();
        Ok(mapping)
    }

    /// Address space without access, and room on both sides.
    fn reserve(bytes: usize, what: &'static str) -> Result<Self, CpuError> {
        let refused = CpuError::OutOfMemory {
            what,
            required: bytes,
        };
        let Some(raw_bytes) = bytes
            .max(1)
            .checked_next_multiple_of(HUGE)
            .and_then(|n| n.checked_add(2 * HUGE))
        else {
            return Err(refused);
        };
        // SAFETY: an anonymous mapping of our own; the result is checked.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                raw_bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(refused);
        }
        let raw = raw.cast::<u8>();
        // At least one page before and after.
        let base = raw.wrapping_add(1);
        let base = base.wrapping_add(base.align_offset(HUGE));
        Ok(Self {
            base,
            raw,
            raw_bytes,
            bytes,
        })
    }

    fn whole_bytes(&self) -> usize {
        self.bytes.max(1).next_multiple_of(HUGE)
    }

    /// Advice may be refused, which only costs speed: `residency.rs` tells what came of it.
    fn ask_for_huge_pages(&self) {
        // SAFETY: inside the mapping.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(self.base.cast(), self.whole_bytes(), libc::MADV_HUGEPAGE);
        }
    }

    /// Gather a file's pages into huge ones now, for every process that maps it. Takes some 30 ms per 100 MB, and is
    /// refused by most systems that did not do so by themselves.
    pub(crate) fn collapse(&self) {
        // SAFETY: inside the mapping; the content stays the same.
        #[cfg(target_os = "linux")]
        unsafe {
            const MADV_COLLAPSE: libc::c_int = 25; // since Linux 6.1
            libc::madvise(self.base.cast(), self.whole_bytes(), MADV_COLLAPSE);
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `mmap` gave, once.
        unsafe {
            libc::munmap(self.raw.cast(), self.raw_bytes);
        }
    }
}

/// A bump allocator over mappings.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Mapping>,
    /// Bytes taken of the last chunk.
    taken: usize,
}

impl Arena {
    /// `bytes` of zeroed memory, 64-byte aligned, that live as long as the arena.
    pub(crate) fn take(&mut self, bytes: usize, what: &'static str) -> Result<*mut u8, CpuError> {
        let bytes = bytes.next_multiple_of(64);
        let fits = self
            .chunks
            .last()
            .is_some_and(|chunk| chunk.len() - self.taken >= bytes);
        if !fits {
            self.chunks.push(Mapping::new(bytes.max(CHUNK), what)?);
            self.taken = 0;
        }
        let offset = self.taken;
        self.taken += bytes;
        match self.chunks.last() {
            Some(chunk) => Ok(chunk.as_ptr().wrapping_add(offset)),
            None => Err(CpuError::OutOfMemory {
                what,
                required: bytes,
            }),
        }
    }
}
