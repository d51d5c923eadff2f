//! Fused matrices: several tensors, each in its own type, in one product; and a gate with its up projection. The oracle
//! is each tensor alone, which `layout_tests` compares with plain loops.

use inferlib_program::program::Activation;
use inferlib_weights::Dtype;

use crate::layout_tests::{LARGER_SIZES, ODD_SIZES};
use crate::linear_tests::{matrix, packed, packed_parts, run, run_shared, types};
use crate::math;
use crate::precision::Precision;
use crate::random_weights::{Random, tensor_bytes};
use crate::simd::{LANES, Portable};
use crate::tier::Tier;

const WIDTH: usize = 256;
const PRECISIONS: [Precision; 3] = [Precision::Fast, Precision::Balanced, Precision::Exact];

#[test]
fn a_fused_matrix_is_its_tensors_one_after_the_other_however_it_is_shared_out() {
    let fused: [&[(Dtype, usize)]; 5] = [
        &[(Dtype::Q4K, 64), (Dtype::Q4K, 17), (Dtype::Q6K, 33)],
        &[(Dtype::Q8_0, 1), (Dtype::Q4_1, 15), (Dtype::Q5_0, 2)],
        &[(Dtype::F16, 31), (Dtype::Q4_0, 16), (Dtype::BF16, 7)],
        &[
            (Dtype::Iq4Nl, 9),
            (Dtype::Mxfp4, 32),
            (Dtype::Q5_1, 8),
            (Dtype::F32, 1),
        ],
        &[
            (Dtype::Q2K, 33),
            (Dtype::Q3K, 47),
            (Dtype::Q5K, 1),
            (Dtype::Iq4Xs, 20),
        ],
    ];
    let mut random = Random::new(41);
    for parts in fused {
        let bytes: Vec<Vec<u8>> = parts
            .iter()
            .map(|&(dtype, rows)| tensor_bytes(dtype, rows * WIDTH, &mut random))
            .collect();
        let tensors: Vec<(Dtype, usize, &[u8])> = parts
            .iter()
            .zip(&bytes)
            .map(|(&(dtype, rows), bytes)| (dtype, rows, &bytes[..]))
            .collect();
        let together = packed_parts(&tensors, WIDTH, None);
        let outputs = matrix(&together).out_features;
        for rows in ODD_SIZES {
            let x: Vec<f32> = (0..rows * WIDTH).map(|_| random.float()).collect();
            let bias: Vec<f32> = (0..outputs).map(|_| random.float()).collect();
            for precision in PRECISIONS {
                let mut want = vec![0.0; rows * outputs];
                let mut first = 0;
                for &(dtype, count, bytes) in &tensors {
                    let alone = packed(dtype, [count, WIDTH], bytes, None);
                    let bias = Some(&bias[first..first + count]);
                    let got = run(Tier::Scalar, matrix(&alone), &x, rows, precision, bias);
                    for (row, got) in got.chunks_exact(count).enumerate() {
                        want[row * outputs + first..][..count].copy_from_slice(got);
                    }
                    first += count;
                }
                for tier in Tier::available() {
                    for workers in [1, 2, 3, 8] {
                        let with = (Some(&bias[..]), None);
                        let got =
                            run_shared(tier, matrix(&together), &x, rows, precision, with, workers);
                        let what = format!(
                            "{parts:?} {tier:?} {precision:?}, {rows} rows, {workers} workers"
                        );
                        assert!(bits(&got).eq(bits(&want)), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_gate_and_its_up_projection_are_both_products_and_the_activation() {
    for dtype in types() {
        for outputs in ODD_SIZES {
            check_gate(dtype, outputs, 256, &ODD_SIZES);
        }
        // More than one chunk of columns: sums are resumed, then activated.
        check_gate(dtype, 100, 1280, &LARGER_SIZES[..2]);
    }
}

fn check_gate(dtype: Dtype, outputs: usize, width: usize, row_counts: &[usize]) {
    let mut random = Random::new(outputs as u64);
    let mut tensor = || tensor_bytes(dtype, outputs * width, &mut random);
    let (gate, up) = (tensor(), tensor());
    let fused = packed_parts(
        &[(dtype, outputs, &gate), (dtype, outputs, &up)],
        width,
        None,
    );
    let [gate, up] = [gate, up].map(|bytes| packed(dtype, [outputs, width], &bytes, None));
    let most = row_counts[row_counts.len() - 1];
    let x: Vec<f32> = (0..most * width).map(|_| random.float()).collect();
    for precision in PRECISIONS {
        let [gate, up] =
            [&gate, &up].map(|one| run(Tier::Scalar, matrix(one), &x, most, precision, None));
        for activation in [
            Activation::Silu,
            Activation::GeluTanh,
            Activation::ClampedSwiglu,
        ] {
            let gated = |gate: f32, up: f32| {
                // SAFETY: `Portable` needs no features.
                unsafe { math::gated::<Portable>([gate; LANES], [up; LANES], activation)[0] }
            };
            let want: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| gated(*g, *u)).collect();
            for tier in Tier::available() {
                for &rows in row_counts {
                    let gated = (None, Some(activation));
                    let got = run_shared(tier, matrix(&fused), &x, rows, precision, gated, 2);
                    assert!(
                        bits(&got).eq(bits(&want[..rows * outputs])),
                        "{dtype} {tier:?} {precision:?} {activation:?}, {rows} rows, {outputs} outputs"
                    );
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> {
    values.iter().map(|x| x.to_bits())
}
