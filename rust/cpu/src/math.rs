//! Elementary functions of our own, the same bits on every tier and machine.

use inferlib_program::program::Activation;

use crate::simd::Isa;

/// `e^x` to about 1 ulp; inputs are clamped to `[-87.3, 88]`. Source: Cephes `expf` (Moshier), Cody-Waite reduction.
#[inline(always)]
pub(crate) unsafe fn exp<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let x = I::max(I::min(x, I::set(88.0)), I::set(-87.3));
        let n = I::round(I::mul(x, I::set(std::f32::consts::LOG2_E)));
        let steps = I::to_f(n);
        let r = I::fma(steps, I::set(-0.693_359_4), x);
        let r = I::fma(steps, I::set(2.121_944_4e-4), r);
        let mut p = I::set(1.987_569_1e-4);
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            5e-1_f32,
        ] {
            p = I::fma(p, r, I::set(c));
        }
        let y = I::add(I::fma(p, I::mul(r, r), r), I::set(1.0));
        I::mul(y, I::exp2i(n))
    }
}

/// `2^x` to about 1 ulp for `x <= 126`, exactly 1 for 0; below -125 as for -125; any float above 126. NaN stays NaN.
///
/// The polynomial is the relative minimax of degree 6 on `[-1/2, 1/2]` with constant 1 (error 2e-9 before rounding).
#[inline(always)]
pub(crate) unsafe fn exp2<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let x = I::max(I::set(-125.0), x); // the second operand where either is NaN
        let n = I::round(x);
        let r = I::sub(x, I::to_f(n));
        let mut p = I::set(1.535_336_2e-4);
        for c in [
            1.339_887_4e-3,
            9.618_437e-3,
            5.550_332_4e-2,
            2.402_264_8e-1,
            6.931_472e-1,
            1.0_f32,
        ] {
            p = I::fma(p, r, I::set(c));
        }
        I::mul(p, I::exp2i(n))
    }
}

/// The activation of one value. `ClampedSwiglu` is none: its gate alone is given.
#[inline(always)]
pub(crate) unsafe fn activate<I: Isa>(x: I::F, activation: Activation) -> I::F {
    // SAFETY: features of the caller.
    unsafe {
        match activation {
            Activation::Silu => silu::<I>(x),
            Activation::GeluTanh => gelu_tanh::<I>(x),
            Activation::Gelu => gelu::<I>(x),
            Activation::Relu => I::max(I::zero(), x), // the second operand where it is NaN
            Activation::Tanh => tanh::<I>(x),
            Activation::ClampedSwiglu => clamped_gate::<I>(x),
        }
    }
}

/// `act(gate) * up`, or what else a gated activation makes of both.
#[inline(always)]
pub(crate) unsafe fn gated<I: Isa>(gate: I::F, up: I::F, activation: Activation) -> I::F {
    // SAFETY: features of the caller.
    unsafe {
        let gate = activate::<I>(gate, activation);
        if activation == Activation::ClampedSwiglu {
            // Constants first: the second operand where either is NaN.
            let up = I::max(I::set(-CLAMP), I::min(I::set(CLAMP), up));
            return I::fma(gate, up, gate);
        }
        I::mul(gate, up)
    }
}

/// Bound of gate and up in [`Activation::ClampedSwiglu`].
const CLAMP: f32 = 7.0;

/// `g * sigmoid(1.702 g)` of `g = min(x, 7)`.
#[inline(always)]
unsafe fn clamped_gate<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let g = I::min(I::set(CLAMP), x);
        I::div(g, I::add(I::set(1.0), exp::<I>(I::mul(I::set(-1.702), g))))
    }
}

/// `0.5 x (1 + erf(x / sqrt(2)))` as `max(x, 0) - |x| t(|x|)`, in which nothing cancels.
///
/// `t`, the tail of the normal distribution, is the eighth power of a polynomial: the least largest relative error of
/// degree 11 on `[0, 6]`, 2e-7 before rounding, found by weighted least squares. From 6 on, where `|x| t` is 6e-9, it
/// stays at that. There is no division and no exponential in it.
#[inline(always)]
pub(crate) unsafe fn gelu<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let size = I::min(I::set(6.0), I::abs(x)); // the second operand where it is NaN
        let middle = I::sub(size, I::set(3.0));
        let mut p = I::set(-8.734_268e-11);
        for c in [
            1.978_448_3e-9,
            1.303_104_5e-8,
            -3.166_519_8e-7,
            1.097_501_4e-7,
            2.174_043_6e-5,
            -8.401_618e-5,
            -7.244_716e-4,
            5.106_729e-3,
            1.143_507_75e-2,
            -0.179_672_45,
            0.437_811_97_f32,
        ] {
            p = I::fma(p, middle, I::set(c));
        }
        for _ in 0..3 {
            p = I::mul(p, p);
        }
        I::sub(I::max(I::zero(), x), I::mul(size, p))
    }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) unsafe fn silu<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe { I::div(x, I::add(I::set(1.0), exp::<I>(I::sub(I::zero(), x)))) }
}

/// `tanh(x) = 1 - 2 / (e^{2x} + 1)`, with an odd series near 0 where that form cancels.
#[inline(always)]
pub(crate) unsafe fn tanh<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let e = exp::<I>(I::add(x, x));
        I::sub(I::set(1.0), I::div(I::set(2.0), I::add(e, I::set(1.0))))
    }
}

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`. Source: Hendrycks and Gimpel 2016.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<I: Isa>(x: I::F) -> I::F {
    // 0.5 (1 + tanh(y)) = 1 / (1 + e^{-2y}): one exponential, no cancellation.
    // SAFETY: the caller runs with the features of `I`.
    unsafe {
        let cube = I::mul(I::mul(x, x), x);
        let y = I::mul(I::set(0.797_884_6), I::fma(I::set(0.044_715), cube, x));
        I::div(x, I::add(I::set(1.0), exp::<I>(I::mul(I::set(-2.0), y))))
    }
}

/// Sine and cosine of an angle in radians, `|angle| < 2^26`: reduction by multiples of pi/2 in three parts, then
/// Taylor polynomials on `[-pi/4, pi/4]`, all in f64 and rounded once to f32.
#[must_use]
pub(crate) fn sin_cos(angle: f32) -> (f32, f32) {
    // pi/2 split so that `quadrant * PART` is exact for quadrants below 2^26. Source: fdlibm `e_rem_pio2.c`.
    const PART_1: f64 = 1.570_796_326_734_125_6;
    const PART_2: f64 = 6.077_100_506_303_966e-11;
    const PART_3: f64 = 2.022_266_248_795_950_6e-21;
    let x = f64::from(angle);
    let quadrant = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - quadrant * PART_1) - quadrant * PART_2) - quadrant * PART_3;
    let z = r * r;
    let mut s = -7.647_163_731_819_816e-13; // -1/15!, then 1/13! ... -1/3!
    for c in [
        1.605_904_383_682_161_3e-10,
        -2.505_210_838_544_172e-8,
        2.755_731_922_398_589_3e-6,
        -1.984_126_984_126_984e-4,
        8.333_333_333_333_333e-3,
        -1.666_666_666_666_666_6e-1,
    ] {
        s = s * z + c;
    }
    let sin = r + r * z * s;
    let mut c = -1.147_074_559_772_972_5e-11; // -1/14!, then 1/12! ... -1/2!
    for k in [
        2.087_675_698_786_81e-9,
        -2.755_731_922_398_589e-7,
        2.480_158_730_158_73e-5,
        -1.388_888_888_888_889e-3,
        4.166_666_666_666_666_4e-2,
        -0.5,
    ] {
        c = c * z + k;
    }
    let cos = 1.0 + z * c;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to f32 on purpose; the quadrant is below 2^26"
    )]
    let (sin, cos) = match (quadrant as i64).rem_euclid(4) {
        0 => (sin as f32, cos as f32),
        1 => (cos as f32, -sin as f32),
        2 => (-sin as f32, -cos as f32),
        _ => (-cos as f32, sin as f32),
    };
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Portable;

    #[test]
    fn exp_is_within_two_ulps_of_the_library() {
        for i in -8700..8800_i16 {
            let x = f32::from(i) / 100.0 + 0.003;
            // SAFETY: `Portable` needs no features.
            let y = unsafe { exp::<Portable>([x; 16])[3] };
            let want = f64::from(x).exp();
            assert!(
                ((f64::from(y) - want) / want).abs() < 2.5e-7,
                "{x}: {y} {want}"
            );
        }
    }

    #[test]
    fn exp2_is_within_an_ulp_of_the_library() {
        for i in -12500..1260_i16 {
            let x = f32::from(i) / 100.0 + 0.003;
            // SAFETY: `Portable` needs no features.
            let y = unsafe { exp2::<Portable>([x; 16])[3] };
            let want = f64::from(x.max(-125.0)).exp2();
            assert!(
                ((f64::from(y) - want) / want).abs() < 1.2e-7,
                "{x}: {y} {want}"
            );
        }
        // SAFETY: as above.
        let at = |x: f32| unsafe { exp2::<Portable>([x; 16])[0] };
        assert_eq!(at(0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!(at(f32::NEG_INFINITY).to_bits(), at(-125.0).to_bits());
        assert!(at(-125.0) >= f32::MIN_POSITIVE);
        assert!(at(f32::NAN).is_nan());
    }

    /// By a series without cancellation.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    #[test]
    fn gelu_matches_the_error_function_far_into_its_tail() {
        for i in -1200..1200_i16 {
            let x = f32::from(i) / 100.0 + 0.003;
            let d = f64::from(x);
            // SAFETY: `Portable` needs no features.
            let y = f64::from(unsafe { gelu::<Portable>([x; 16])[0] });
            let want = 0.5 * d * (1.0 + erf(d / std::f64::consts::SQRT_2));
            assert!(
                (y - want).abs() < 3e-7 * (0.1 + d.abs()),
                "gelu {x}: {y} {want}"
            );
            if (-4.0..-0.5).contains(&d) {
                assert!(((y - want) / want).abs() < 3e-6, "gelu {x}: {y} {want}");
            }
        }
        // SAFETY: as above.
        let at = |x: f32| unsafe { gelu::<Portable>([x; 16])[0] };
        assert!(at(f32::NAN).is_nan());
        assert_eq!(at(0.0).to_bits(), 0.0_f32.to_bits());
        assert_eq!(at(30.0).to_bits(), 30.0_f32.to_bits());
    }

    #[test]
    fn activations_match_their_formulas() {
        for i in -1200..1200_i16 {
            let x = f32::from(i) / 100.0;
            let d = f64::from(x);
            // SAFETY: `Portable` needs no features.
            let (s, g, t) = unsafe {
                (
                    silu::<Portable>([x; 16])[0],
                    gelu_tanh::<Portable>([x; 16])[0],
                    tanh::<Portable>([x; 16])[0],
                )
            };
            let tolerance = 4e-7 * (1.0 + d.abs());
            assert!(
                (f64::from(s) - d / (1.0 + (-d).exp())).abs() < tolerance,
                "silu {x}"
            );
            let gelu = 0.5
                * d
                * (1.0
                    + ((2.0 / std::f64::consts::PI).sqrt() * (d + 0.044_715 * d * d * d)).tanh());
            assert!(
                (f64::from(g) - gelu).abs() < tolerance,
                "gelu {x}: {g} {gelu}"
            );
            assert!((f64::from(t) - d.tanh()).abs() < tolerance, "tanh {x}");
        }
    }

    #[test]
    fn sine_and_cosine_are_correctly_rounded_almost_everywhere() {
        for i in 0..400_000_u32 {
            #[expect(clippy::cast_precision_loss, reason = "test input")]
            let x = i as f32 * 0.37;
            let (s, c) = sin_cos(x);
            let (want_s, want_c) = f64::from(x).sin_cos();
            assert!(
                (f64::from(s) - want_s).abs() < 6e-8 && (f64::from(c) - want_c).abs() < 6e-8,
                "{x}"
            );
        }
    }
}
