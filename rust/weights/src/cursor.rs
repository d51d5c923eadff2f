//! Little-endian values one after the other, each checked against the bytes that are left.

use std::path::Path;

use crate::error::WeightsError;

/// A place in a file that moves forward.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self {
            path,
            len: bytes.len(),
            rest: bytes,
        }
    }

    /// Bytes from the start of the file.
    pub(crate) fn offset(&self) -> u64 {
        as_u64(self.len.saturating_sub(self.rest.len()))
    }

    /// Bytes that are left.
    pub(crate) fn remaining(&self) -> u64 {
        as_u64(self.rest.len())
    }

    /// The next `len` bytes; `what` they are is said in the error.
    pub(crate) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], WeightsError> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len));
        let Some((bytes, rest)) = split else {
            return Err(self.truncated(len, what));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `count` values of `size` bytes each.
    pub(crate) fn take_many(
        &mut self,
        count: u64,
        size: u64,
        what: &str,
    ) -> Result<&'a [u8], WeightsError> {
        self.take(count.saturating_mul(size), what)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], WeightsError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(as_u64(N), what));
        };
        self.rest = rest;
        Ok(*bytes)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, WeightsError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, WeightsError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length as 64 bits, then UTF-8.
    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str, WeightsError> {
        let len = self.u64(what)?;
        let offset = self.offset();
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|error| self.malformed(offset, format!("{what} in UTF-8"), error.to_string()))
    }

    /// A `Truncated` error for `expected` bytes at this place.
    pub(crate) fn truncated(&self, expected: u64, what: &str) -> WeightsError {
        WeightsError::Truncated {
            path: self.path.to_owned(),
            what: what.to_owned(),
            offset: self.offset(),
            expected,
            found: self.remaining(),
        }
    }

    /// A `Malformed` error at `offset`.
    pub(crate) fn malformed(
        &self,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> WeightsError {
        WeightsError::Malformed {
            path: self.path.to_owned(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// Lengths in memory as the 64 bits that files count in.
pub(crate) fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
