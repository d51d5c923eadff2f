//! Numbers, lists and frames as bytes. Numbers are in base 128, lowest digits first, and lists begin with their length.

use std::io::Read;

use super::MAX_FRAME_BYTES;

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as logs do.
    #[error("this is no decision log")]
    NotALog,
    /// Another version of the format.
    #[error("the log has version {found}; this reader knows {known}")]
    Version {
        /// As read.
        found: u8,
        /// The one that can be read.
        known: u8,
    },
    /// It ends inside of a record: its writer was interrupted, or a part is missing.
    #[error("the log ends in the middle of a record")]
    Truncated,
    /// A record says that it is longer than any can be.
    #[error("a record claims {length} bytes")]
    FrameTooLong {
        /// As read.
        length: u64,
    },
    /// The bytes of a record are not those that were written.
    #[error("a record's checksum is wrong")]
    Checksum,
    /// A record that cannot be read though its checksum is right.
    #[error("{field} of a record is not what it can be")]
    Field {
        /// Which part.
        field: &'static str,
    },
    /// The scheduler that it describes needs more memory than the reader may use.
    #[error("the log describes a scheduler that needs about {needed} bytes; {limit} are allowed")]
    TooLarge {
        /// About so many bytes.
        needed: u64,
        /// As given to the reader.
        limit: u64,
    },
}

/// Appends values to a buffer.
pub(super) trait Encode {
    fn byte(&mut self, value: u8);
    fn number(&mut self, value: u64);
    fn fixed(&mut self, value: u64);
    fn bytes(&mut self, value: &[u8]);

    fn count(&mut self, value: usize) {
        self.number(value as u64);
    }

    fn flag(&mut self, value: bool) {
        self.byte(u8::from(value));
    }

    /// Small negative numbers are short, too.
    fn signed(&mut self, value: i64) {
        self.number((value << 1 ^ value >> 63).cast_unsigned());
    }

    fn float(&mut self, value: f64) {
        self.fixed(value.to_bits());
    }

    fn optional(&mut self, value: Option<u64>) {
        self.flag(value.is_some());
        if let Some(value) = value {
            self.number(value);
        }
    }

    fn text(&mut self, value: Option<&str>) {
        self.flag(value.is_some());
        if let Some(value) = value {
            self.bytes(value.as_bytes());
        }
    }

    fn tokens(&mut self, values: &[i32]) {
        self.count(values.len());
        for &value in values {
            self.signed(i64::from(value));
        }
    }
}

impl Encode for Vec<u8> {
    fn byte(&mut self, value: u8) {
        self.push(value);
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits are taken")]
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn fixed(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.extend_from_slice(value);
    }
}

/// Reads the values of one payload. Whatever it holds, nothing larger than a few times its length is made of it.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, Damage> {
        let (&first, rest) = self.rest.split_first().ok_or(Damage::Field { field })?;
        self.rest = rest;
        Ok(first)
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            let digit = u64::from(byte & 0x7f);
            if digit << shift >> shift != digit {
                break;
            }
            value |= digit << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damage::Field { field })
    }

    /// A number of the type that is wanted.
    pub(super) fn whole<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, Damage> {
        T::try_from(self.number(field)?).map_err(|_| Damage::Field { field })
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, Damage> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damage::Field { field }),
        }
    }

    pub(super) fn signed(&mut self, field: &'static str) -> Result<i64, Damage> {
        let value = self.number(field)?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(super) fn fixed(&mut self, field: &'static str) -> Result<u64, Damage> {
        let (head, rest) = self
            .rest
            .split_at_checked(8)
            .ok_or(Damage::Field { field })?;
        self.rest = rest;
        let bytes = head.try_into().map_err(|_| Damage::Field { field })?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn float(&mut self, field: &'static str) -> Result<f64, Damage> {
        Ok(f64::from_bits(self.fixed(field)?))
    }

    pub(super) fn optional<T: TryFrom<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<Option<T>, Damage> {
        if self.flag(field)? {
            Ok(Some(self.whole(field)?))
        } else {
            Ok(None)
        }
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Damage> {
        let length = self.whole(field)?;
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Damage::Field { field })?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<Option<String>, Damage> {
        if !self.flag(field)? {
            return Ok(None);
        }
        let text = str::from_utf8(self.bytes(field)?).map_err(|_| Damage::Field { field })?;
        Ok(Some(text.to_owned()))
    }

    /// How many entries follow, each of at least one byte.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, Damage> {
        let length: usize = self.whole(field)?;
        if length > self.rest.len() {
            return Err(Damage::Field { field });
        }
        Ok(length)
    }

    pub(super) fn tokens(&mut self, field: &'static str) -> Result<Vec<i32>, Damage> {
        let length = self.length(field)?;
        let mut tokens = Vec::with_capacity(length);
        for _ in 0..length {
            let token = i32::try_from(self.signed(field)?);
            tokens.push(token.map_err(|_| Damage::Field { field })?);
        }
        Ok(tokens)
    }

    /// The payload ends here.
    pub(super) fn end(&self) -> Result<(), Damage> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Damage::Field { field: "end" })
        }
    }
}

/// Append `payload` as a frame.
pub(super) fn write_frame(payload: &[u8], out: &mut Vec<u8>) {
    out.bytes(payload);
    out.extend_from_slice(&checksum(payload).to_le_bytes());
}

/// The next frame's payload, into `payload`; `false` at the end of the log. Also how many bytes were read.
pub(super) fn read_frame(
    input: &mut impl Read,
    payload: &mut Vec<u8>,
) -> Result<Option<u64>, ReadError> {
    let mut length = 0_u64;
    let mut num_bytes = 0;
    loop {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            return match num_bytes {
                0 => Ok(None),
                _ => Err(Damage::Truncated.into()),
            };
        }
        length |= u64::from(byte[0] & 0x7f) << (7 * num_bytes);
        num_bytes += 1;
        if length > MAX_FRAME_BYTES || num_bytes > 5 {
            return Err(Damage::FrameTooLong { length }.into());
        }
        if byte[0] < 0x80 {
            break;
        }
    }
    // Grows with what is there, not with what is claimed.
    payload.clear();
    if input.take(length).read_to_end(payload)? as u64 != length {
        return Err(Damage::Truncated.into());
    }
    let mut expected = [0; 4];
    let mut filled = 0;
    while filled < expected.len() {
        match input.read(&mut expected[filled..])? {
            0 => return Err(Damage::Truncated.into()),
            count => filled += count,
        }
    }
    if u32::from_le_bytes(expected) != checksum(payload) {
        return Err(Damage::Checksum.into());
    }
    Ok(Some(num_bytes + length + 4))
}

/// A log that cannot be read, or is damaged.
#[derive(Debug)]
pub(super) enum ReadError {
    Damage(Damage),
    Io(std::io::Error),
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A sum over 64-bit words that no plausible damage leaves as it was. The same on every machine and for ever: it is a
/// part of the format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    pub(super) fn add(&mut self, value: u64) {
        let wide = u128::from(self.0 ^ value) * 0xa076_1d64_78bd_642f;
        self.0 = (wide as u64 ^ (wide >> 64) as u64).wrapping_add(value.rotate_left(29));
    }

    pub(super) fn add_all(&mut self, values: &[i32]) {
        self.add(values.len() as u64);
        for &value in values {
            self.add(u64::from(value.cast_unsigned()));
        }
    }

    pub(super) fn value(self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[expect(clippy::cast_possible_truncation, reason = "32 bits suffice")]
fn checksum(payload: &[u8]) -> u32 {
    let mut digest = Digest::new();
    digest.add(payload.len() as u64);
    for piece in payload.chunks(8) {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        digest.add(u64::from_le_bytes(word));
    }
    digest.value() as u32
}
