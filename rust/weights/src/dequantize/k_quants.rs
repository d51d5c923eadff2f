//! Blocks of 256 in runs of 16 or 32, whose scales (and minima) are small integers times one half: `Q2_K` … `Q6_K`.
//!
//! Source: ggml's `ggml-quants.c`; oracle: the `gguf` Python package. Quantized numbers are stored in planes: a byte
//! holds bits of elements that lie 32 (or 64) apart, the lowest bits first.

use super::floats::f16_to_f32;
use super::round_quants::centred;

/// 16 bytes of (minimum, scale) nibbles for runs of 16; 64 bytes of 2-bit numbers; scale and minimum as halves.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let Some((scales, rest)) = block.split_first_chunk::<16>() else {
        return;
    };
    let Some((quants, [d0, d1, m0, m1])) = rest.split_first_chunk::<64>() else {
        return;
    };
    let (d, dmin) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    let runs = out.as_chunks_mut::<16>().0.iter_mut();
    for ((run, &scale), place) in runs.zip(scales).zip(planes::<2, 16>(quants)) {
        let (dl, ml) = (d * f32::from(scale & 0xf), dmin * f32::from(scale >> 4));
        for (value, &byte) in run.iter_mut().zip(place.bytes) {
            *value = dl * f32::from(byte >> place.shift & 3) - ml;
        }
    }
}

/// 32 bytes of third bits (set: no offset); 64 bytes of 2-bit numbers; 12 bytes of 6-bit scales for runs of 16; a half.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let Some((high_bits, rest)) = block.split_first_chunk::<32>() else {
        return;
    };
    let Some((quants, rest)) = rest.split_first_chunk::<64>() else {
        return;
    };
    let Some((scales, [d0, d1])) = rest.split_first_chunk::<12>() else {
        return;
    };
    let d = f16_to_f32([*d0, *d1]);
    let runs = out.as_chunks_mut::<16>().0.iter_mut();
    let places = planes::<2, 16>(quants).zip(planes::<1, 16>(high_bits));
    for ((run, scale), (low, high)) in runs.zip(q3_k_scales(scales)).zip(places) {
        let dl = d * centred(scale, 32);
        for ((value, &low_byte), &high_byte) in run.iter_mut().zip(low.bytes).zip(high.bytes) {
            let missing = !(high_byte >> high.shift) & 1;
            let q = (low_byte >> low.shift & 3).cast_signed();
            *value = dl * f32::from(q.wrapping_sub((missing << 2).cast_signed()));
        }
    }
}

/// Halves of scale and minimum; 12 bytes of 6-bit scales and minima for runs of 32; 128 bytes of 4-bit numbers.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let Some((scales, quants)) = rest.split_first_chunk::<12>() else {
        return;
    };
    let (d, dmin) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    let runs = out.as_chunks_mut::<32>().0.iter_mut();
    for ((run, (scale, min)), place) in runs
        .zip(scales_and_minima(scales))
        .zip(planes::<4, 32>(quants))
    {
        let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
        for (value, &byte) in run.iter_mut().zip(place.bytes) {
            *value = dl * f32::from(byte >> place.shift & 0xf) - ml;
        }
    }
}

/// Like `Q4_K`, with 32 bytes of fifth bits before the 4-bit numbers.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let Some((scales, rest)) = rest.split_first_chunk::<12>() else {
        return;
    };
    let Some((high_bits, quants)) = rest.split_first_chunk::<32>() else {
        return;
    };
    let (d, dmin) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    let runs = out.as_chunks_mut::<32>().0.iter_mut();
    let places = planes::<4, 32>(quants).zip(planes::<1, 32>(high_bits));
    for ((run, (scale, min)), (low, high)) in runs.zip(scales_and_minima(scales)).zip(places) {
        let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
        for ((value, &low_byte), &high_byte) in run.iter_mut().zip(low.bytes).zip(high.bytes) {
            let q = low_byte >> low.shift & 0xf | (high_byte >> high.shift & 1) << 4;
            *value = dl * f32::from(q) - ml;
        }
    }
}

/// 128 bytes of 4-bit numbers; 64 bytes of their upper two bits; 16 signed scales for runs of 16; a half.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let Some((quants, rest)) = block.split_first_chunk::<128>() else {
        return;
    };
    let Some((high_bits, rest)) = rest.split_first_chunk::<64>() else {
        return;
    };
    let Some((scales, [d0, d1])) = rest.split_first_chunk::<16>() else {
        return;
    };
    let d = f16_to_f32([*d0, *d1]);
    // Of 64 bytes, the lower halves come before the upper halves; of 32 bytes of high bits, two bits at a time.
    let (low_planes, _) = quants.as_chunks::<64>();
    let places = low_planes
        .iter()
        .flat_map(|bytes| [(bytes, 0), (bytes, 4)])
        .flat_map(|(bytes, shift)| {
            bytes
                .as_chunks::<16>()
                .0
                .iter()
                .map(move |bytes| Place { bytes, shift })
        })
        .zip(planes::<2, 16>(high_bits));
    let runs = out.as_chunks_mut::<16>().0.iter_mut();
    for ((run, &scale), (low, high)) in runs.zip(scales).zip(places) {
        let dl = d * f32::from(scale.cast_signed());
        for ((value, &low_byte), &high_byte) in run.iter_mut().zip(low.bytes).zip(high.bytes) {
            let q = low_byte >> low.shift & 0xf | (high_byte >> high.shift & 3) << 4;
            *value = dl * centred(q, 32);
        }
    }
}

/// Where the bits of a run of elements are: in these bytes, so many bits up.
struct Place<'a, const RUN: usize> {
    bytes: &'a [u8; RUN],
    shift: u8,
}

/// The places of all runs, in order: of every 32 bytes first the lowest `BITS` of each, then the next ones.
#[inline]
fn planes<const BITS: usize, const RUN: usize>(
    bytes: &[u8],
) -> impl Iterator<Item = Place<'_, RUN>> {
    bytes.as_chunks::<32>().0.iter().flat_map(|bytes| {
        (0..8_u8).step_by(BITS).flat_map(move |shift| {
            bytes
                .as_chunks::<RUN>()
                .0
                .iter()
                .map(move |bytes| Place { bytes, shift })
        })
    })
}

/// 16 scales of 6 bits: four bits of each in the first 8 bytes (lower halves first), two in the last 4.
#[inline]
fn q3_k_scales(packed: &[u8; 12]) -> [u8; 16] {
    let (low, high) = packed.split_at(8);
    let mut scales = [0; 16];
    let low = low
        .iter()
        .map(|byte| byte & 0xf)
        .chain(low.iter().map(|byte| byte >> 4));
    let high = [0, 2, 4, 6]
        .into_iter()
        .flat_map(|shift| high.iter().map(move |byte| byte >> shift & 3));
    for ((scale, low), high) in scales.iter_mut().zip(low).zip(high) {
        *scale = low | high << 4;
    }
    scales
}

/// 8 scales and 8 minima of 6 bits: four of each whole, of the other four the upper two bits above those.
#[inline]
fn scales_and_minima(packed: &[u8; 12]) -> [(u8, u8); 8] {
    let [s0, s1, s2, s3, m0, m1, m2, m3, b0, b1, b2, b3] = *packed;
    let whole = |scale: u8, min: u8| (scale & 0x3f, min & 0x3f);
    let parts = |scale: u8, min: u8, both: u8| {
        (
            both & 0xf | (scale >> 2 & 0x30),
            both >> 4 | (min >> 2 & 0x30),
        )
    };
    [
        whole(s0, m0),
        whole(s1, m1),
        whole(s2, m2),
        whole(s3, m3),
        parts(s0, m0, b0),
        parts(s1, m1, b1),
        parts(s2, m2, b2),
        parts(s3, m3, b3),
    ]
}
