//! Memory for packed weights and KV blocks: anonymous mappings, 2 MiB aligned, huge pages asked for before first touch.

use crate::error::CpuError;

/// Alignment and granule of huge pages.
const HUGE: usize = 2 << 20;
/// Bytes of an arena chunk; a larger request gets a chunk of its own.
const CHUNK: usize = 32 << 20;

/// One anonymous mapping, zeroed, returned to the system on drop. Untouched pages take no memory.
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
        let refused = CpuError::OutOfMemory {
            what,
            required: bytes,
        };
        let Some(raw_bytes) = bytes
            .max(1)
            .checked_next_multiple_of(HUGE)
            .and_then(|n| n.checked_add(HUGE))
        else {
            return Err(refused);
        };
        // SAFETY: an anonymous mapping of our own; the result is checked.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                raw_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(refused);
        }
        let raw = raw.cast::<u8>();
        let base = raw.wrapping_add(raw.align_offset(HUGE));
        // SAFETY: inside the mapping; advice may be refused, which only costs speed.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(base.cast(), raw_bytes - HUGE, libc::MADV_HUGEPAGE);
        }
        Ok(Self {
            base,
            raw,
            raw_bytes,
            bytes,
        })
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
    total: usize,
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
        self.total += bytes;
        match self.chunks.last() {
            Some(chunk) => Ok(chunk.as_ptr().wrapping_add(offset)),
            None => Err(CpuError::OutOfMemory {
                what,
                required: bytes,
            }),
        }
    }

    /// Bytes handed out.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total
    }
}
