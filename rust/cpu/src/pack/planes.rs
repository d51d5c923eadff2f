//! One row's codes and scales into the planes that `formats/planes.rs` reads. Planes begin as zeros.

/// Nibbles as blocks of 32 store them: byte `j` of the file holds columns `j` (low) and `j + 16` (high).
pub(super) fn put_nibbles(qs: [u8; 16], lane: usize, plane: &mut [u8]) {
    const LOW: u32 = 0x0f0f_0f0f;
    let words: [u32; 4] = std::array::from_fn(|i| {
        u32::from_le_bytes([qs[4 * i], qs[4 * i + 1], qs[4 * i + 2], qs[4 * i + 3]])
    });
    // Columns 0..16 are the low nibbles of bytes 0..16; group g takes columns 8g..8g+4 and 8g+4..8g+8.
    for g in 0..2 {
        let (a, b) = (words[2 * g], words[2 * g + 1]);
        let low = (a & LOW) | (b & LOW) << 4;
        let high = (a >> 4 & LOW) | (b & !LOW);
        plane[64 * g + 4 * lane..][..4].copy_from_slice(&low.to_le_bytes());
        plane[64 * (g + 2) + 4 * lane..][..4].copy_from_slice(&high.to_le_bytes());
    }
}

/// The low nibbles of 32 codes in column order.
pub(super) fn put_codes(codes: &[u8; 32], lane: usize, plane: &mut [u8]) {
    const LOW: u32 = 0x0f0f_0f0f;
    let words = words(codes);
    for g in 0..4 {
        let word = (words[2 * g] & LOW) | (words[2 * g + 1] & LOW) << 4;
        plane[64 * g + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Four codes in a word, as they lie in memory.
fn words(codes: &[u8; 32]) -> [u32; 8] {
    let (words, _) = codes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// Two bits of each code, from bit `AT` on, into a two-bit plane.
pub(super) fn put_two_bits<const AT: u32>(codes: &[u8; 32], lane: usize, plane: &mut [u8]) {
    let words = words(codes).map(|word| word >> AT & 0x0303_0303);
    for (half, words) in words.as_chunks::<4>().0.iter().enumerate() {
        let word = words[0] | words[1] << 2 | words[2] << 4 | words[3] << 6;
        let to = &mut plane[64 * half + 4 * lane..][..4];
        to.copy_from_slice(&word.to_le_bytes());
    }
}

/// Bit `c` of `bits` is that of column `c`: into mask `c / 4` of a bit plane, bit `4 * lane + c % 4`.
pub(super) fn put_bits(bits: u32, lane: usize, plane: &mut [u8]) {
    for k4 in 0..8 {
        let bits = (bits >> (4 * k4) & 15) as u8;
        plane[8 * k4 + lane / 2] |= bits << (4 * (lane % 2));
    }
}

/// The 6-bit numbers `first` and `second` of block `blk` of eight.
pub(super) fn put_pair(first: u8, second: u8, blk: usize, lane: usize, plane: &mut [u8]) {
    let at = 16 * (blk % 4) + lane;
    if blk < 4 {
        plane[at] |= first;
        plane[64 + at] |= second;
    } else {
        plane[at] |= first >> 4 << 6;
        plane[64 + at] |= second >> 4 << 6;
        plane[128 + at] = first & 15 | (second & 15) << 4;
    }
}

/// The 6-bit number of block `blk` of eight.
pub(super) fn put_six_bits(number: u8, blk: usize, lane: usize, plane: &mut [u8]) {
    let whole = &mut plane[16 * (blk % 4) + lane];
    if blk < 4 {
        *whole |= number;
    } else {
        *whole |= number >> 4 << 6;
        plane[64 + 16 * ((blk - 4) / 2) + lane] |= (number & 15) << (4 * (blk % 2));
    }
}

/// A half float of one row.
pub(super) fn put_half(bytes: [u8; 2], lane: usize, to: &mut [u8]) {
    to[2 * lane..2 * lane + 2].copy_from_slice(&bytes);
}
