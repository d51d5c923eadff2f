//! Finding NaN and infinity in a tensor without dequantizing it: a damaged file is told from a damaged computation.

use crate::dtype::Dtype;

/// The index of the first block (of the first element, where the type is not quantized) that is NaN or infinite, or
/// whose scale or minimum is. Bytes after the last whole block are not looked at.
///
/// One pass over the bytes; worth its time where they are read anyway. For `MXFP4` it is the exponent that means NaN.
#[must_use]
pub fn first_non_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    match dtype {
        Dtype::F32 => first(bytes, |value| !f32::from_le_bytes(*value).is_finite()),
        Dtype::F64 => first(bytes, |value| !f64::from_le_bytes(*value).is_finite()),
        Dtype::F16 => first(bytes, |[a, b]| non_finite([*a, *b])),
        Dtype::BF16 => first(bytes, |value: &[u8; 2]| {
            u16::from_le_bytes(*value) & 0x7f80 == 0x7f80
        }),
        Dtype::F8E4M3 => first(bytes, |[value]| value & 0x7f == 0x7f),
        Dtype::F8E5M2 => first(bytes, |[value]| value & 0x7c == 0x7c),
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 | Dtype::U8 | Dtype::Bool => None,
        Dtype::Q4_0 | Dtype::Iq4Nl => first::<18>(bytes, one_half_first),
        Dtype::Q5_0 => first::<22>(bytes, one_half_first),
        Dtype::Q8_0 => first::<34>(bytes, one_half_first),
        Dtype::Iq4Xs => first::<136>(bytes, one_half_first),
        Dtype::Q4_1 => first::<20>(bytes, two_halves_first),
        Dtype::Q5_1 => first::<24>(bytes, two_halves_first),
        Dtype::Q4K => first::<144>(bytes, two_halves_first),
        Dtype::Q5K => first::<176>(bytes, two_halves_first),
        Dtype::Q3K => first::<110>(bytes, one_half_last),
        Dtype::Q6K => first::<210>(bytes, one_half_last),
        Dtype::Q2K => first(bytes, |block: &[u8; 84]| {
            let [.., d0, d1, m0, m1] = *block;
            non_finite([d0, d1]) || non_finite([m0, m1])
        }),
        Dtype::Mxfp4 => first(bytes, |[exponent, ..]: &[u8; 17]| *exponent == u8::MAX),
    }
}

fn first<const BYTES: usize>(bytes: &[u8], bad: impl Fn(&[u8; BYTES]) -> bool) -> Option<usize> {
    bytes.as_chunks().0.iter().position(bad)
}

fn one_half_first<const BYTES: usize>(block: &[u8; BYTES]) -> bool {
    block.first_chunk().is_some_and(|half| non_finite(*half))
}

fn two_halves_first<const BYTES: usize>(block: &[u8; BYTES]) -> bool {
    block
        .first_chunk()
        .is_some_and(|&[d0, d1, m0, m1]| non_finite([d0, d1]) || non_finite([m0, m1]))
}

fn one_half_last<const BYTES: usize>(block: &[u8; BYTES]) -> bool {
    block.last_chunk().is_some_and(|half| non_finite(*half))
}

fn non_finite(half: [u8; 2]) -> bool {
    u16::from_le_bytes(half) & 0x7c00 == 0x7c00
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dequantize;

    proptest! {
        #[test]
        fn it_is_the_first_block_that_does_not_dequantize_to_numbers(
            dtype in prop::sample::select(&Dtype::ALL[..]),
            mut bytes in prop::collection::vec(prop::sample::select(vec![0x01, 0x3c, 0x40, 0x7b]), 3 * 210),
            bad in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
        ) {
            // E8M0 has no infinity: large exponents with large numbers overflow float32.
            prop_assume!(dtype != Dtype::Mxfp4);
            bytes.truncate(3 * dtype.block_bytes());
            for (index, byte) in bad {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let mut values = vec![0.0; 3 * dtype.block_size()];
            dequantize(dtype, &bytes, &mut values).unwrap();
            // A double that is too large for float32 is a number all the same.
            prop_assume!(dtype != Dtype::F64 || first_non_finite(dtype, &bytes).is_some() || values.iter().all(|v| v.is_finite()));
            let found = values
                .chunks(dtype.block_size())
                .position(|block| block.iter().any(|value| !value.is_finite()));
            let scales = first_non_finite(dtype, &bytes);
            // An infinite scale times a zero is NaN, and times anything else infinite: it always shows.
            prop_assert_eq!(scales, found);
        }
    }

    #[test]
    fn the_exponent_that_means_nan_is_found() {
        let mut bytes = [1; 3 * 17];
        assert_eq!(first_non_finite(Dtype::Mxfp4, &bytes), None);
        bytes[17] = u8::MAX;
        assert_eq!(first_non_finite(Dtype::Mxfp4, &bytes), Some(1));
    }
}
