//! Every packed layout against its file format and against a plain loop over its codes: a type that is added without a
//! layout, or a layout without kernels, fails here.

use inferlib_weights::{Dtype, dequantize};

use crate::activations::{Activations, pack_row};
use crate::formats::{BLOCK_COLS, Format, Mxfp4, with_layout};
use crate::linear_tests::{matrix, packed, run, types};
use crate::matrix::Matrix;
use crate::packing::Packing;
use crate::precision::Precision;
use crate::random_weights::{Random, tensor_bytes};
use crate::simd::{LANES, Portable};
use crate::tier::Tier;

/// Rows and outputs that stand around the sizes of vectors, tiles and panels.
pub(crate) const ODD_SIZES: [usize; 11] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33];
/// Many tiles and panels, none of them full.
pub(crate) const LARGER_SIZES: [usize; 3] = [63, 100, 129];

/// Widths that the type's blocks allow, among 32 … 544.
fn widths(dtype: Dtype) -> impl Iterator<Item = usize> {
    [32_usize, 64, 96, 256, 288, 512, 512 + 32]
        .into_iter()
        .filter(move |width| width.is_multiple_of(dtype.block_size()))
}

#[test]
fn a_type_without_a_layout_is_a_named_fallback() {
    let fallbacks: Vec<Dtype> = Dtype::ALL
        .into_iter()
        .filter(|&dtype| Packing::of(dtype).is_fallback())
        .collect();
    let expected = [
        Dtype::F8E4M3,
        Dtype::F8E5M2,
        Dtype::I8,
        Dtype::I16,
        Dtype::I32,
        Dtype::I64,
        Dtype::U8,
        Dtype::Bool,
        Dtype::F64,
    ];
    assert_eq!(fallbacks, expected);
}

#[test]
fn a_layout_takes_the_files_own_bytes() {
    for dtype in Dtype::ALL {
        let packing = Packing::of(dtype);
        if packing.is_fallback() {
            continue;
        }
        for width in widths(dtype) {
            let file = width / dtype.block_size() * dtype.block_bytes() * LANES;
            assert_eq!(packing.panel_bytes(width), file, "{dtype}, {width} columns");
        }
    }
}

/// Whatever the bytes: also scales that are zero, negative, subnormal, infinite or NaN, and every exponent.
#[test]
fn any_bytes_dequantize_as_the_file_format_says() {
    for dtype in Dtype::ALL {
        let (rows, width) = (48, 8 * 256);
        let mut random = Random::new(99);
        let count = rows * width / dtype.block_size() * dtype.block_bytes();
        let mut bytes: Vec<u8> = (0..count).map(|_| random.next().to_le_bytes()[3]).collect();
        if dtype == Dtype::Mxfp4 {
            for (i, block) in bytes.chunks_exact_mut(17).enumerate() {
                block[0] = i.to_le_bytes()[0];
            }
        }
        let mut want = vec![0.0; rows * width];
        dequantize(dtype, &bytes, &mut want).expect("whole blocks");
        let executor = packed(dtype, [rows, width], &bytes, None);
        let mut row = vec![0.0; width];
        for r in 0..rows {
            matrix(&executor).row(r, &mut row);
            for (k, (got, want)) in row.iter().zip(&want[r * width..]).enumerate() {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{dtype} row {r} column {k}: {got} is not {want}");
            }
        }
    }
}

/// Every combination of odd sizes, and a few larger ones: columns of more than one chunk, so that sums are resumed.
fn cases(dtype: Dtype) -> impl Iterator<Item = ([usize; 2], &'static [usize])> {
    let odd = widths(dtype).flat_map(|width| ODD_SIZES.map(|outputs| [outputs, width]));
    let wide = if dtype.block_size() == 256 {
        1280
    } else {
        1632
    };
    let larger = LARGER_SIZES.map(|outputs| [outputs, wide]);
    let odd = odd.map(|shape| (shape, &ODD_SIZES[..]));
    odd.chain(larger.map(|shape| (shape, &LARGER_SIZES[..])))
}

/// One row's activations as the kernels read them.
struct Quantized {
    /// `[K]`.
    q: Vec<i32>,
    /// `[K / 32]`.
    scale: Vec<f32>,
}

fn quantized(matrix: &Matrix, x: &[f32], precision: Precision) -> Quantized {
    let need = matrix.need(precision);
    let mut activations = Activations::new(1, x.len(), need);
    let view = activations.view();
    // SAFETY: one row, room for one.
    unsafe { pack_row::<Portable>(x.as_ptr(), x.len(), 0, 1, need, view) };
    let bytes = |words: &[i32]| -> Vec<i32> {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| i32::from(byte.cast_signed()))
            .collect()
    };
    let (upper, lower) = (bytes(&activations.int8), bytes(&activations.low));
    let two_planes = |(upper, lower): (&i32, &i32)| 256 * upper + lower;
    Quantized {
        q: match precision {
            Precision::Balanced => upper.iter().zip(&lower).map(two_planes).collect(),
            _ => upper,
        },
        scale: activations.scale,
    }
}

/// The documented arithmetic as a plain loop: per scale an exact sum of `(code - ZERO) * q`, then one fma with
/// `scale * sa`; with minima one more, with `sa * Σ q`.
#[expect(clippy::cast_precision_loss, reason = "as the kernels: rounded once")]
fn plain<W: Format>(matrix: &Matrix, x: &Quantized, out: usize) -> f32 {
    let segment = &matrix.segments[0];
    let (panel, row) = (segment.panel(out / LANES), out % LANES);
    let second = segment.second_panel(out / LANES);
    let mut acc = 0.0_f32;
    for (b, sa) in x.scale.iter().enumerate() {
        let q = &x.q[b * BLOCK_COLS..][..BLOCK_COLS];
        // SAFETY: the panel holds block `b`.
        unsafe {
            let (sup, blk) = (panel.add(b / W::BLOCKS * W::BYTES), b % W::BLOCKS);
            let second = second.wrapping_add(b * W::SECOND_BYTES);
            let run = if W::HALVES { 16 } else { 32 };
            for from in (0..BLOCK_COLS).step_by(run) {
                let sum: i32 = (from..from + run)
                    .map(|col| {
                        (i32::from(W::code_at(sup, second, blk, row, col)) - W::ZERO) * q[col]
                    })
                    .sum();
                acc = (sum as f32).mul_add(W::scale_at(sup, blk, row, from) * sa, acc);
                if W::HAS_MIN {
                    let sum: i32 = q[from..from + run].iter().sum();
                    acc = W::min_at(sup, blk, row, from).mul_add(sa * sum as f32, acc);
                }
            }
        }
    }
    acc
}

/// `[rows][outputs]` by the documented arithmetic; in exact precision one fma chain over the weights.
fn plain_rows(matrix: &Matrix, x: &[f32], precision: Precision) -> Vec<Vec<f32>> {
    let (outputs, width) = (matrix.out_features, matrix.in_features);
    let mut weights = vec![0.0; outputs * width];
    for (out, weights) in weights.chunks_exact_mut(width).enumerate() {
        matrix.row(out, weights);
    }
    let chain = |weights: &[f32], x: &[f32]| {
        let pairs = weights.iter().zip(x);
        pairs.fold(0.0_f32, |acc, (w, x)| w.mul_add(*x, acc))
    };
    let layout = matrix.segments[0].packing;
    let row = |x: &[f32]| {
        if precision == Precision::Exact {
            let weights = weights.chunks_exact(width);
            return weights.map(|weights| chain(weights, x)).collect();
        }
        let x = quantized(matrix, x, precision);
        (0..outputs)
            .map(|out| with_layout!(layout, W => plain::<W>(matrix, &x, out), float => 0.0))
            .collect()
    };
    x.chunks_exact(width).map(row).collect()
}

#[test]
fn every_layout_and_tier_computes_the_documented_sums_at_odd_sizes() {
    for dtype in types() {
        if Packing::of(dtype).element().is_some() {
            continue;
        }
        for ([outputs, width], row_counts) in cases(dtype) {
            let mut random = Random::new((outputs * width) as u64);
            let bytes = tensor_bytes(dtype, outputs * width, &mut random);
            let executor = packed(dtype, [outputs, width], &bytes, None);
            let matrix = matrix(&executor);
            let most = row_counts[row_counts.len() - 1];
            let x: Vec<f32> = (0..most * width).map(|_| random.float() * 3.0).collect();
            for precision in [Precision::Fast, Precision::Balanced, Precision::Exact] {
                let want = plain_rows(matrix, &x, precision);
                for tier in Tier::available() {
                    for &rows in row_counts {
                        let got = run(tier, matrix, &x, rows, precision, None);
                        for (row, got) in got.chunks_exact(outputs).enumerate() {
                            let same = got
                                .iter()
                                .zip(&want[row])
                                .all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(
                                same,
                                "{dtype} {tier:?} {precision:?}, {outputs} x {width}: row {row} of {rows} is {got:?}, not {:?}",
                                want[row]
                            );
                        }
                    }
                }
            }
        }
    }
}

/// One exponent per output, subnormal and overflowing ones too.
#[test]
fn every_exponent_of_mxfp4_gives_the_same_bits_in_every_tier() {
    let (outputs, width) = (256, 32);
    let mut random = Random::new(17);
    let mut bytes = tensor_bytes(Dtype::Mxfp4, outputs * width, &mut random);
    for (exponent, block) in (0..=255).zip(bytes.chunks_exact_mut(17)) {
        block[0] = exponent;
    }
    let executor = packed(Dtype::Mxfp4, [outputs, width], &bytes, None);
    let matrix = matrix(&executor);
    let x: Vec<f32> = (0..width).map(|_| random.float()).collect();
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    let quantized = quantized(matrix, &x, Precision::Fast);
    let mut weights = vec![0.0; width];
    for tier in Tier::available() {
        let fast = run(tier, matrix, &x, 1, Precision::Fast, None);
        let exact = run(tier, matrix, &x, 1, Precision::Exact, None);
        for out in 0..outputs {
            let want = plain::<Mxfp4>(matrix, &quantized, out);
            assert!(
                same(fast[out], want),
                "{tier:?}, exponent {out}: {} {want}",
                fast[out]
            );
            matrix.row(out, &mut weights);
            let want = weights
                .iter()
                .zip(&x)
                .fold(0.0_f32, |acc, (w, x)| w.mul_add(*x, acc));
            assert!(
                same(exact[out], want),
                "{tier:?}, exponent {out}: {} {want}",
                exact[out]
            );
        }
        assert!(exact[0] != 0.0 && exact[0].abs() < 100.0 * f32::MIN_POSITIVE);
    }
}

/// Float panels have no blocks: any width, and lines of two columns that the last may not fill.
#[test]
fn every_float_panel_is_one_fma_chain_at_odd_sizes() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E5M2] {
        for width in [1, 2, 3, 31, 33, 96, 288, 1088] {
            for outputs in ODD_SIZES {
                let mut random = Random::new((outputs * width) as u64);
                let bytes = tensor_bytes(dtype, outputs * width, &mut random);
                let mut weights = vec![0.0; outputs * width];
                dequantize(dtype, &bytes, &mut weights).expect("whole elements");
                let executor = packed(dtype, [outputs, width], &bytes, None);
                let x: Vec<f32> = (0..33 * width).map(|_| random.float()).collect();
                let bias: Vec<f32> = (0..outputs).map(|_| random.float()).collect();
                let want: Vec<f32> = (0..33 * outputs)
                    .map(|i| {
                        let (row, out) = (i / outputs, i % outputs);
                        let weights = weights[out * width..][..width].iter();
                        let chain = weights
                            .zip(&x[row * width..])
                            .fold(0.0_f32, |acc, (w, x)| w.mul_add(*x, acc));
                        chain + bias[out]
                    })
                    .collect();
                for tier in Tier::available() {
                    for rows in ODD_SIZES {
                        let (matrix, bias) = (matrix(&executor), Some(&bias[..]));
                        let got = run(tier, matrix, &x, rows, Precision::Fast, bias);
                        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                            assert_eq!(
                                got.to_bits(),
                                want.to_bits(),
                                "{dtype} {tier:?}, {outputs} x {width}: output {i} of {rows} rows"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn weights_tell_how_they_are_held() {
    let (outputs, width) = (20, 256);
    for (dtype, held_as, fallback, bytes) in [
        (Dtype::Q2K, Packing::Q2K, false, 32 * 84),
        (Dtype::F16, Packing::F16, false, 32 * 512),
        (Dtype::F8E4M3, Packing::DequantizedF16, true, 32 * 512),
        (Dtype::I64, Packing::DequantizedF32, true, 32 * 1024),
    ] {
        let file = tensor_bytes(dtype, outputs * width, &mut Random::new(1));
        let executor = packed(dtype, [outputs, width], &file, None);
        let held = executor.held_weights();
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].dtype, held[0].packing), (dtype, held_as));
        assert_eq!(held[0].packing.is_fallback(), fallback);
        // 20 rows are two panels of 16.
        assert_eq!((held[0].bytes, held[0].file_bytes), (bytes, file.len()));
        assert_eq!(executor.weight_bytes_by_type(), [(dtype, bytes)]);
    }
}
