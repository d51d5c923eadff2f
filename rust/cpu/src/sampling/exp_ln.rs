//! Exponential and logarithm by polynomials, with plain multiplications and additions only, so that every machine,
//! compiler and vector width gives the same bits. libm would not.

/// Below this exponent a weight is exactly zero: results never are subnormal, whatever the processor does with those.
const LOWEST_EXPONENT: f32 = -126.0;

/// Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, which is then in the sum's low mantissa bits.
const ROUNDING: f32 = 12_582_912.0;

/// `2^y` for `y <= 0` (`-inf` included), within 2 ULP; zero below 2^-126. `exp2_nonpositive(0.0)` is exactly 1.
///
/// `2^y = 2^n · 2^f`, `n` the nearest integer and `|f| <= 0.5`; `2^f` is the polynomial of degree 6 with constant
/// term 1 and the smallest largest relative error (Remez), 2.2e-8 with these rounded coefficients. The degree-5
/// one has 4.3e-7, four ULP, and saves 8 % of the pass.
#[inline(always)]
pub(super) fn exp2_nonpositive(y: f32) -> f32 {
    let shifted = y + ROUNDING;
    let f = y - (shifted - ROUNDING);
    let mut p = 1.559_467_8e-4;
    p = p * f + 1.340_664_3e-3;
    p = p * f + 9.617_693e-3;
    p = p * f + 5.550_310_4e-2;
    p = p * f + 2.402_265_2e-1;
    p = p * f + 6.931_472_4e-1;
    p = p * f + 1.0;
    let scaled = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if y >= LOWEST_EXPONENT { scaled } else { 0.0 }
}

/// Natural logarithm of a positive normal number, within 1e-15 of the larger of 1 and its size. Scalar, a few per row.
///
/// `x = m · 2^e` with `m` in `[√½, √2)`, and `ln m = 2 artanh s`, `s = (m - 1) / (m + 1)`, by its Taylor series up to
/// `s^23`: the first term left out is below 1e-19.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "an exponent has 11 bits")]
pub(super) fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const ONE: u64 = 1023 << 52;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & MANTISSA | ONE);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for odd in (1..=23_i32).rev().step_by(2) {
        series = series * square + 1.0 / f64::from(odd);
    }
    #[expect(clippy::cast_precision_loss, reason = "an exponent has 11 bits")]
    let exponent = exponent as f64;
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "test values are small"
)]
mod tests {
    use super::{exp2_nonpositive, ln};

    fn ulps(got: f32, expected: f64) -> f64 {
        let spacing = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
        (f64::from(got) - expected).abs() / spacing
    }

    #[test]
    fn exp2_is_within_two_ulp_of_float64_over_its_whole_range() {
        let mut worst = 0.0f64;
        for i in 0..=1_260_000 {
            let y = -(i as f32) * 1e-4;
            worst = worst.max(ulps(exp2_nonpositive(y), f64::from(y).exp2()));
        }
        assert!(worst < 2.0, "{worst} ULP");
    }

    #[test]
    fn exp2_is_exact_at_integers_and_zero_below_the_smallest_normal() {
        for n in 0..=126_u8 {
            assert_eq!(
                exp2_nonpositive(-f32::from(n)).to_bits(),
                (-f32::from(n)).exp2().to_bits()
            );
        }
        assert_eq!(exp2_nonpositive(-0.0).to_bits(), 1.0f32.to_bits());
        for y in [
            (-126.0f32).next_down(),
            -127.0,
            -1e9,
            f32::MIN,
            f32::NEG_INFINITY,
        ] {
            assert_eq!(exp2_nonpositive(y).to_bits(), 0);
        }
    }

    #[test]
    fn ln_agrees_with_the_library_to_the_last_digits() {
        let mut x = 1e-300f64;
        while x < 1e300 {
            let expected = x.ln();
            assert!(
                (ln(x) - expected).abs() <= 1e-15 * expected.abs().max(1.0),
                "ln({x})"
            );
            x *= 1.037;
        }
        assert_eq!(ln(1.0).to_bits(), 0);
    }
}
