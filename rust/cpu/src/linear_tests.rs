//! Every packed layout against the file format's dequantization, and every tier of the linear kernels against a plain
//! loop over the packed codes: bit for bit, at odd sizes, for every row count and split.

use std::sync::Arc;

use half::f16;
use inferlib_program::program::{Activation, Program, WeightDecl};
use inferlib_weights::{Dtype, Tensor, dequantize};

use crate::activations::{Activations, Need, TILE_SIZES, pack_row};
use crate::executor::{CpuExecutor, Options, Weight};
use crate::kernels::Kernels;
use crate::linear::{LinearTask, PanelScratch, linear, rows_of_part};
use crate::matrix::{Matrix, Segment};
use crate::packed_image::{MatrixSource, Part};
use crate::packing::Packing;
use crate::precision::Precision;
use crate::random_weights::{Random, bytes_of_row_scales, tensor_bytes};
use crate::simd::Portable;
use crate::tier::Tier;

/// Every type with a layout of its own, and one type of each fallback.
pub(crate) fn types() -> impl Iterator<Item = Dtype> {
    let fallbacks = [Dtype::F8E5M2, Dtype::I16];
    Dtype::ALL
        .into_iter()
        .filter(move |&dtype| fallbacks.contains(&dtype) || !Packing::of(dtype).is_fallback())
}

fn program(rows: usize, columns: usize) -> Arc<Program> {
    Arc::new(Program {
        weights: vec![WeightDecl {
            name: "w".to_owned(),
            shape: vec![rows, columns],
        }],
        vocab_size: 1,
        ..Program::default()
    })
}

/// Without its matrix.
fn executor(rows: usize, width: usize) -> CpuExecutor {
    let options = Options {
        precision: Precision::Fast,
        kv_cache_dtype: None,
        threads: Some(2),
        tier: None,
        max_num_batched_tokens: 64,
        num_blocks: Vec::new(),
    };
    CpuExecutor::new(program(rows, width), &options).expect("options are valid")
}

/// Pack a tensor, rows in `order` if given.
pub(crate) fn packed(
    dtype: Dtype,
    shape: [usize; 2],
    bytes: &[u8],
    order: Option<&[i32]>,
) -> CpuExecutor {
    packed_parts(&[(dtype, shape[0], bytes)], shape[1], order)
}

/// Pack tensors of `width` columns (type, rows, bytes) as one matrix, each one's rows in `order` if given.
pub(crate) fn packed_parts(
    parts: &[(Dtype, usize, &[u8])],
    width: usize,
    order: Option<&[i32]>,
) -> CpuExecutor {
    let mut executor = executor(parts.iter().map(|&(_, rows, _)| rows).sum(), width);
    let shapes: Vec<[usize; 2]> = parts.iter().map(|&(_, rows, _)| [rows, width]).collect();
    let part = |(&(dtype, _, bytes), shape)| Part {
        tensor: Tensor {
            name: "w",
            dtype,
            shape,
            bytes,
        },
        row_order: order,
    };
    let parts: Vec<Part<'_>> = parts
        .iter()
        .zip(shapes.iter().map(|shape| &shape[..]))
        .map(part)
        .collect();
    executor
        .load_matrix("w", &parts)
        .expect("the tensors are valid");
    executor
}

pub(crate) fn matrix(executor: &CpuExecutor) -> &Matrix {
    match executor.weights[0].as_ref().expect("loaded") {
        Weight::Matrix(matrix) => matrix,
        Weight::Vector(_) => panic!("a matrix was loaded"),
    }
}

fn width_of(dtype: Dtype) -> usize {
    if dtype.block_size() == 256 { 512 } else { 96 }
}

#[test]
fn packed_rows_equal_the_file_formats_dequantization() {
    for dtype in types() {
        for rows in [1, 15, 16, 17, 33, 160] {
            let mut random = Random::new(rows as u64);
            let width = width_of(dtype);
            let bytes = tensor_bytes(dtype, rows * width, &mut random);
            let mut want = vec![0.0; rows * width];
            dequantize(dtype, &bytes, &mut want).expect("valid blocks");
            let reversed: Vec<i32> = (0..i32::try_from(rows).expect("small")).rev().collect();
            for order in [None, Some(&reversed[..])] {
                let executor = packed(dtype, [rows, width], &bytes, order);
                let mut row = vec![0.0; width];
                for r in 0..rows {
                    matrix(&executor).row(r, &mut row);
                    let source = if order.is_some() { rows - 1 - r } else { r };
                    let want = &want[source * width..][..width];
                    let same = row
                        .iter()
                        .zip(want)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{dtype:?} row {r} of {rows}");
                }
            }
        }
    }
}

/// Run one tier over all panels.
pub(crate) fn run(
    tier: Tier,
    matrix: &Matrix,
    x: &[f32],
    rows: usize,
    precision: Precision,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    run_shared(tier, matrix, x, rows, precision, (bias, None), 1)
}

/// A matrix of random `Q8_0` whose rows have one scale each.
pub(crate) struct ByRows {
    /// Packed as such.
    pub(crate) executor: CpuExecutor,
    codes: Vec<i8>,
    /// Of the rows.
    scales: Vec<f32>,
}

/// `parts` times the same `rows` rows.
pub(crate) fn packed_by_rows(parts: usize, rows: usize, width: usize) -> ByRows {
    let mut random = Random::new((rows + width) as u64);
    let bytes = bytes_of_row_scales(rows, width, &mut random);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in bytes.chunks_exact(width / 32 * 34) {
        scales.push(f16::from_le_bytes([row[0], row[1]]).to_f32());
        for block in row.chunks_exact(34) {
            codes.extend(block[2..].iter().map(|code| code.cast_signed()));
        }
    }
    let shape = [rows, width];
    let part = Part {
        tensor: Tensor {
            name: "w",
            dtype: Dtype::Q8_0,
            shape: &shape,
            bytes: &bytes,
        },
        row_order: None,
    };
    let mut executor = executor(parts * rows, width);
    let source = MatrixSource {
        name: "w",
        parts: vec![part; parts],
        row_scales: true,
    };
    executor.load_source(source).expect("the tensors are valid");
    let mut segments = matrix(&executor).segments.iter();
    assert!(segments.all(|segment| segment.packing == Packing::Q8Rows));
    ByRows {
        executor,
        codes,
        scales,
    }
}

/// The same matrix with each segment in memory of exactly its size: a sanitizer sees what is read beyond.
fn in_exact_memory(matrix: &Matrix) -> (Matrix, Vec<Vec<u8>>) {
    let mut memory = Vec::new();
    let mut copied = |from: *const u8, bytes: usize| {
        if bytes == 0 {
            return std::ptr::null_mut();
        }
        // SAFETY: the segment's panels.
        let mut panels = unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec();
        let data = panels.as_mut_ptr();
        memory.push(panels);
        data
    };
    let copied = |segment: &Segment| Segment {
        data: copied(segment.data, segment.num_panels() * segment.panel_bytes),
        second: copied(segment.second, segment.num_panels() * segment.second_bytes),
        ..*segment
    };
    let copy = Matrix {
        segments: matrix.segments.iter().map(copied).collect(),
        ..*matrix
    };
    (copy, memory)
}

/// Run one tier, the panels in `workers` shares of equal size, the last share first; with a bias or gated.
pub(crate) fn run_shared(
    tier: Tier,
    matrix: &Matrix,
    x: &[f32],
    rows: usize,
    precision: Precision,
    (bias, gated): (Option<&[f32]>, Option<Activation>),
    workers: usize,
) -> Vec<f32> {
    let kernels = Kernels::of(tier);
    run_with(&kernels, matrix, x, rows, precision, (bias, gated), workers)
}

/// As [`run_shared`], with these kernels.
pub(crate) fn run_with(
    kernels: &Kernels,
    matrix: &Matrix,
    x: &[f32],
    rows: usize,
    precision: Precision,
    (bias, gated): (Option<&[f32]>, Option<Activation>),
    workers: usize,
) -> Vec<f32> {
    let (exact, _memory) = in_exact_memory(matrix);
    let matrix = &exact;
    let width = matrix.in_features;
    let need = matrix.need(precision);
    let mut activations = Activations::new(rows, width, need);
    let view = activations.view();
    let outputs = matrix.out_features / if gated.is_some() { 2 } else { 1 };
    // Rows with something behind each that must stay as it is.
    let stride = outputs + 5;
    let mut out = vec![f32::NAN; rows * stride];
    // SAFETY: sizes match; shares do not overlap; the tier is available.
    unsafe {
        for row in 0..rows {
            (kernels.pack_row)(x[row * width..].as_ptr(), width, row, rows, need, view);
        }
        let task = LinearTask {
            matrix,
            input: view,
            rows,
            bias,
            out: out.as_mut_ptr(),
            out_stride: stride,
            gated,
            precision,
        };
        let pairs = task.num_pairs();
        for worker in (0..workers).rev() {
            let share = pairs * worker / workers..pairs * (worker + 1) / workers;
            linear(kernels, &task, share, &mut PanelScratch::new(rows));
        }
    }
    let rows = out.chunks_exact(stride).map(|row| row.split_at(outputs));
    rows.flat_map(|(row, behind)| {
        assert!(behind.iter().all(|x| x.is_nan()), "written beyond a row");
        row.to_vec()
    })
    .collect()
}

#[test]
fn every_tier_and_row_count_gives_the_same_bits() {
    for dtype in types() {
        for out_features in [1, 17] {
            // More than one chunk of 1,024 columns, so that accumulators are stored and resumed.
            let width = if dtype.block_size() == 256 {
                1280
            } else {
                1088
            };
            let mut random = Random::new(out_features as u64 + 7);
            let bytes = tensor_bytes(dtype, out_features * width, &mut random);
            let executor = packed(dtype, [out_features, width], &bytes, None);
            let matrix = matrix(&executor);
            let x: Vec<f32> = (0..65 * width).map(|_| random.float() * 3.0).collect();
            let bias: Vec<f32> = (0..out_features).map(|_| random.float()).collect();
            for precision in [Precision::Fast, Precision::Balanced, Precision::Exact] {
                // Row by row on the scalar tier is the definition.
                let alone: Vec<Vec<f32>> = (0..65)
                    .map(|row| {
                        run(
                            Tier::Scalar,
                            matrix,
                            &x[row * width..][..width],
                            1,
                            precision,
                            Some(&bias),
                        )
                    })
                    .collect();
                for tier in Tier::available() {
                    for rows in [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 33, 65] {
                        let out = run(tier, matrix, &x, rows, precision, Some(&bias));
                        for row in 0..rows {
                            for o in 0..out_features {
                                let (got, want) = (out[row * out_features + o], alone[row][o]);
                                assert_eq!(
                                    got.to_bits(),
                                    want.to_bits(),
                                    "{dtype:?} {tier:?} {precision:?}: row {row} of {rows}, output {o} of {out_features}: {got} {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn sums_of_whole_rows_are_scaled_once_on_every_tier_and_for_every_row_count() {
    for (out_features, width) in [(1, 32), (17, 96), (33, 1088), (16, 4096)] {
        let by_rows = packed_by_rows(1, out_features, width);
        let mut random = Random::new(3);
        let x: Vec<f32> = (0..65 * width).map(|_| random.float() * 3.0).collect();
        let bias: Vec<f32> = (0..out_features).map(|_| random.float()).collect();
        let results = |x| {
            let rows = by_rows.codes.chunks_exact(width).zip(&by_rows.scales);
            let outputs = rows.zip(&bias);
            outputs.map(move |((codes, &scale), bias)| of_whole_row(codes, scale, x) + bias)
        };
        let want: Vec<f32> = x.chunks_exact(width).flat_map(results).collect();
        for tier in Tier::available() {
            for rows in [
                1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 24, 25, 31, 33, 47, 65,
            ] {
                let matrix = matrix(&by_rows.executor);
                let got = run(tier, matrix, &x, rows, Precision::Fast, Some(&bias));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (row, output) = (i / out_features, i % out_features);
                    assert_eq!(
                        got.to_bits(),
                        want.to_bits(),
                        "{tier:?}: row {row} of {rows}, output {output}, {width} columns: {got} {want}"
                    );
                }
            }
        }
    }
}

/// The definition: the integers of both rows multiplied and summed up, then their scales.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "whole numbers of 8 bits; a sum is rounded once"
)]
fn of_whole_row(codes: &[i8], scale: f32, x: &[f32]) -> f32 {
    let largest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let inverse = 127.0 / largest;
    let products = codes.iter().zip(x).map(|(&code, x)| {
        let q = (x * inverse).round_ties_even() as i32;
        i32::from(code) * q
    });
    products.sum::<i32>() as f32 * (scale * (largest / 127.0))
}

#[test]
fn other_precisions_of_rows_with_one_scale_are_those_of_their_type() {
    let by_rows = packed_by_rows(1, 17, 96);
    let mut as_q8 = Matrix::stacked(&matrix(&by_rows.executor).segments, 96);
    for segment in &mut as_q8.segments {
        segment.packing = Packing::Q8_0;
    }
    let mut random = Random::new(4);
    let x: Vec<f32> = (0..5 * 96).map(|_| random.float()).collect();
    for precision in [Precision::Balanced, Precision::Exact] {
        let [got, want] = [matrix(&by_rows.executor), &as_q8]
            .map(|matrix| run(Tier::Scalar, matrix, &x, 5, precision, None));
        assert_eq!(got, want, "{precision:?}");
    }
}

#[test]
fn rows_of_several_scales_are_packed_as_their_type() {
    let width = 64;
    let mut random = Random::new(6);
    let bytes = tensor_bytes(Dtype::Q8_0, 3 * width, &mut random);
    let shape = [3, width];
    let tensor = Tensor {
        name: "w",
        dtype: Dtype::Q8_0,
        shape: &shape,
        bytes: &bytes,
    };
    let mut executor = executor(3, width);
    let source = MatrixSource {
        name: "w",
        parts: vec![Part {
            tensor,
            row_order: None,
        }],
        row_scales: true,
    };
    executor.load_source(source).expect("a valid tensor");
    assert_eq!(matrix(&executor).segments[0].packing, Packing::Q8_0);
}

#[test]
fn fast_results_are_close_to_exact_ones() {
    for dtype in types() {
        let (out_features, width) = (32, 1024);
        let mut random = Random::new(11);
        let bytes = tensor_bytes(dtype, out_features * width, &mut random);
        let executor = packed(dtype, [out_features, width], &bytes, None);
        let matrix = matrix(&executor);
        let x: Vec<f32> = (0..width).map(|_| random.float()).collect();
        let fast = run(Tier::Scalar, matrix, &x, 1, Precision::Fast, None);
        let exact = run(Tier::Scalar, matrix, &x, 1, Precision::Exact, None);
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
        let error = norm(&mut fast.iter().zip(&exact).map(|(a, b)| a - b))
            / norm(&mut exact.iter().copied());
        assert!(error < 0.02, "{dtype:?}: relative error {error}");
        assert_eq!(
            error == 0.0,
            matrix.need(Precision::Fast)
                == Need {
                    float: true,
                    ..Need::default()
                },
            "{dtype:?}"
        );
    }
}

#[test]
fn a_nan_in_the_input_reaches_every_output() {
    let mut random = Random::new(5);
    let bytes = tensor_bytes(Dtype::Q4_0, 20 * 64, &mut random);
    let executor = packed(Dtype::Q4_0, [20, 64], &bytes, None);
    let by_rows = packed_by_rows(1, 20, 64).executor;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x: Vec<f32> = (0..64).map(|_| random.float()).collect();
        x[40] = bad;
        for tier in Tier::available() {
            for executor in [&executor, &by_rows] {
                let out = run(tier, matrix(executor), &x, 1, Precision::Fast, None);
                assert!(out.iter().all(|y| y.is_nan()), "{tier:?}: {out:?}");
            }
        }
    }
}

#[test]
fn quantization_is_symmetric_and_exact_on_its_grid() {
    let width = 32;
    let x: Vec<f32> = (-16..16_i8).map(|i| f32::from(i) * 127.0 / 16.0).collect();
    let need = Need {
        int8: true,
        zeros: 1,
        scaled_sum: true,
        float: false,
        two_planes: false,
        whole_rows: false,
    };
    let mut activations = Activations::new(1, width, need);
    let view = activations.view();
    // SAFETY: one row of 32.
    unsafe { pack_row::<Portable>(x.as_ptr(), width, 0, 1, need, view) };
    assert_eq!(activations.scale[0].to_bits(), 1.0_f32.to_bits());
    let sum: i32 = activations
        .int8
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|b| i32::from(b.cast_signed()))
        .sum();
    assert_eq!(activations.start[0][0], -8 * sum);
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let sum = sum as f32;
    assert_eq!(activations.scaled_sum[0].to_bits(), sum.to_bits());
}

#[test]
fn parts_have_every_row_once_and_begin_with_a_tile() {
    for rows in 0..700 {
        for parts in 1..6 {
            let mut next = 0;
            for part in 0..parts {
                let found = rows_of_part(rows, part, parts);
                assert_eq!(found.start, next, "{part} of {parts}, {rows} rows");
                assert_eq!(found.start % TILE_SIZES[0], 0);
                assert!(found.len() + TILE_SIZES[0] > rows / parts);
                next = found.end;
            }
            assert_eq!(next, rows);
        }
    }
}
