//! Ops on one row at a time: norms, rotary embedding, activations, sums. Every result is a function of the row alone.

use inferlib_program::program::{Activation, Scoring};

use crate::adapters::AdapterPart;
use crate::math;
use crate::simd::{Isa, LANES};

/// Visit `n` floats in vectors of 16: full ones, then the rest.
macro_rules! each_vector {
    ($n:expr, |$at:ident, $count:ident| $body:expr) => {{
        let n = $n;
        let mut $at = 0;
        while $at + LANES <= n {
            let $count = LANES;
            $body;
            $at += LANES;
        }
        if $at < n {
            let $count = n - $at;
            $body;
        }
    }};
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` over each group of `group` of the `len` values; may work in place.
///
/// Order of sums: 16 lanes, ascending, then the fixed tree.
#[inline(always)]
pub(crate) unsafe fn rms_norm<I: Isa>(
    x: *const f32,
    len: usize,
    weight: &[f32],
    eps: f32,
    out: *mut f32,
) {
    let group = weight.len();
    let w = weight.as_ptr();
    let mut first = 0;
    while first < len {
        // SAFETY: `len` values at `x` and `out`, a multiple of the group.
        unsafe {
            let (x, out) = (x.add(first), out.add(first));
            let mut squares = I::zero();
            each_vector!(group, |at, count| {
                let v = I::load_up_to(x.add(at), count);
                squares = I::fma(v, v, squares);
            });
            #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
            let mean = I::sum(squares) / group as f32;
            let inverse = I::set(1.0 / (mean + eps).sqrt());
            each_vector!(group, |at, count| {
                let v = I::mul(I::load_up_to(x.add(at), count), inverse);
                I::store_up_to(
                    out.add(at),
                    I::mul(v, I::load_up_to(w.add(at), count)),
                    count,
                );
            });
        }
        first += group;
    }
}

/// `out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias` of one row; may work in place.
///
/// Order of sums: 16 lanes, ascending, then the fixed tree; the mean first.
#[inline(always)]
pub(crate) unsafe fn layer_norm<I: Isa>(
    x: *const f32,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: *mut f32,
) {
    let (width, w) = (weight.len(), weight.as_ptr());
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    let count_of_all = width as f32;
    // SAFETY: `width` values each.
    unsafe {
        let mut sum = I::zero();
        each_vector!(width, |at, count| {
            sum = I::add(sum, I::load_up_to(x.add(at), count));
        });
        let mean = I::sum(sum) / count_of_all;
        let mut squares = I::zero();
        each_vector!(width, |at, count| {
            // Lanes beyond the row hold the mean, which deviates by nothing.
            let mut row = [mean; LANES];
            std::ptr::copy_nonoverlapping(x.add(at), row.as_mut_ptr(), count);
            let deviation = I::sub(I::load(row.as_ptr()), I::set(mean));
            squares = I::fma(deviation, deviation, squares);
        });
        let inverse = I::set(1.0 / (I::sum(squares) / count_of_all + eps).sqrt());
        each_vector!(width, |at, count| {
            let deviation = I::sub(I::load_up_to(x.add(at), count), I::set(mean));
            let normed = I::mul(deviation, inverse);
            let gain = I::load_up_to(w.add(at), count);
            let y = match bias {
                Some(bias) => I::fma(normed, gain, I::load_up_to(bias.as_ptr().add(at), count)),
                None => I::mul(normed, gain),
            };
            I::store_up_to(out.add(at), y, count);
        });
    }
}

/// Rotate `num_heads` heads in place: pairs `(i, i + half)` by the angles whose sines and cosines are given.
#[inline(always)]
pub(crate) unsafe fn rope<I: Isa>(
    x: *mut f32,
    num_heads: usize,
    head_dim: usize,
    half: usize,
    cos: *const f32,
    sin: *const f32,
) {
    for head in 0..num_heads {
        // SAFETY: `2 * half <= head_dim`, `num_heads * head_dim` values at `x`.
        unsafe {
            let (a, b) = (x.add(head * head_dim), x.add(head * head_dim + half));
            each_vector!(half, |at, count| {
                let (x0, x1) = (
                    I::load_up_to(a.add(at), count),
                    I::load_up_to(b.add(at), count),
                );
                let (c, s) = (
                    I::load_up_to(cos.add(at), count),
                    I::load_up_to(sin.add(at), count),
                );
                I::store_up_to(a.add(at), I::sub(I::mul(x0, c), I::mul(x1, s)), count);
                I::store_up_to(b.add(at), I::fma(x0, s, I::mul(x1, c)), count);
            });
        }
    }
}

/// `out[i] = act(x[i]) * x[width + i]`.
#[inline(always)]
pub(crate) unsafe fn act_and_mul<I: Isa>(
    x: *const f32,
    width: usize,
    activation: Activation,
    out: *mut f32,
) {
    // SAFETY: `2 * width` values at `x`, `width` at `out`.
    unsafe {
        each_vector!(width, |at, count| {
            let (gate, up) = (
                I::load_up_to(x.add(at), count),
                I::load_up_to(x.add(width + at), count),
            );
            let gated = math::gated::<I>(gate, up, activation);
            I::store_up_to(out.add(at), gated, count);
        });
    }
}

/// `out[i] = act(x[i])`; may work in place.
#[inline(always)]
pub(crate) unsafe fn activation<I: Isa>(
    x: *const f32,
    width: usize,
    activation: Activation,
    out: *mut f32,
) {
    // SAFETY: `width` values each.
    unsafe {
        each_vector!(width, |at, count| {
            let value = math::activate::<I>(I::load_up_to(x.add(at), count), activation);
            I::store_up_to(out.add(at), value, count);
        });
    }
}

/// `out = a + b`; may work in place.
#[inline(always)]
pub(crate) unsafe fn add<I: Isa>(a: *const f32, b: *const f32, width: usize, out: *mut f32) {
    // SAFETY: `width` values each.
    unsafe {
        each_vector!(width, |at, count| {
            let sum = I::add(
                I::load_up_to(a.add(at), count),
                I::load_up_to(b.add(at), count),
            );
            I::store_up_to(out.add(at), sum, count);
        });
    }
}

/// `out += weight * x`: an expert's share.
#[inline(always)]
pub(crate) unsafe fn add_scaled<I: Isa>(x: *const f32, width: usize, weight: f32, out: *mut f32) {
    // SAFETY: `width` values each.
    unsafe {
        let weight = I::set(weight);
        each_vector!(width, |at, count| {
            let sum = I::load_up_to(out.add(at), count);
            let sum = I::fma(I::load_up_to(x.add(at), count), weight, sum);
            I::store_up_to(out.add(at), sum, count);
        });
    }
}

/// `Σ x[i] * y[i]`. Order of sums: 16 lanes, ascending, then the fixed tree.
#[inline(always)]
pub(crate) unsafe fn dot<I: Isa>(x: *const f32, y: *const f32, count: usize) -> f32 {
    // SAFETY: `count` values each.
    unsafe {
        let mut sum = I::zero();
        each_vector!(count, |at, count| {
            sum = I::fma(
                I::load_up_to(x.add(at), count),
                I::load_up_to(y.add(at), count),
                sum,
            );
        });
        I::sum(sum)
    }
}

/// `out += scale * B (A x)`, an adapter's share of some rows of a product.
#[inline(always)]
pub(crate) unsafe fn adapt<I: Isa>(x: *const f32, part: &AdapterPart, out: *mut f32) {
    let (columns, rows) = (part.in_features(), part.rows());
    // SAFETY: `x` has the matrix's columns, `out` all of its rows: checked when the adapter was loaded.
    unsafe {
        let out = out.add(part.first_row);
        let both = part.a.chunks_exact(columns).zip(part.b.chunks_exact(rows));
        for (a, b) in both {
            let weight = part.scale * dot::<I>(a.as_ptr(), x, columns);
            add_scaled::<I>(b.as_ptr(), rows, weight, out);
        }
    }
}

/// The `top_k` experts of the largest logits, in descending order (the lower index on a tie), and their weights: a softmax
/// over the chosen ones, or over all.
///
/// Order of sums: ascending, one after the other. With NaN among the logits the choice is any, but of valid experts.
#[inline(always)]
pub(crate) unsafe fn route<I: Isa>(
    logits: &[f32],
    normalise: bool,
    chosen: &mut [i32],
    weights: &mut [f32],
) {
    let top_k = chosen.len();
    let mut found = 0;
    for (expert, &logit) in (0_i32..).zip(logits) {
        if found == top_k {
            if logit > weights[top_k - 1] {
                found -= 1;
            } else {
                continue;
            }
        }
        let mut place = found;
        while place > 0 && logit > weights[place - 1] {
            (weights[place], chosen[place]) = (weights[place - 1], chosen[place - 1]);
            place -= 1;
        }
        (weights[place], chosen[place]) = (logit, expert);
        found += 1;
    }
    let largest = weights[0];
    // SAFETY: the features are the caller's.
    unsafe {
        let sum = if normalise {
            0.0
        } else {
            let mut sum = 0.0;
            for part in logits.chunks(LANES) {
                let powers = shifted_exp::<I>(part, largest);
                sum = powers[..part.len()].iter().fold(sum, |sum, x| sum + x);
            }
            sum
        };
        for part in weights.chunks_mut(LANES) {
            let powers = shifted_exp::<I>(part, largest);
            part.copy_from_slice(&powers[..part.len()]);
        }
        let chosen_sum = weights.iter().fold(0.0, |sum, x| sum + x);
        let sum = if normalise { chosen_sum } else { sum };
        for weight in weights {
            *weight /= sum;
        }
    }
}

/// The scores of router logits: a softmax over all, or each one's sigmoid.
///
/// Order of sums: ascending, one after the other.
#[inline(always)]
pub(crate) unsafe fn scores<I: Isa>(logits: &[f32], scoring: Scoring, out: &mut [f32]) {
    // SAFETY: the features are the caller's.
    unsafe {
        if scoring == Scoring::Softmax {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (part, out) in logits.chunks(LANES).zip(out.chunks_mut(LANES)) {
                let powers = shifted_exp::<I>(part, largest);
                out.copy_from_slice(&powers[..out.len()]);
                sum = out.iter().fold(sum, |sum, x| sum + x);
            }
            for score in out {
                *score /= sum;
            }
            return;
        }
        for (part, out) in logits.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let negative = I::sub(I::zero(), I::load_up_to(part.as_ptr(), part.len()));
            let one = I::set(1.0);
            let score = I::div(one, I::add(one, math::exp::<I>(negative)));
            I::store_up_to(out.as_mut_ptr(), score, out.len());
        }
    }
}

/// `e^(x - largest)` of up to 16 values.
#[inline(always)]
unsafe fn shifted_exp<I: Isa>(x: &[f32], largest: f32) -> [f32; LANES] {
    let mut powers = [0.0; LANES];
    // SAFETY: features of the caller; 16 values at `powers`.
    unsafe {
        let x = I::load_up_to(x.as_ptr(), x.len());
        let power = math::exp::<I>(I::sub(x, I::set(largest)));
        I::store(powers.as_mut_ptr(), power);
    }
    if largest.is_nan() {
        powers = [f32::NAN; LANES]; // `exp` clamps it
    }
    powers
}

/// `x *= scale`, in place.
#[inline(always)]
pub(crate) unsafe fn scale<I: Isa>(x: *mut f32, width: usize, scale: f32) {
    // SAFETY: `width` values.
    unsafe {
        let factor = I::set(scale);
        each_vector!(width, |at, count| {
            I::store_up_to(
                x.add(at),
                I::mul(I::load_up_to(x.add(at), count), factor),
                count,
            );
        });
    }
}

/// `x = cap * tanh(x / cap)`, in place.
#[inline(always)]
pub(crate) unsafe fn softcap<I: Isa>(x: *mut f32, width: usize, cap: f32) {
    // SAFETY: `width` values.
    unsafe {
        each_vector!(width, |at, count| {
            let y = I::div(I::load_up_to(x.add(at), count), I::set(cap));
            I::store_up_to(x.add(at), I::mul(math::tanh::<I>(y), I::set(cap)), count);
        });
    }
}

/// Sines and cosines of `position * inv_freq[i]`, both times `scale`.
pub(crate) fn rope_angles(
    position: i32,
    inv_freq: &[f32],
    scale: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the reference multiplies in f32 too"
    )]
    let position = position as f32;
    for ((freq, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
        let (s, c) = math::sin_cos(position * freq);
        *cos = c * scale;
        *sin = s * scale;
    }
}
