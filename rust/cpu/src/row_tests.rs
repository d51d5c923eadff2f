//! Every kernel of the table that works on one row, on every tier, against a plain loop: bit for bit, around the sizes of
//! vectors and blocks, and without a write beyond its row. (Products of weights: `layout_tests`, `fused_tests`.)

use inferlib_program::program::{Activation, Scoring};
use inferlib_program::{LogprobsMode, SamplingParams};

use crate::activations::{Activations, Need, WORDS, tile_of, zero_slot};
use crate::formats::BLOCK_COLS;
use crate::kernels::Kernels;
use crate::layout_tests::{LARGER_SIZES, ODD_SIZES};
use crate::math;
use crate::random_weights::Random;
use crate::sampling::Sampler;
use crate::sampling::tests::{bell, row as sampled_row};
use crate::simd::{LANES, Portable};
use crate::tier::Tier;

/// What stands behind every output and must stay.
const BEYOND: f32 = -777.0;

fn sizes() -> impl Iterator<Item = usize> {
    ODD_SIZES.into_iter().chain(LARGER_SIZES)
}

/// Numbers of several magnitudes.
fn values(count: usize, random: &mut Random) -> Vec<f32> {
    let sizes = [1.0, 8.0, 1e-3, 100.0];
    (0..count)
        .map(|i| random.float() * sizes[i / 5 % sizes.len()])
        .collect()
}

#[track_caller]
fn same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(equal, "{what}, value {i}: {got} instead of {want}");
    }
}

/// `kernel` fills the outputs; what it should have filled in is `want`.
#[track_caller]
fn check(want: &[f32], what: &str, kernel: impl FnOnce(*mut f32)) {
    check_in_place(&vec![f32::NAN; want.len()], want, what, kernel);
}

/// `kernel` turns `before` into `want`.
#[track_caller]
fn check_in_place(before: &[f32], want: &[f32], what: &str, kernel: impl FnOnce(*mut f32)) {
    let mut memory = before.to_vec();
    memory.resize(before.len() + LANES, BEYOND);
    kernel(memory.as_mut_ptr());
    let (got, beyond) = memory.split_at(before.len());
    same(got, want, what);
    same(beyond, &[BEYOND; LANES], what);
}

/// The fixed tree of a sum over lanes.
fn tree(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

fn of_lane(x: f32, f: unsafe fn([f32; LANES]) -> [f32; LANES]) -> f32 {
    // SAFETY: `Portable` needs no features.
    unsafe { f([x; LANES])[0] }
}

fn activated(x: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Silu => of_lane(x, math::silu::<Portable>),
        Activation::GeluTanh => of_lane(x, math::gelu_tanh::<Portable>),
        Activation::Gelu => of_lane(x, math::gelu::<Portable>),
        Activation::Relu if x.is_nan() => x,
        Activation::Relu => x.max(0.0),
        Activation::Tanh => of_lane(x, math::tanh::<Portable>),
        Activation::ClampedSwiglu => {
            let gate = if x > 7.0 { 7.0 } else { x };
            gate / (1.0 + of_lane(-1.702 * gate, math::exp::<Portable>))
        }
    }
}

fn gated(gate: f32, up: f32, activation: Activation) -> f32 {
    let gate = activated(gate, activation);
    if activation == Activation::ClampedSwiglu {
        return gate.mul_add(up.clamp(-7.0, 7.0), gate);
    }
    gate * up
}

#[test]
fn norms_are_the_documented_sum_of_squares() {
    let mut random = Random::new(31);
    for group in sizes() {
        for groups in [1, 3] {
            let (x, weight) = (
                values(groups * group, &mut random),
                values(group, &mut random),
            );
            let eps = 1e-5;
            let want: Vec<f32> = x
                .chunks_exact(group)
                .flat_map(|x| {
                    let mut squares = [0.0; LANES];
                    for (i, v) in x.iter().enumerate() {
                        squares[i % LANES] = v.mul_add(*v, squares[i % LANES]);
                    }
                    #[expect(clippy::cast_precision_loss, reason = "small")]
                    let mean = tree(squares) / group as f32;
                    let inverse = 1.0 / (mean + eps).sqrt();
                    let weighted = x.iter().zip(&weight).map(move |(v, w)| v * inverse * w);
                    weighted.collect::<Vec<_>>()
                })
                .collect();
            for tier in Tier::available() {
                let (kernel, len) = (Kernels::of(tier).rms_norm, x.len());
                let what = format!("rms_norm {tier:?}, {groups} x {group}");
                // SAFETY: `len` values each, a multiple of the group; the tier is available.
                check(&want, &what, |out| unsafe {
                    kernel(x.as_ptr(), len, &weight, eps, out);
                });
                // SAFETY: as above; in place.
                check_in_place(&x, &want, &what, |x| unsafe {
                    kernel(x, len, &weight, eps, x);
                });
            }
        }
    }
}

#[test]
fn layer_norms_are_the_documented_sums_of_deviations() {
    let mut random = Random::new(35);
    for width in sizes() {
        let x: Vec<f32> = values(width, &mut random).iter().map(|x| x + 3.0).collect();
        let (weight, bias) = (values(width, &mut random), values(width, &mut random));
        let eps = 1e-5;
        let mut sums = [0.0; LANES];
        for (i, v) in x.iter().enumerate() {
            sums[i % LANES] += v;
        }
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let count = width as f32;
        let mean = tree(sums) / count;
        let mut squares = [0.0; LANES];
        for (i, v) in x.iter().enumerate() {
            squares[i % LANES] = (v - mean).mul_add(v - mean, squares[i % LANES]);
        }
        let inverse = 1.0 / (tree(squares) / count + eps).sqrt();
        let normed: Vec<f32> = x.iter().map(|v| (v - mean) * inverse).collect();
        for bias in [None, Some(&bias[..])] {
            let of = |i: usize| match bias {
                Some(bias) => normed[i].mul_add(weight[i], bias[i]),
                None => normed[i] * weight[i],
            };
            let want: Vec<f32> = (0..width).map(of).collect();
            for tier in Tier::available() {
                let kernel = Kernels::of(tier).layer_norm;
                let what = format!("layer_norm {tier:?}, {width}, bias {}", bias.is_some());
                // SAFETY: `width` values each; the tier is available.
                check(&want, &what, |out| unsafe {
                    kernel(x.as_ptr(), &weight, bias, eps, out);
                });
                // SAFETY: as above; in place.
                check_in_place(&x, &want, &what, |x| unsafe {
                    kernel(x, &weight, bias, eps, x);
                });
            }
        }
    }
}

#[test]
fn rows_go_to_the_experts_of_the_largest_logits_and_are_weighed_by_their_softmax() {
    let mut random = Random::new(36);
    for experts in sizes() {
        let mut logits = values(experts, &mut random);
        for i in (3..experts).step_by(4) {
            logits[i] = logits[i - 1]; // ties
        }
        for top_k in [1, 2, 3, 8, 17, experts] {
            if top_k > experts {
                continue;
            }
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            order.truncate(top_k);
            let largest = logits[order[0]];
            let power = |x: f32| of_lane(x - largest, math::exp::<Portable>);
            let chosen: Vec<f32> = order.iter().map(|&expert| power(logits[expert])).collect();
            for normalise in [true, false] {
                let add = |sum: f32, x: f32| sum + x;
                let sum = if normalise {
                    chosen.iter().copied().fold(0.0, add)
                } else {
                    logits.iter().map(|&x| power(x)).fold(0.0, add)
                };
                let want: Vec<f32> = chosen.iter().map(|x| x / sum).collect();
                for tier in Tier::available() {
                    let what = format!("route {tier:?}, {top_k} of {experts}");
                    let (mut ids, mut weights) = (vec![-1; top_k], vec![f32::NAN; top_k]);
                    // SAFETY: the tier is available.
                    unsafe {
                        (Kernels::of(tier).route)(&logits, normalise, &mut ids, &mut weights);
                    }
                    same(&weights, &want, &what);
                    let ids: Vec<usize> = ids
                        .iter()
                        .map(|&id| usize::try_from(id).expect("an expert"))
                        .collect();
                    assert_eq!(ids, order, "{what}");
                }
            }
        }
    }
}

#[test]
fn scores_are_a_softmax_or_each_logits_sigmoid() {
    let mut random = Random::new(37);
    for experts in sizes() {
        let logits = values(experts, &mut random);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let power = |x: f32| of_lane(x, math::exp::<Portable>);
        let sum = logits.iter().fold(0.0, |sum, x| sum + power(x - largest));
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            let score = |x: f32| match scoring {
                Scoring::Softmax => power(x - largest) / sum,
                Scoring::Sigmoid => 1.0 / (1.0 + power(0.0 - x)),
            };
            let want: Vec<f32> = logits.iter().map(|&x| score(x)).collect();
            for tier in Tier::available() {
                let mut found = vec![f32::NAN; experts];
                // SAFETY: the tier is available.
                unsafe { (Kernels::of(tier).scores)(&logits, scoring, &mut found) };
                same(&found, &want, &format!("{scoring:?} {tier:?} of {experts}"));
            }
        }
    }
}

#[test]
fn a_nan_among_the_logits_is_no_reason_to_leave_the_experts() {
    for place in 0..5 {
        for top_k in 1..=5 {
            let mut logits = [0.5, -1.0, 2.0, 0.0, 1.0];
            logits[place] = f32::NAN;
            let (mut ids, mut weights) = (vec![-1; top_k], vec![0.0; top_k]);
            // SAFETY: the scalar tier is always available.
            unsafe {
                (Kernels::of(Tier::Scalar).route)(&logits, true, &mut ids, &mut weights);
            }
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), top_k);
            assert!(ids.iter().all(|id| (0..5).contains(id)));
        }
    }
}

#[test]
fn rotations_are_of_pairs_and_leave_the_rest_of_a_head() {
    let mut random = Random::new(32);
    for half in sizes() {
        for (heads, rest) in [(1, 0), (3, 5)] {
            let head_dim = 2 * half + rest;
            let x = values(heads * head_dim, &mut random);
            let (cos, sin) = (values(half, &mut random), values(half, &mut random));
            let mut want = x.clone();
            for head in want.chunks_exact_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * cos[i] - b * sin[i];
                    head[i + half] = a.mul_add(sin[i], b * cos[i]);
                }
            }
            for tier in Tier::available() {
                let kernel = Kernels::of(tier).rope;
                let what = format!("rope {tier:?}, {heads} heads of {head_dim}, {half} pairs");
                // SAFETY: that many values; the tier is available.
                check_in_place(&x, &want, &what, |x| unsafe {
                    kernel(x, heads, head_dim, half, cos.as_ptr(), sin.as_ptr());
                });
            }
        }
    }
}

#[test]
fn activations_sums_scales_and_soft_caps_are_those_of_each_value() {
    let mut random = Random::new(33);
    for width in sizes() {
        let (a, mut b) = (values(width, &mut random), values(width, &mut random));
        b[width / 2] = f32::NAN;
        let both: Vec<f32> = b.iter().chain(&a).copied().collect();
        let pairs = || a.iter().zip(&b);
        let sum: Vec<f32> = pairs().map(|(a, b)| a + b).collect();
        let scaled: Vec<f32> = b.iter().map(|b| b * 0.37).collect();
        let cap = |x: &f32| of_lane(x / 30.0, math::tanh::<Portable>) * 30.0;
        let capped: Vec<f32> = b.iter().map(cap).collect();
        for tier in Tier::available() {
            let (kernels, what) = (Kernels::of(tier), format!("{tier:?}, width {width}"));
            // SAFETY: `width` values each; the tier is available.
            check(&sum, &what, |out| unsafe {
                (kernels.add)(a.as_ptr(), b.as_ptr(), width, out);
            });
            // SAFETY: as above; in place.
            check_in_place(&a, &sum, &what, |a| unsafe {
                (kernels.add)(a, b.as_ptr(), width, a);
            });
            // SAFETY: as above.
            check_in_place(&b, &scaled, &what, |x| unsafe {
                (kernels.scale)(x, width, 0.37);
            });
            // SAFETY: as above.
            check_in_place(&b, &capped, &what, |x| unsafe {
                (kernels.softcap)(x, width, 30.0);
            });
            let shared: Vec<f32> = pairs().map(|(a, b)| b.mul_add(0.37, *a)).collect();
            // SAFETY: as above.
            check_in_place(&a, &shared, &what, |out| unsafe {
                (kernels.add_scaled)(b.as_ptr(), width, 0.37, out);
            });
            for activation in Activation::ALL {
                if activation != Activation::ClampedSwiglu {
                    let want: Vec<f32> = b.iter().map(|x| activated(*x, activation)).collect();
                    // SAFETY: as above.
                    check_in_place(&b, &want, &what, |x| unsafe {
                        (kernels.activation)(x, width, activation, x);
                    });
                }
                let want: Vec<f32> = pairs()
                    .map(|(up, gate)| gated(*gate, *up, activation))
                    .collect();
                // SAFETY: as above, twice the width at `both`.
                check(&want, &what, |out| unsafe {
                    (kernels.act_and_mul)(both.as_ptr(), width, activation, out);
                });
            }
        }
    }
}

/// A row of quantized activations, by the documented arithmetic.
struct PlainRow {
    /// `[K / 32][32]`.
    q: Vec<[i32; BLOCK_COLS]>,
    /// `[K / 32]`.
    scale: Vec<f32>,
}

impl PlainRow {
    fn new(x: &[f32], limit: f32) -> Self {
        let is_sound = x.iter().all(|x| x.is_finite());
        let (blocks, _) = x.as_chunks::<BLOCK_COLS>();
        let largest = |block: &[f32; BLOCK_COLS]| block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let scale = |block| {
            if is_sound {
                largest(block) / limit
            } else {
                f32::NAN
            }
        };
        let code = |block: &[f32; BLOCK_COLS]| {
            let inverse = (limit / largest(block)).min(f32::MAX);
            #[expect(clippy::cast_possible_truncation, reason = "rounded, at most 32512")]
            block.map(|x| (x * inverse).round_ties_even() as i32)
        };
        Self {
            q: blocks.iter().map(code).collect(),
            scale: blocks.iter().map(scale).collect(),
        }
    }

    /// Per block the sums of the codes at `from`, `count` each.
    fn sums(&self, from: usize, count: usize) -> Vec<i32> {
        let sum = |q: &[i32; BLOCK_COLS]| q[from..from + count].iter().sum();
        self.q.iter().map(sum).collect()
    }
}

/// Values at `[first * per_row ..]` in `[per_row][size]`, those of one row of its tile.
fn of_row<T: Copy>(tiled: &[T], row: usize, rows: usize, per_row: usize) -> Vec<T> {
    let (first, size) = tile_of(row, rows);
    let at = |k: usize| tiled[first * per_row + k * size + row - first];
    (0..per_row).map(at).collect()
}

/// Words at `[first * blocks * 8 ..]` in `[blocks][size][8]`, those of one row of its tile.
fn words_of_row(tiled: &[i32], row: usize, rows: usize, blocks: usize) -> Vec<i32> {
    let (first, size) = tile_of(row, rows);
    let block = |b: usize| &tiled[(first * blocks + b * size + row - first) * WORDS..][..WORDS];
    (0..blocks).flat_map(block).copied().collect()
}

fn signed_bytes(words: Vec<i32>) -> Vec<i32> {
    let bytes = words.into_iter().flat_map(i32::to_le_bytes);
    bytes.map(|byte| i32::from(byte.cast_signed())).collect()
}

/// Blocks of every magnitude that a float has, of zeros and of ties; some rows hold an infinity or a NaN.
fn inputs(rows: usize, width: usize, random: &mut Random) -> Vec<f32> {
    let mut x = Vec::with_capacity(rows * width);
    for block in 0..rows * width / BLOCK_COLS {
        let magnitude = [1.0, 1e-44, 0.0, 3e38, 1e-3, 40.0, 1e-38, 20_000.0][block % 8];
        let first = x.len();
        x.extend((0..BLOCK_COLS).map(|_| random.float() * magnitude));
        // With such a largest value the codes are the values: halves are ties, with one plane and with two.
        let largest = match block % 8 {
            5 => 127.0,
            7 => 32_512.0,
            _ => continue,
        };
        x[first..].iter_mut().for_each(|x| *x = x.round() + 0.5);
        x[first + 7] = -largest;
    }
    for row in (3..rows).step_by(5) {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][row % 3];
        x[row * width + row * 11 % width] = bad;
    }
    x
}

#[test]
fn quantized_rows_have_the_documented_codes_scales_and_sums() {
    let mut random = Random::new(34);
    for width in [32, 64, 96, 288, 512, 544, 1120] {
        for rows in sizes() {
            let x = inputs(rows, width, &mut random);
            for two_planes in [false, true] {
                let need = Need {
                    float: true,
                    int8: true,
                    two_planes,
                    zeros: 15,
                    scaled_sum: true,
                    whole_rows: false,
                };
                let limit = if two_planes { 32_512.0 } else { 127.0 };
                let plain: Vec<PlainRow> = x
                    .chunks_exact(width)
                    .map(|x| PlainRow::new(x, limit))
                    .collect();
                for tier in Tier::available() {
                    let mut packed = Activations::new(rows, width, need);
                    let view = packed.view();
                    for row in (0..rows).rev() {
                        // SAFETY: room for `rows` rows; the tier is available.
                        unsafe {
                            let from = x[row * width..].as_ptr();
                            (Kernels::of(tier).pack_row)(from, width, row, rows, need, view);
                        }
                    }
                    for (row, plain) in plain.iter().enumerate() {
                        let what = format!(
                            "{tier:?}, two planes {two_planes}, row {row} of {rows}, width {width}"
                        );
                        check_row(&packed, plain, (row, rows, width), two_planes, &what);
                        let x = &x[row * width..][..width];
                        same(&of_row(&packed.float, row, rows, width), x, &what);
                    }
                }
            }
        }
    }
}

fn check_row(
    packed: &Activations,
    plain: &PlainRow,
    (row, rows, width): (usize, usize, usize),
    two_planes: bool,
    what: &str,
) {
    let blocks = width / BLOCK_COLS;
    let scale = of_row(&packed.scale, row, rows, blocks);
    same(&scale, &plain.scale, what);
    if plain.scale[0].is_nan() {
        // Codes of a poisoned row are of no meaning.
        return;
    }
    let upper = signed_bytes(words_of_row(&packed.int8, row, rows, blocks));
    let codes: Vec<i32> = plain.q.iter().flatten().copied().collect();
    if two_planes {
        let lower = signed_bytes(words_of_row(&packed.low, row, rows, blocks));
        let whole: Vec<i32> = upper.iter().zip(&lower).map(|(u, l)| 256 * u + l).collect();
        assert_eq!(whole, codes, "{what}");
        assert!(upper.iter().all(|u| (-127..=127).contains(u)), "{what}");
    } else {
        assert_eq!(upper, codes, "{what}");
    }
    let sums = plain.sums(0, BLOCK_COLS);
    for zero in [8, 16, 128] {
        let slot = zero_slot(zero).expect("it has one");
        let start = of_row(&packed.start[slot], row, rows, blocks);
        let want: Vec<i32> = sums.iter().map(|sum| -zero * sum).collect();
        assert_eq!(start, want, "{what}, zero point {zero}");
    }
    let halves = of_row(&packed.start[3], row, rows, 2 * blocks);
    let want: Vec<i32> = plain
        .sums(0, 16)
        .iter()
        .zip(plain.sums(16, 16))
        .flat_map(|(first, second)| [-32 * first, -32 * second])
        .collect();
    assert_eq!(halves, want, "{what}");
    #[expect(clippy::cast_precision_loss, reason = "below 2^21")]
    let scaled: Vec<f32> = sums
        .iter()
        .zip(&plain.scale)
        .map(|(sum, scale)| scale * *sum as f32)
        .collect();
    let got = of_row(&packed.scaled_sum, row, rows, blocks);
    same(&got, &scaled, what);
}

/// The sampler is plain Rust, compared with a float64 oracle; each tier's copy of it must be that sampler.
#[test]
fn every_tier_draws_and_reports_the_same_bits() {
    let truncations = [
        (None, 1.0, 0.0),
        (Some(1), 1.0, 0.0),
        (Some(20), 0.7, 0.01),
        (None, 0.9, 0.0),
        (None, 1.0, 0.02),
        (Some(300), 1.0, 0.0),
    ];
    for vocab_size in sizes().chain([255, 256, 257, 4097, 32_769]) {
        let logits = bell(vocab_size, 3.0, 8);
        for (i, (top_k, top_p, min_p)) in truncations.into_iter().enumerate() {
            for logprobs_mode in [LogprobsMode::Raw, LogprobsMode::Processed] {
                let row = sampled_row(SamplingParams {
                    temperature: [0.0, 0.8][usize::from(i > 0)],
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty: [1.0, 1.3][i % 2],
                    logprobs: [None, Some(5)][usize::from(i != 2)],
                    logprobs_mode,
                    ..SamplingParams::default()
                });
                let want = Sampler::new(vocab_size).run(&mut logits.clone(), &row, &[0, 3, 5]);
                for tier in Tier::available() {
                    let (mut sampler, mut got) = (Sampler::new(vocab_size), None);
                    let sample = Kernels::of(tier).sample;
                    // SAFETY: the tier is available.
                    unsafe {
                        sample(
                            &mut sampler,
                            &mut logits.clone(),
                            &row,
                            &[0, 3, 5],
                            &mut got,
                        );
                    };
                    assert_eq!(
                        got.as_ref(),
                        Some(&want),
                        "{tier:?}, {vocab_size}, {:?}",
                        row.params
                    );
                }
            }
        }
    }
}
