//! The draw as a random experiment. Seeds are fixed: these tests give the same answer every time.

use inferlib_program::{SampledRow, SamplingParams};

use super::super::Sampler;
use super::{bell, oracle, row};

/// Draw `draws` times, once per key, and compare the counts with the probabilities that the oracle keeps. Cells that
/// expect less than 10 are pooled. The statistic less its mean, in standard deviations of a chi-square.
fn chi_square(
    logits: &[f32],
    params: &SamplingParams,
    draws: u32,
    key: impl Fn(u32, &mut SampledRow),
) -> f64 {
    let ranking = oracle::ranking(logits);
    let (_, most) = oracle::kept(logits, &ranking, params);
    let weights = oracle::weights(logits, &ranking[..most], params.temperature);
    let total: f64 = weights.iter().sum();

    let mut sampler = Sampler::new(logits.len());
    let mut counts = vec![0u32; logits.len()];
    let mut row = row(params.clone());
    for i in 0..draws {
        key(i, &mut row);
        let result = sampler.run(&mut logits.to_vec(), &row, &[]);
        counts[result.token_id as usize] += 1;
    }

    let (mut statistic, mut cells) = (0.0, 0.0);
    let (mut pooled_count, mut pooled_expected) = (0.0, 0.0);
    for (&id, weight) in ranking.iter().zip(&weights) {
        pooled_count += f64::from(counts[id]);
        pooled_expected += weight / total * f64::from(draws);
        counts[id] = 0;
        if pooled_expected >= 10.0 {
            statistic += (pooled_count - pooled_expected).powi(2) / pooled_expected;
            cells += 1.0;
            (pooled_count, pooled_expected) = (0.0, 0.0);
        }
    }
    assert!(
        counts.iter().all(|&count| count == 0),
        "a token was drawn that is not kept"
    );
    let freedom: f64 = cells - 1.0;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

fn along_positions(i: u32, row: &mut SampledRow) {
    row.position = i;
}

#[test]
fn frequencies_follow_the_probabilities_along_positions_sequences_and_seeds() {
    let logits = bell(40, 2.0, 1);
    let params = SamplingParams {
        temperature: 0.8,
        ..SamplingParams::default()
    };
    assert!(chi_square(&logits, &params, 40_000, along_positions) < 4.0);
    assert!(chi_square(&logits, &params, 40_000, |i, row| row.sequence_index = i) < 4.0);
    assert!(chi_square(&logits, &params, 40_000, |i, row| row.seed = u64::from(i)) < 4.0);
}

#[test]
fn frequencies_follow_the_probabilities_after_truncation() {
    let logits = bell(600, 2.0, 2);
    for params in [
        SamplingParams {
            top_k: Some(30),
            ..SamplingParams::default()
        },
        SamplingParams {
            top_p: 0.8,
            ..SamplingParams::default()
        },
        SamplingParams {
            min_p: 0.05,
            temperature: 1.4,
            ..SamplingParams::default()
        },
        SamplingParams {
            top_k: Some(100),
            top_p: 0.9,
            min_p: 0.02,
            ..SamplingParams::default()
        },
    ] {
        assert!(
            chi_square(&logits, &params, 20_000, along_positions) < 4.0,
            "{params:?}"
        );
    }
}

#[test]
fn the_statistic_sees_a_distribution_that_is_slightly_wrong() {
    let logits = bell(40, 2.0, 1);
    let params = SamplingParams {
        temperature: 0.8,
        ..SamplingParams::default()
    };
    let skewed: Vec<f32> = logits.iter().map(|x| x * 1.05).collect();
    let ranking = oracle::ranking(&skewed);
    assert_eq!(ranking, oracle::ranking(&logits));
    // Counts of the skewed row against the probabilities of the true one.
    let mut sampler = Sampler::new(40);
    let weights = oracle::weights(&logits, &ranking, 0.8);
    let total: f64 = weights.iter().sum();
    let mut counts = vec![0.0; 40];
    for i in 0..40_000 {
        let row = SampledRow {
            position: i,
            ..row(params.clone())
        };
        counts[sampler.run(&mut skewed.clone(), &row, &[]).token_id as usize] += 1.0;
    }
    let statistic: f64 = ranking
        .iter()
        .zip(&weights)
        .map(|(&id, weight)| {
            (counts[id] - weight / total * 40_000.0f64).powi(2) / (weight / total * 40_000.0)
        })
        .sum();
    assert!((statistic - 39.0) / 78.0f64.sqrt() > 8.0, "{statistic}");
}

#[test]
fn the_same_key_draws_the_same_token_and_another_key_another_stream() {
    let logits = bell(1000, 0.5, 3);
    let stream = |seed, sequence_index| -> Vec<i32> {
        let mut sampler = Sampler::new(1000);
        (0..32)
            .map(|position| {
                let row = SampledRow {
                    seed,
                    sequence_index,
                    position,
                    ..row(SamplingParams::default())
                };
                sampler.run(&mut logits.clone(), &row, &[]).token_id
            })
            .collect()
    };
    assert_eq!(stream(1, 0), stream(1, 0));
    assert_ne!(stream(1, 0), stream(2, 0));
    assert_ne!(stream(1, 0), stream(1, 1));
}

#[test]
fn a_low_temperature_draws_the_best_token_and_a_high_one_nearly_evenly() {
    let logits = bell(64, 1.0, 4);
    let best = oracle::ranking(&logits)[0];
    let mut sampler = Sampler::new(64);
    for position in 0..200 {
        let params = SamplingParams {
            temperature: 1e-3,
            ..SamplingParams::default()
        };
        let row = SampledRow {
            position,
            ..row(params)
        };
        assert_eq!(
            sampler.run(&mut logits.clone(), &row, &[]).token_id as usize,
            best
        );
    }
    let params = SamplingParams {
        temperature: 1e4,
        ..SamplingParams::default()
    };
    assert!(chi_square(&vec![0.0; 64], &params, 6400, along_positions) < 4.0);
}
