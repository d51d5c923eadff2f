//! What the documentation of `Sampler::run` and `SamplingParams` says, case by case.

use inferlib_program::{LogitsRow, LogprobsMode, RowStatus, SampledRow, SamplingParams};

use super::super::{Deciding, RowResult, Sampler};
use super::{bell, greedy, oracle, row, run};

const FAILED: RowResult = RowResult {
    token_id: 0,
    status: RowStatus::Failed,
    mirostat_mu: None,
    logprobs: None,
    logits: None,
};

/// The ids that `params` keep, best first.
fn kept(logits: &[f32], params: SamplingParams) -> Vec<i32> {
    let params = SamplingParams {
        logprobs: Some(u32::MAX),
        logprobs_mode: LogprobsMode::Processed,
        ..params
    };
    run(logits, &row(params), &[])
        .logprobs
        .expect("asked for")
        .top_ids
}

#[test]
fn a_nan_or_positive_infinity_anywhere_fails_the_row_even_where_it_is_masked() {
    for bad in [f32::NAN, f32::INFINITY] {
        for at in [0, 15, 16, 39] {
            let mut logits = vec![1.0; 40];
            logits[at] = bad;
            let others = (0..40).filter(|&id| id != at as i32).collect();
            for params in [
                greedy(),
                SamplingParams::default(),
                SamplingParams {
                    allowed_token_ids: Some(others),
                    logprobs: Some(3),
                    ..greedy()
                },
            ] {
                assert_eq!(run(&logits, &row(params), &[]), FAILED);
            }
            let score = SampledRow {
                kind: LogitsRow::Score { target: 3 },
                ..row(greedy())
            };
            assert_eq!(run(&logits, &score, &[]), FAILED);
        }
    }
}

#[test]
fn a_row_with_nothing_left_to_draw_fails() {
    let masked = [f32::NEG_INFINITY; 20];
    let nothing_allowed = SamplingParams {
        allowed_token_ids: Some(vec![]),
        ..SamplingParams::default()
    };
    assert_eq!(run(&masked, &row(SamplingParams::default()), &[]), FAILED);
    assert_eq!(run(&masked, &row(greedy()), &[]), FAILED);
    assert_eq!(run(&[], &row(greedy()), &[]), FAILED);
    assert_eq!(run(&[0.0; 20], &row(nothing_allowed), &[]), FAILED);
}

#[test]
fn a_row_that_wants_its_logits_is_given_them_and_draws_nothing() {
    let logits = bell(100, 2.0, 7);
    let wanting = SampledRow {
        wants_logits: true,
        ..row(SamplingParams {
            logit_bias: vec![(3, 5.0)],
            logprobs: Some(2),
            ..greedy()
        })
    };
    let expected = RowResult {
        logits: Some(logits.clone()),
        ..FAILED
    };
    assert_eq!(run(&logits, &wanting, &[]), expected);
    // All of them: nothing may be left out of the head.
    let greedy = SampledRow {
        wants_logits: true,
        ..row(greedy())
    };
    assert_eq!(Deciding::of(&greedy, &[]), None);
}

#[test]
fn a_score_outside_the_vocabulary_fails() {
    for target in [-1, 20, i32::MAX] {
        let score = SampledRow {
            kind: LogitsRow::Score { target },
            ..row(greedy())
        };
        assert_eq!(run(&[0.0; 20], &score, &[]), FAILED);
    }
}

#[test]
fn a_score_ignores_how_the_request_samples() {
    let params = SamplingParams {
        temperature: 0.3,
        top_k: Some(1),
        logit_bias: vec![(1, 50.0)],
        allowed_token_ids: Some(vec![0]),
        logprobs_mode: LogprobsMode::Processed,
        prompt_logprobs: Some(2),
        ..SamplingParams::default()
    };
    let score = SampledRow {
        kind: LogitsRow::Score { target: 2 },
        ..row(params)
    };
    let logprobs = run(&[0.0, 0.0, f32::NEG_INFINITY, 0.0], &score, &[])
        .logprobs
        .expect("scored");
    assert_eq!((logprobs.logprob, logprobs.rank), (f32::NEG_INFINITY, 4));
    assert_eq!(logprobs.top_ids, [0, 1]);
    assert!(
        logprobs
            .top_logprobs
            .iter()
            .all(|&x| (x + 3.0f32.ln()).abs() < 1e-6)
    );
}

#[test]
fn greedy_takes_the_lowest_id_of_equal_logits() {
    for len in [1, 2, 15, 16, 17, 31, 32, 33, 300, 5000] {
        for first in [0, len / 2, len - 1] {
            let mut logits = vec![-1.0; len];
            logits[first..].fill(2.0);
            assert_eq!(run(&logits, &row(greedy()), &[]).token_id as usize, first);
        }
    }
}

#[test]
fn ties_at_the_kth_value_keep_the_lower_ids() {
    let logits = [1.0, 3.0, 1.0, 2.0, 1.0];
    let top_k = |k| {
        kept(
            &logits,
            SamplingParams {
                top_k: Some(k),
                ..SamplingParams::default()
            },
        )
    };
    assert_eq!(top_k(1), [1]);
    assert_eq!(top_k(3), [1, 3, 0]);
    assert_eq!(top_k(4), [1, 3, 0, 2]);
    assert_eq!(top_k(99), [1, 3, 0, 2, 4]);
    let equal = vec![0.5; 3000];
    let params = SamplingParams {
        top_k: Some(700),
        ..SamplingParams::default()
    };
    assert_eq!(kept(&equal, params), (0..700).collect::<Vec<i32>>());
}

#[test]
fn top_p_keeps_the_fewest_that_reach_it_and_at_least_one() {
    let equal = [0.0; 10];
    let top_p = |p| {
        kept(
            &equal,
            SamplingParams {
                top_p: p,
                ..SamplingParams::default()
            },
        )
        .len()
    };
    assert_eq!(
        [0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.9, 0.95, 1.0].map(top_p),
        [1, 1, 2, 3, 6, 7, 9, 10, 10]
    );
}

#[test]
fn a_top_p_next_to_one_leaves_no_trace_of_masked_tokens() {
    let params = SamplingParams {
        top_p: 1.0f32.next_down(),
        logprobs: Some(5),
        logprobs_mode: LogprobsMode::Processed,
        ..SamplingParams::default()
    };
    let row = row(params);
    for seed in 0..500 {
        let mut logits = bell(200, 6.0, seed);
        let alone = run(&logits, &row, &[]);
        logits.resize(700, f32::NEG_INFINITY);
        assert_eq!(run(&logits, &row, &[]), alone, "row {seed}");
    }
}

#[test]
fn top_p_is_a_share_of_what_top_k_leaves() {
    // 8, 4, 2, 1, 1 sixteenths; the best three are 8, 4, 2 fourteenths.
    let logits = [0.0f64, -1.0, -2.0, -3.0, -3.0].map(|x| (x * std::f64::consts::LN_2) as f32);
    let with = |top_k, top_p| {
        kept(
            &logits,
            SamplingParams {
                top_k,
                top_p,
                ..SamplingParams::default()
            },
        )
        .len()
    };
    assert_eq!(with(None, 0.8), 3);
    assert_eq!(with(Some(3), 0.8), 2);
    assert_eq!(with(Some(3), 0.9), 3);
}

#[test]
fn min_p_is_relative_to_the_best_token() {
    let logits =
        [0.0f64, -1.0, -2.0, -3.0, f64::NEG_INFINITY].map(|x| (x * std::f64::consts::LN_2) as f32);
    let with = |min_p, temperature| {
        kept(
            &logits,
            SamplingParams {
                min_p,
                temperature,
                ..SamplingParams::default()
            },
        )
        .len()
    };
    assert_eq!(with(0.49, 1.0), 2);
    assert_eq!(with(0.51, 1.0), 1);
    assert_eq!(with(1.0, 1.0), 1);
    assert_eq!(with(0.49, 2.0), 3);
    assert_eq!(with(0.0, 1.0), 4);
}

/// Wide nuclei go through every tail that `truncate` tries and through the bins of `cut`.
#[test]
fn nuclei_of_any_width_match_the_oracle_on_large_vocabularies() {
    let (mut sampler, len) = (Sampler::new(40_000), 40_000);
    for spread in [0.0, 0.01, 1.0, 3.0, 8.0] {
        let logits = bell(len, spread, 5);
        let ranking = oracle::ranking(&logits);
        for (top_k, top_p) in [
            (None, 0.1),
            (None, 0.9),
            (None, 0.999),
            (None, 1.0f32.next_down()),
            (Some(50), 0.9),
            (Some(1000), 1.0),
            (Some(3000), 0.9),
            (Some(20_000), 1.0),
            (Some(39_999), 0.99),
        ] {
            let params = SamplingParams {
                top_k,
                top_p,
                logprobs: Some(u32::MAX),
                logprobs_mode: LogprobsMode::Processed,
                ..SamplingParams::default()
            };
            let (least, most) = oracle::kept(&logits, &ranking, &params);
            let result = sampler.run(&mut logits.clone(), &row(params), &[]);
            let kept = result.logprobs.expect("asked for").top_ids;
            assert!(
                (least..=most).contains(&kept.len()),
                "{} of {least}..={most}, {spread} {top_k:?} {top_p}",
                kept.len()
            );
            assert!(
                kept.iter()
                    .zip(&ranking)
                    .all(|(&id, &expected)| id as usize == expected)
            );
        }
    }
}

#[test]
fn processed_logprobs_of_a_greedy_row_are_those_after_bias() {
    let params = SamplingParams {
        logit_bias: vec![(1, 1.0)],
        logprobs: Some(1),
        logprobs_mode: LogprobsMode::Processed,
        ..greedy()
    };
    let logprobs = run(&[0.0, 0.0], &row(params), &[])
        .logprobs
        .expect("asked for");
    assert_eq!((logprobs.rank, logprobs.top_ids), (1, vec![1]));
    assert!((logprobs.logprob - (1.0f32.exp() / (1.0 + 1.0f32.exp())).ln()).abs() < 1e-6);
}

#[test]
fn raw_logprobs_are_those_before_bias_also_for_the_drawn_token() {
    let params = SamplingParams {
        logit_bias: vec![(2, 90.0)],
        logprobs: Some(1),
        ..greedy()
    };
    let result = run(&[1.0, 0.0, 0.0], &row(params), &[]);
    let logprobs = result.logprobs.expect("asked for");
    assert_eq!(
        (result.token_id, logprobs.rank, logprobs.top_ids),
        (2, 3, vec![0])
    );
    assert!((logprobs.logprob + (1.0f32.exp() + 2.0).ln()).abs() < 1e-6);
}

#[test]
fn lists_hold_no_token_without_probability() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 1.0];
    for logprobs_mode in [LogprobsMode::Raw, LogprobsMode::Processed] {
        let params = SamplingParams {
            logprobs: Some(4),
            logprobs_mode,
            ..SamplingParams::default()
        };
        let logprobs = run(&logits, &row(params), &[]).logprobs.expect("asked for");
        assert_eq!(logprobs.top_ids, [3, 1]);
        assert_eq!(logprobs.top_logprobs.len(), 2);
    }
}

#[test]
fn no_listed_tokens_are_asked_for_by_zero() {
    for logprobs_mode in [LogprobsMode::Raw, LogprobsMode::Processed] {
        for params in [
            greedy(),
            SamplingParams::default(),
            SamplingParams {
                top_k: Some(2),
                ..SamplingParams::default()
            },
        ] {
            let params = SamplingParams {
                logprobs: Some(0),
                logprobs_mode,
                ..params
            };
            let logprobs = run(&[0.0; 3], &row(params), &[])
                .logprobs
                .expect("asked for");
            assert!(logprobs.top_ids.is_empty() && logprobs.top_logprobs.is_empty());
            assert!(logprobs.logprob.is_finite());
        }
    }
}

/// Bits that must not change: between machines, vector widths, compilers and versions of this library.
#[test]
fn results_have_the_recorded_bits() {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |word: u32| {
        for byte in word.to_le_bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let mut sampler = Sampler::new(0);
    for (len, spread) in [(33, 2.0), (4099, 3.0), (30_000, 0.5), (30_000, 4.0)] {
        let logits = bell(len, spread, 9);
        for (top_k, top_p, min_p) in [
            (None, 1.0, 0.0),
            (Some(20), 1.0, 0.0),
            (Some(20), 0.7, 0.01),
            (None, 0.9, 0.0),
            (Some(2000), 1.0, 0.0),
        ] {
            for position in 0..20 {
                let params = SamplingParams {
                    temperature: 0.5 + position as f32 / 16.0,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty: 1.1,
                    logprobs: Some(3),
                    logprobs_mode: if position % 2 == 0 {
                        LogprobsMode::Raw
                    } else {
                        LogprobsMode::Processed
                    },
                    ..SamplingParams::default()
                };
                let row = SampledRow {
                    position,
                    ..row(params)
                };
                let result = sampler.run(&mut logits.clone(), &row, &[1, 2, 3]);
                let logprobs = result.logprobs.expect("asked for");
                add(result.token_id as u32);
                add(logprobs.logprob.to_bits());
                add(logprobs.rank);
                logprobs.top_ids.iter().for_each(|&id| add(id as u32));
                logprobs.top_logprobs.iter().for_each(|x| add(x.to_bits()));
            }
        }
    }
    assert_eq!(digest, 0x9a5a_c42f_586e_d7b5, "{digest:#018x}");
}
