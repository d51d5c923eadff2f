//! Further cuts and repetitions against plain float64, at odd sizes.

use inferlib_program::{Dry, LogprobsMode, Mirostat, SampledRow, SamplingParams};
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{philox, repeats};
use super::{bell, row, run};

/// Two numbers that are nearer than this may be taken either way.
const SLACK: f64 = 4e-6;

fn sizes() -> impl Strategy<Value = usize> {
    select(vec![1usize, 2, 7, 8, 9, 31, 32, 33, 255, 257, 1025])
}

/// Ids that may be drawn, ascending, and the result.
fn kept(logits: &[f32], row: &SampledRow) -> (Vec<usize>, super::RowResult) {
    let result = run(logits, row, &[]);
    let logprobs = result.logprobs.clone().expect("asked for");
    let mut ids: Vec<usize> = logprobs.top_ids.iter().map(|&id| id as usize).collect();
    ids.sort_unstable();
    (ids, result)
}

fn described(params: SamplingParams, position: u32) -> SampledRow {
    let params = SamplingParams {
        logprobs: Some(u32::MAX),
        logprobs_mode: LogprobsMode::Processed,
        ..params
    };
    SampledRow {
        position,
        ..row(params)
    }
}

/// Natural logarithms of probabilities.
fn log_probabilities(logits: &[f32], temperature: f32) -> Vec<f64> {
    let scaled = logits
        .iter()
        .map(|&x| f64::from(x) / f64::from(temperature));
    let scaled: Vec<f64> = scaled.collect();
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scaled.iter().map(|x| (x - max).exp()).sum();
    scaled.iter().map(|x| x - max - total.ln()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn typical_sets_are_those_of_the_definition(
        size in sizes(), spread in 0.1..6.0f32, seed: u64, typical_p in 0.05..0.999f32, temperature in 0.3..3.0f32,
    ) {
        let logits = bell(size, spread, seed);
        let logs = log_probabilities(&logits, temperature);
        let entropy: f64 = logs.iter().map(|log| -log * log.exp()).sum();
        let mut order: Vec<(f64, usize)> =
            logs.iter().map(|log| (-log - entropy).abs()).zip(0..).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = |share: f64| {
            let mut sum = 0.0;
            let end = order.iter().position(|&(_, id)| { sum += logs[id].exp(); sum >= share });
            end.map_or(size, |end| end + 1)
        };
        let share = f64::from(typical_p);
        let (least, most) = (count(share - SLACK), count(share + SLACK));
        let params = SamplingParams { typical_p, temperature, ..SamplingParams::default() };
        let (ids, _) = kept(&logits, &described(params, 3));
        prop_assert!((least..=most).contains(&ids.len()), "{} of {least}..={most}", ids.len());
        let furthest = order[ids.len() - 1].0;
        for id in ids {
            prop_assert!((-logs[id] - entropy).abs() <= furthest + SLACK);
        }
    }

    #[test]
    fn deviations_are_those_of_the_logits(
        size in sizes(), spread in 0.1..6.0f32, seed: u64, top_n_sigma in 0.1..4.0f32, temperature in 0.3..3.0f32,
    ) {
        let logits = bell(size, spread, seed);
        let values: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        let mean = values.iter().sum::<f64>() / size as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let floor = max - f64::from(top_n_sigma) * variance.sqrt();
        prop_assume!(values.iter().all(|x| (x - floor).abs() > 1e-9));
        let expected: Vec<usize> = (0..size).filter(|&id| values[id] >= floor).collect();
        let params = SamplingParams { top_n_sigma: Some(top_n_sigma), temperature, ..SamplingParams::default() };
        prop_assert_eq!(kept(&logits, &described(params, 3)).0, expected);
    }

    #[test]
    fn xtc_leaves_the_least_likely_of_the_top_choices(
        size in sizes(), spread in 0.1..6.0f32, seed: u64, xtc_threshold in 0.0..0.6f32,
        xtc_probability in select(vec![0.3f32, 1.0]), position: u32,
    ) {
        let logits = bell(size, spread, seed);
        let probabilities: Vec<f64> = log_probabilities(&logits, 1.0).iter().map(|x| x.exp()).collect();
        let threshold = f64::from(xtc_threshold);
        prop_assume!(probabilities.iter().all(|p| (p - threshold).abs() > 1e-6));
        let params = SamplingParams { xtc_threshold, xtc_probability, ..SamplingParams::default() };
        let row = described(params, position);
        let acts = philox::second_uniform(row.seed, row.sequence_index, position) < f64::from(xtc_probability);
        let is_top = |id: &usize| probabilities[*id] >= threshold;
        let least = (0..size).filter(is_top).min_by(|&a, &b| {
            // float32 weights: what is all but equal may be either.
            logits[a].total_cmp(&logits[b]).then(b.cmp(&a))
        });
        let expected: Vec<usize> =
            (0..size).filter(|id| !acts || !is_top(id) || Some(*id) == least).collect();
        let ids = kept(&logits, &row).0;
        // Tokens without weight are not listed.
        let listed = |id: &usize| ids.contains(id) || probabilities[*id] < 1e-30;
        prop_assert!(expected.iter().all(listed) && ids.iter().all(|id| expected.contains(id)));
    }

    #[test]
    fn mirostat_cuts_at_its_limit_and_follows_the_surprise(
        size in sizes(), spread in 0.1..6.0f32, seed: u64, mu in 0.0..12.0f32, tau in 0.5..6.0f32, eta in 0.0..1.0f32,
        position: u32,
    ) {
        let logits = bell(size, spread, seed);
        let logs = log_probabilities(&logits, 1.0);
        let bits = |id: usize| -logs[id] / std::f64::consts::LN_2;
        prop_assume!((0..size).all(|id| (bits(id) - f64::from(mu)).abs() > SLACK));
        let best = (0..size).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("one");
        let expected: Vec<usize> =
            (0..size).filter(|&id| bits(id) <= f64::from(mu) || id == best).collect();
        let params = SamplingParams { mirostat: Some(Mirostat { tau, eta }), ..SamplingParams::default() };
        let row = SampledRow { mirostat_mu: mu, ..described(params, position) };
        let (ids, result) = kept(&logits, &row);
        prop_assert_eq!(&ids, &expected);
        let total: f64 = expected.iter().map(|&id| logs[id].exp()).sum();
        let surprise = (total.ln() - logs[result.token_id as usize]) / std::f64::consts::LN_2;
        let next = f64::from(mu) - f64::from(eta) * (surprise - f64::from(tau));
        prop_assert!((f64::from(result.mirostat_mu.expect("there")) - next).abs() < 1e-4);
    }

    #[test]
    fn several_cuts_follow_one_another_and_leave_a_token(
        size in sizes(), spread in 0.1..6.0f32, seed: u64, position: u32, top_k in 1..20u32,
    ) {
        let logits = bell(size, spread, seed);
        let all = SamplingParams {
            top_k: Some(top_k),
            top_n_sigma: Some(1.0),
            typical_p: 0.5,
            xtc_probability: 1.0,
            xtc_threshold: 0.05,
            mirostat: Some(Mirostat { tau: 1.0, eta: 0.1 }),
            ..SamplingParams::default()
        };
        let row = SampledRow { mirostat_mu: 2.0, ..described(all, position) };
        let (ids, result) = kept(&logits, &row);
        prop_assert!(!ids.is_empty() && ids.len() <= top_k as usize);
        prop_assert!(ids.contains(&(result.token_id as usize)));
        let greedy = SamplingParams { temperature: 0.0, ..(*row.params).clone() };
        let best = run(&logits, &described(greedy, position), &[]);
        prop_assert!(logits.iter().all(|&x| x <= logits[best.token_id as usize]));
        prop_assert_eq!(best.mirostat_mu, None);
    }

    #[test]
    fn repeated_runs_are_found_as_by_comparing_all(
        history in prop::collection::vec(0..4i32, 0..40), size in 1..6usize, last_n in prop::option::of(1..50u32),
        breaker_ids in prop::sample::subsequence(vec![0, 1, 2, 3], 0..2), allowed_length in 0..4u32,
    ) {
        let banned = |token: i32| {
            let mut whole = history.clone();
            whole.push(token);
            let run = &whole[whole.len().saturating_sub(size)..];
            run.len() == size && history.windows(size).any(|each| each == run)
        };
        let found: Vec<i32> = repeats::completions(&history, size).collect();
        for token in 0..4 {
            prop_assert_eq!(found.contains(&token), banned(token), "{}", token);
        }

        let (multiplier, base) = (0.5, 1.5);
        let seen = &history[last_n.map_or(0, |last| history.len().saturating_sub(last as usize))..];
        let expected: Vec<(i32, f32)> = (0..4)
            .filter_map(|token| {
                let length = (1..seen.len())
                    .filter(|&end| seen[end] == token)
                    .map(|end| {
                        (0..end)
                            .take_while(|back| {
                                let now = seen[seen.len() - 1 - back];
                                seen[end - 1 - back] == now && !breaker_ids.contains(&now)
                            })
                            .count()
                    })
                    .max()?;
                let exponent = length.checked_sub(allowed_length as usize).filter(|_| length > 0)?;
                Some((token, multiplier * f32::powi(base, exponent as i32)))
            })
            .collect();
        let dry = Dry { multiplier, base, allowed_length, last_n, breaker_ids };
        let mut scratch = repeats::Repeats::default();
        let penalties: Vec<(i32, f32)> = scratch.penalties(&history, &dry).collect();
        prop_assert_eq!(penalties.len(), expected.len(), "{:?} {:?}", &penalties, &expected);
        for (found, expected) in penalties.iter().zip(&expected) {
            prop_assert_eq!(found.0, expected.0);
            prop_assert!((found.1 / expected.1 - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn repetitions_lower_and_forbid_tokens_of_a_row() {
    let history = [5, 6, 7, 8, 5, 6, 7];
    let logits = vec![1.0; 10];
    let params = SamplingParams {
        no_repeat_ngram_size: 4,
        ..SamplingParams::default()
    };
    let banned = run(&logits, &described(params, 1), &history);
    let listed = banned.logprobs.expect("asked for").top_ids;
    assert_eq!(listed.len(), 9);
    assert!(!listed.contains(&8));
    let params = SamplingParams {
        temperature: 0.0,
        dry: Some(Dry {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            last_n: None,
            breaker_ids: vec![],
        }),
        ..SamplingParams::default()
    };
    let mut logits = vec![0.0; 10];
    logits[8] = 1.4;
    logits[3] = 0.1;
    let drawn =
        |params: &SamplingParams| run(&logits, &described(params.clone(), 1), &history).token_id;
    assert_eq!(drawn(&params), 3); // 8 follows 5 6 7: it loses 0.8 · 1.75
    let breaking = Dry {
        breaker_ids: vec![6],
        ..params.dry.clone().expect("set")
    };
    let params = SamplingParams {
        dry: Some(breaking),
        ..params
    };
    assert_eq!(drawn(&params), 8);
}
