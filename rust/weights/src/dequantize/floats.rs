//! Single numbers as float32. Every narrow float is exact in float32, so these only move bits.

/// IEEE half precision, without a branch and without relying on how the processor treats subnormal numbers (a host may
/// have switched them off).
#[inline]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let sign = (bits & 0x8000) << 16;
    let magnitude = (bits & 0x7fff) << 13; // exponent and mantissa, where float32 has them
    let exponent = magnitude & 0x0f80_0000;
    let rebias = 0x3800_0000_u32; // (127 - 15) << 23
    let normal = magnitude.wrapping_add(rebias);
    let infinite_or_nan = magnitude | 0x7f80_0000;
    // 2^-14 + mantissa * 2^-24 is a normal number; taking 2^-14 away again is exact.
    let smallest_normal = 0x3880_0000_u32;
    let subnormal =
        (f32::from_bits(magnitude | smallest_normal) - f32::from_bits(smallest_normal)).to_bits();
    let value = match exponent {
        0 => subnormal,
        0x0f80_0000 => infinite_or_nan,
        _ => normal,
    };
    f32::from_bits(value | sign)
}

/// The upper half of a float32.
#[inline]
pub(super) fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Four bits of exponent, three of mantissa, no infinity, one NaN (`float8_e4m3fn`).
#[inline]
pub(super) fn f8_e4m3_to_f32([byte]: [u8; 1]) -> f32 {
    let bits = u32::from(byte);
    let sign = (bits & 0x80) << 24;
    let magnitude = (bits & 0x7f) << 20;
    let smallest_normal = 0x3c80_0000_u32; // 2^-6
    let value = match bits & 0x7f {
        0x7f => 0x7fc0_0000,
        0..=7 => (f32::from_bits(magnitude | smallest_normal) - f32::from_bits(smallest_normal))
            .to_bits(),
        _ => magnitude.wrapping_add(0x3c00_0000), // (127 - 7) << 23
    };
    f32::from_bits(value | sign)
}

/// The upper half of a half (`float8_e5m2`); its NaNs become quiet ones.
#[inline]
pub(super) fn f8_e5m2_to_f32([byte]: [u8; 1]) -> f32 {
    let value = f16_to_f32([0, byte]);
    if value.is_nan() {
        f32::from_bits(0x7fc0_0000).copysign(value)
    } else {
        value
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the nearest float32 is wanted"
)]
pub(super) fn f64_to_f32(bytes: [u8; 8]) -> f32 {
    f64::from_le_bytes(bytes) as f32
}

#[inline]
#[expect(clippy::cast_precision_loss, reason = "the nearest float32 is wanted")]
pub(super) fn i32_to_f32(bytes: [u8; 4]) -> f32 {
    i32::from_le_bytes(bytes) as f32
}

#[inline]
#[expect(clippy::cast_precision_loss, reason = "the nearest float32 is wanted")]
pub(super) fn i64_to_f32(bytes: [u8; 8]) -> f32 {
    i64::from_le_bytes(bytes) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_what_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let found = f16_to_f32(bits.to_le_bytes());
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{bits:#06x}: {found} {expected}"
            );
        }
    }

    #[test]
    fn every_bfloat16_is_what_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let expected = half::bf16::from_bits(bits).to_f32();
            let found = bf16_to_f32(bits.to_le_bytes());
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()));
        }
    }

    #[test]
    fn every_byte_float_is_what_its_definition_says() {
        for byte in 0..=u8::MAX {
            let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
            for (exponent_bits, bias, found) in [
                (4, 7, f8_e4m3_to_f32([byte])),
                (5, 15, f8_e5m2_to_f32([byte])),
            ] {
                let mantissa_bits = 7 - exponent_bits;
                let exponent = i32::from(byte >> mantissa_bits) & ((1 << exponent_bits) - 1);
                let mantissa_byte = byte & ((1 << mantissa_bits) - 1);
                let mantissa = f64::from(mantissa_byte) / f64::from(1 << mantissa_bits);
                let expected = match exponent {
                    0 => mantissa * 2_f64.powi(1 - bias),
                    31 if mantissa_byte == 0 => f64::INFINITY,
                    31 => f64::NAN,
                    15 if exponent_bits == 4 && mantissa_byte == 7 => f64::NAN,
                    _ => (1.0 + mantissa) * 2_f64.powi(exponent - bias),
                };
                let expected = sign * expected;
                assert!(
                    f64::from(found).to_bits() == expected.to_bits()
                        || (found.is_nan() && expected.is_nan()),
                    "{byte:#04x}: {found} {expected}"
                );
            }
        }
    }
}
