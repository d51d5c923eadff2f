//! The first page of a packed file: what its image is of, the image's hash, and when it was written.

use inferlib_weights::xxh64;

use super::Expected;

/// Begins every file; the number is the format's version.
const MAGIC: &[u8; 16] = b"inferlib packed1";
/// Bytes of the page.
pub(super) const HEADER: usize = 4096;

/// The first page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) expected: Expected,
    /// Hash over the hashes of all windows.
    pub(super) checksum: u64,
    /// Modification time in seconds since 1970.
    pub(super) stamp: i64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
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

    pub(super) fn decode(page: &[u8; HEADER]) -> Option<Self> {
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
