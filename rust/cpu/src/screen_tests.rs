//! A matrix in two planes is the matrix, in every kernel; its bounds hold; what is chosen holds what decides.

use std::sync::Arc;

use inferlib_program::SamplingParams;
use inferlib_program::program::{BufferId, Op, Program, WeightDecl, WeightId};
use inferlib_weights::{Dtype, Tensor};

use crate::activations::{Activations, pack_row};
use crate::executor::{CpuExecutor, Options};
use crate::formats::BLOCK_COLS;
use crate::kernels::Kernels;
use crate::linear::bounds::Bounds;
use crate::linear::{LinearTask, PanelScratch, bound};
use crate::linear_tests::{matrix, packed, run};
use crate::matrix::Matrix;
use crate::packed_image::Part;
use crate::packing::Packing;
use crate::precision::Precision;
use crate::random_weights::{Random, tensor_bytes};
use crate::sampling::Deciding;
use crate::sampling::tests::row as sampled_row;
use crate::screen::{Chosen, MAX_ROWS, deciding, lengths};
use crate::simd::{LANES, Portable};
use crate::tier::Tier;

/// Rows of a head that is large enough, the last panel without a partner and not full.
const VOCAB: usize = (1 << 15) + 16 + 5;
const WIDTH: usize = 64;

/// A head of `Q8_0`; the program decides that it lies in planes.
fn head(bytes: &[u8], softcap: Option<f32>) -> CpuExecutor {
    let program = Program {
        weights: vec![WeightDecl {
            name: "w".to_owned(),
            shape: vec![VOCAB, WIDTH],
        }],
        ops: vec![Op::LmHead {
            x: BufferId(0),
            weight: WeightId(0),
            softcap,
            out: BufferId(1),
        }],
        vocab_size: VOCAB,
        ..Program::default()
    };
    let options = Options {
        precision: Precision::Fast,
        kv_cache_dtype: None,
        threads: Some(1),
        tier: None,
        max_num_batched_tokens: 8,
        num_blocks: Vec::new(),
    };
    let mut executor = CpuExecutor::new(Arc::new(program), &options).expect("options are valid");
    let part = Part {
        tensor: Tensor {
            name: "w",
            dtype: Dtype::Q8_0,
            shape: &[VOCAB, WIDTH],
            bytes,
        },
        row_order: None,
    };
    executor.load_matrix("w", &[part]).expect("it is valid");
    executor
}

fn bytes(random: &mut Random) -> Vec<u8> {
    tensor_bytes(Dtype::Q8_0, VOCAB * WIDTH, random)
}

fn input(rows: usize, random: &mut Random) -> Vec<f32> {
    (0..rows * WIDTH).map(|_| random.float() * 3.0).collect()
}

#[test]
fn a_head_in_planes_gives_the_bits_of_one_that_is_not() {
    let mut random = Random::new(1);
    let bytes = bytes(&mut random);
    let (planes, whole) = (
        head(&bytes, None),
        packed(Dtype::Q8_0, [VOCAB, WIDTH], &bytes, None),
    );
    let (planes, whole) = (matrix(&planes), matrix(&whole));
    assert_eq!(planes.segments[0].packing, Packing::Q8Planes);
    assert_eq!(whole.segments[0].packing, Packing::Q8_0);
    let mut rows = [vec![0.0; WIDTH], vec![0.0; WIDTH]];
    for row in [0, 1, 15, 16, 4711, VOCAB - 1] {
        planes.row(row, &mut rows[0]);
        whole.row(row, &mut rows[1]);
        assert_eq!(rows[0], rows[1], "{row}");
    }
    let x = input(65, &mut random);
    for tier in Tier::available() {
        for precision in [Precision::Fast, Precision::Balanced, Precision::Exact] {
            for rows in [1, 3, 7, 65] {
                if rows == 65 && tier == Tier::Scalar {
                    continue; // slow, and its 65 rows are those of the others
                }
                let [a, b] = [planes, whole].map(|m| run(tier, m, &x, rows, precision, None));
                let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{tier:?} {precision:?} {rows}");
            }
        }
    }
}

/// Bounds of all pairs, `[rows][pairs]`, and what the logits became.
fn bounds(tier: Tier, matrix: &Matrix, x: &[f32], precision: Precision) -> [Vec<f32>; 3] {
    let rows = x.len() / WIDTH;
    let need = matrix.need(precision);
    let mut activations = Activations::new(rows, WIDTH, need);
    let view = activations.view();
    let mut logits = vec![7.0; rows * VOCAB];
    let kernels = Kernels::of(tier);
    let task = LinearTask {
        matrix,
        input: view,
        rows,
        bias: None,
        out: logits.as_mut_ptr(),
        out_stride: VOCAB,
        gated: None,
        precision,
    };
    let pairs = task.num_pairs();
    let [mut lower, mut upper] = [0, 1].map(|_| vec![f32::NAN; rows * pairs]);
    let mut scratch = PanelScratch::new(rows);
    // SAFETY: sizes match; the tier is available.
    unsafe {
        for row in 0..rows {
            pack_row::<Portable>(x[row * WIDTH..].as_ptr(), WIDTH, row, rows, need, view);
        }
        let two_planes = precision == Precision::Balanced;
        let blocks = WIDTH / BLOCK_COLS;
        let lengths = lengths(view, rows, blocks, two_planes);
        let to = Bounds {
            lower: lower.as_mut_ptr(),
            upper: upper.as_mut_ptr(),
            pairs,
            first: 0,
            lengths: lengths.as_ptr(),
            offset: blocks * 128,
        };
        for share in [pairs / 3..pairs, 0..pairs / 3] {
            bound(&kernels, &task, share, &mut scratch, &to);
        }
    }
    [lower, upper, logits]
}

#[test]
fn bounds_hold_and_what_decides_is_chosen() {
    let mut random = Random::new(2);
    let executor = head(&bytes(&mut random), None);
    let matrix = matrix(&executor);
    let pairs = VOCAB.div_ceil(2 * LANES);
    let x = input(MAX_ROWS, &mut random);
    for tier in Tier::available() {
        for precision in [Precision::Fast, Precision::Balanced] {
            let logits = run(tier, matrix, &x, MAX_ROWS, precision, None);
            let [lower, upper, cleared] = bounds(tier, matrix, &x, precision);
            assert!(cleared.iter().all(|&logit| logit == f32::NEG_INFINITY));
            for row in 0..MAX_ROWS {
                let logits = &logits[row * VOCAB..][..VOCAB];
                for (pair, logits) in logits.chunks(2 * LANES).enumerate() {
                    let max = logits.iter().copied().fold(f32::MIN, f32::max);
                    let at = row * pairs + pair;
                    let what = format!("{tier:?} {precision:?} row {row} pair {pair}");
                    assert!(lower[at] <= max && max <= upper[at], "{what}");
                }
                let mut best: Vec<usize> = (0..VOCAB).collect();
                best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
                for count in [1, 40] {
                    let mut chosen = Chosen::default();
                    let range = row * pairs..(row + 1) * pairs;
                    chosen.choose(
                        &[Deciding::Best(count)],
                        &lower[range.clone()],
                        &upper[range],
                    );
                    for token in &best[..count] {
                        assert!(chosen.pairs.contains(&(token / (2 * LANES))), "{token}");
                    }
                    // Random rows are no language model's, but even so most need not be computed.
                    assert!(
                        chosen.pairs.len() < pairs / 2,
                        "{} of {pairs}",
                        chosen.pairs.len()
                    );
                }
                let share = Deciding::Share(0.05, 0.8);
                let mut chosen = Chosen::default();
                let range = row * pairs..(row + 1) * pairs;
                chosen.choose(&[share], &lower[range.clone()], &upper[range]);
                let floor = logits[best[0]] + 0.8 * 0.05_f32.ln();
                for &token in best.iter().take_while(|&&token| logits[token] >= floor) {
                    assert!(chosen.pairs.contains(&(token / (2 * LANES))), "{token}");
                }
            }
        }
    }
}

#[test]
fn every_pair_is_chosen_where_activations_or_weights_are_not_numbers() {
    let mut random = Random::new(3);
    let mut bytes = bytes(&mut random);
    let mut x = input(1, &mut random);
    let pairs = VOCAB.div_ceil(2 * LANES);
    // The scale of row 100's second block is NaN: its pair is always computed.
    bytes[100 * (WIDTH / 32) * 34 + 34..][..2].copy_from_slice(&[0, 0x7e]);
    let executor = head(&bytes, None);
    for tier in Tier::available() {
        let [lower, upper, _] = bounds(tier, matrix(&executor), &x, Precision::Fast);
        let mut chosen = Chosen::default();
        chosen.choose(&[Deciding::Best(1)], &lower, &upper);
        assert!(chosen.pairs.contains(&(100 / (2 * LANES))), "{tier:?}");
    }
    x[5] = f32::NAN;
    for tier in Tier::available() {
        let [lower, upper, _] = bounds(tier, matrix(&executor), &x, Precision::Fast);
        let mut chosen = Chosen::default();
        chosen.choose(&[Deciding::Best(1)], &lower, &upper);
        assert_eq!(chosen.pairs.len(), pairs, "{tier:?}");
    }
}

#[test]
fn only_a_large_head_without_a_cap_lies_in_planes() {
    let bytes = bytes(&mut Random::new(4));
    let capped = head(&bytes, Some(30.0));
    assert_eq!(matrix(&capped).segments[0].packing, Packing::Q8_0);
}

#[test]
fn rows_are_screened_where_that_gains() {
    let large = 262_144 / 32;
    let small = 49_152 / 32;
    let decides = |params: SamplingParams, pairs, rows: usize| {
        let row = sampled_row(params);
        let rows = vec![(&row, &[][..]); rows];
        deciding(rows.into_iter(), pairs).is_some()
    };
    let greedy = || SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let top_k = |k| SamplingParams {
        top_k: Some(k),
        ..SamplingParams::default()
    };
    let min_p = |min_p| SamplingParams {
        min_p,
        ..SamplingParams::default()
    };
    assert!(decides(greedy(), small, MAX_ROWS) && !decides(greedy(), small, MAX_ROWS + 1));
    assert!(decides(top_k(20), large, 1) && !decides(top_k(40), large, 1));
    assert!(!decides(top_k(20), small, 1));
    assert!(decides(min_p(0.05), large, 1) && !decides(min_p(1e-4), large, 1));
    assert!(!decides(min_p(0.05), small, 1));
    // From all tokens, or with all of them reported or changed.
    let reported = SamplingParams {
        logprobs: Some(0),
        ..greedy()
    };
    let penalized = SamplingParams {
        logit_bias: vec![(3, 1.0)],
        ..greedy()
    };
    for params in [SamplingParams::default(), reported, penalized] {
        assert!(!decides(params, large, 1));
    }
}
