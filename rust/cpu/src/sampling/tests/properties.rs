//! Random rows and parameters against the oracle.

use inferlib_program::{
    LogitsRow, LogprobsMode, RowLogprobs, RowStatus, SampledRow, SamplingParams,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::{Sampler, philox};
use super::{oracle, row, run};

/// Lengths around the lane, the tile and the sort limit, and some beyond.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        select(vec![
            1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 511, 512, 513, 1023, 1025, 4097
        ]),
        1usize..700,
    ]
}

/// Few distinct values, a smooth spread, nearly flat, the ends of the range; a share of them masked.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    (lengths(), 0..5, select(vec![0u8, 0, 1, 128, 250])).prop_flat_map(|(len, shape, masked)| {
        let value = match shape {
            0 => (-3..4i8).prop_map(f32::from).boxed(),
            1 => (-30.0..10.0f32).boxed(),
            2 => (-0.01..0.01f32).boxed(),
            3 => select(vec![
                f32::MAX,
                f32::MIN,
                1e30,
                -1e30,
                0.0,
                -0.0,
                f32::MIN_POSITIVE,
                -1e-40,
            ])
            .boxed(),
            _ => (-4000..4000i32).prop_map(|x| x as f32 / 64.0).boxed(),
        };
        prop::collection::vec((value, any::<u8>()), len).prop_map(move |values| {
            values
                .into_iter()
                .map(|(x, mask)| if mask < masked { f32::NEG_INFINITY } else { x })
                .collect()
        })
    })
}

fn truncation(len: usize) -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![
        Just(1.0f32),
        0.05..4.0f32,
        select(vec![1e-6, 1e6, f32::MIN_POSITIVE, 1e30])
    ];
    let top_k = prop_oneof![
        Just(None),
        (1..=len as u32 + 2).prop_map(Some),
        (1..=20u32).prop_map(Some)
    ];
    let top_p = prop_oneof![
        Just(1.0f32),
        0.0..1.0f32,
        select(vec![0.0, 0.5, 0.9, 0.999, 1.0f32.next_down()])
    ];
    let min_p = prop_oneof![Just(0.0f32), 0.0..1.0f32, select(vec![1e-30, 0.05, 1.0])];
    (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| {
        SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            ..SamplingParams::default()
        }
    })
}

fn row_and_params() -> impl Strategy<Value = (Vec<f32>, SamplingParams, u32)> {
    logits().prop_flat_map(|logits| {
        let params = truncation(logits.len());
        (Just(logits), params, any::<u32>())
    })
}

fn assert_near(got: f32, expected: f64) -> Result<(), TestCaseError> {
    let error = (f64::from(got) - expected).abs();
    let is_near = error <= 4e-6 + 2e-7 * expected.abs() || got == expected as f32;
    prop_assert!(is_near, "log-probability {got}, expected {expected}");
    Ok(())
}

/// `logprobs` describes the distribution of `weights` over `ranking`, both best first.
fn assert_describes(
    logprobs: &RowLogprobs,
    token: usize,
    ranking: &[usize],
    weight_logs: &[f64],
    total: f64,
    count: usize,
) -> Result<(), TestCaseError> {
    let listed: Vec<usize> = logprobs.top_ids.iter().map(|&id| id as usize).collect();
    prop_assert_eq!(&listed, &ranking[..ranking.len().min(count)]);
    for (&got, &weight_log) in logprobs.top_logprobs.iter().zip(weight_logs) {
        assert_near(got, weight_log - total.ln())?;
    }
    let place = ranking
        .iter()
        .position(|&id| id == token)
        .expect("the token is in its own distribution");
    prop_assert_eq!(logprobs.rank as usize, place + 1);
    assert_near(logprobs.logprob, weight_logs[place] - total.ln())
}

/// Logarithms of the weights, best first.
fn weight_logs(logits: &[f32], ranking: &[usize], temperature: f32) -> Vec<f64> {
    let max = f64::from(logits[ranking[0]]);
    ranking
        .iter()
        .map(|&id| (f64::from(logits[id]) - max) / f64::from(temperature))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is kept, its probabilities and the token drawn from it.
    #[test]
    fn truncation_and_draw_match_the_oracle((logits, mut params, position) in row_and_params()) {
        params.logprobs = Some(u32::MAX);
        params.logprobs_mode = LogprobsMode::Processed;
        let row = SampledRow { position, ..row(params) };
        let result = run(&logits, &row, &[]);
        let ranking = oracle::ranking(&logits);
        prop_assert_eq!(result.status == RowStatus::Ok, !ranking.is_empty());
        let Some(logprobs) = result.logprobs else { return Ok(()) };
        let (least, most) = oracle::kept(&logits, &ranking, &row.params);
        let count = logprobs.top_ids.len();
        prop_assert!((least..=most).contains(&count), "kept {} of {}..={}", count, least, most);

        let kept = &ranking[..count];
        let weights = oracle::weights(&logits, kept, row.params.temperature);
        let total: f64 = weights.iter().sum();
        let token = result.token_id as usize;
        let logs = weight_logs(&logits, kept, row.params.temperature);
        assert_describes(&logprobs, token, kept, &logs, total, count)?;

        let below: f64 = kept.iter().zip(&weights).filter(|(id, _)| **id < token).map(|(_, w)| w).sum();
        let upto: f64 = kept.iter().zip(&weights).filter(|(id, _)| **id <= token).map(|(_, w)| w).sum();
        let uniform = philox::uniform(row.seed, row.sequence_index, row.position);
        prop_assert!(below / total - 4e-6 <= uniform && uniform <= upto / total + 4e-6);
    }

    /// Greedy takes the head of the ranking; raw log-probabilities and scores describe the logits as they came.
    #[test]
    fn greedy_raw_and_scored_rows_match_the_oracle((logits, _, _) in row_and_params(), count in 0..40u32, at: Index) {
        let ranking = oracle::ranking(&logits);
        if ranking.is_empty() {
            return Ok(());
        }
        let target = ranking[at.index(ranking.len())];
        let params = SamplingParams {
            temperature: 0.0,
            logprobs: Some(count),
            prompt_logprobs: Some(count),
            ..SamplingParams::default()
        };
        let logs = weight_logs(&logits, &ranking, 1.0);
        let total = logs.iter().map(|log| log.exp()).sum();

        let drawn = run(&logits, &row(params.clone()), &[]);
        prop_assert_eq!(drawn.token_id as usize, ranking[0]);
        let logprobs = drawn.logprobs.expect("asked for");
        assert_describes(&logprobs, ranking[0], &ranking, &logs, total, count as usize)?;

        let scored_row = SampledRow { kind: LogitsRow::Score { target: target as i32 }, ..row(params) };
        let scored = run(&logits, &scored_row, &[]);
        prop_assert_eq!(scored.token_id as usize, target);
        let logprobs = scored.logprobs.expect("a scored row always has them");
        assert_describes(&logprobs, target, &ranking, &logs, total, count as usize)?;
    }

    /// Masked tokens at the end of the vocabulary, and rows that were sampled before, leave no trace.
    #[test]
    fn a_result_depends_on_its_row_alone(
        (logits, mut params, position) in row_and_params(),
        (other_logits, other_params, _) in row_and_params(),
        padding in 1usize..600,
        mode in select(vec![LogprobsMode::Raw, LogprobsMode::Processed]),
    ) {
        // As many as there are tokens is no `top_k`; with padding it would be one.
        params.top_k = params.top_k.filter(|&k| (k as usize) < logits.len());
        params.logprobs = Some(5);
        params.logprobs_mode = mode;
        params.repetition_penalty = 1.3;
        params.frequency_penalty = 0.1;
        let history: Vec<i32> = (0..20).collect();
        let row = SampledRow { position, history_prompt_len: 5, ..row(params) };
        let alone = run(&logits, &row, &history);

        let mut used = Sampler::new(1);
        used.run(&mut other_logits.clone(), &super::row(other_params), &[]);
        used.run(&mut other_logits.clone(), &row, &history);
        prop_assert_eq!(&used.run(&mut logits.clone(), &row, &history), &alone);

        let mut padded = logits.clone();
        padded.resize(logits.len() + padding, f32::NEG_INFINITY);
        prop_assert_eq!(&used.run(&mut padded, &row, &history), &alone);
    }

    /// Every edit at once, on small vocabularies where they meet.
    #[test]
    fn edits_match_the_oracle(
        logits in prop::collection::vec(-4.0..4.0f32, 1..12),
        history in prop::collection::vec(-1..13i32, 0..12),
        prompt_share: Index,
        bias in prop::collection::vec((0..13i32, -3.0..3.0f32), 0..4),
        allowed in prop::option::of(prop::collection::btree_set(0..13i32, 0..8)),
        bad_words in prop::collection::vec(prop::collection::vec(0..13i32, 0..4), 0..4),
        stops in prop::collection::btree_set(0..13i32, 0..3),
        num_output_tokens in 0..4u32,
        (repetition_penalty, presence_penalty, frequency_penalty) in (0.5..2.0f32, -2.0..2.0f32, -2.0..2.0f32),
        are_penalties_off: bool,
        mask in prop::option::of(any::<u32>()),
    ) {
        let mask = mask.map(|word| [word].into());
        let mut params = SamplingParams {
            temperature: 0.0,
            logit_bias: bias,
            allowed_token_ids: allowed.map(|ids| ids.into_iter().collect()),
            bad_words,
            min_tokens: 2,
            eos_token_ids: stops.iter().copied().take(1).collect(),
            stop_token_ids: stops.iter().copied().skip(1).collect(),
            logprobs: Some(u32::MAX),
            logprobs_mode: LogprobsMode::Processed,
            ..SamplingParams::default()
        };
        if !are_penalties_off {
            (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) =
                (repetition_penalty, presence_penalty, frequency_penalty);
        }
        let history_prompt_len = prompt_share.index(history.len() + 1) as u32;
        let row = SampledRow { num_output_tokens, history_prompt_len, mask, ..row(params) };
        let edited = oracle::edited(&logits, &row, &history);
        let ranking = oracle::ranking(&edited);
        let result = run(&logits, &row, &history);
        prop_assert_eq!(result.status == RowStatus::Ok, !ranking.is_empty());
        if let Some(logprobs) = result.logprobs {
            let logs = weight_logs(&edited, &ranking, 1.0);
            let total = logs.iter().map(|log| log.exp()).sum();
            prop_assert_eq!(result.token_id as usize, ranking[0]);
            assert_describes(&logprobs, ranking[0], &ranking, &logs, total, ranking.len())?;
        }
    }
}
