//! Bias, masks and penalties, one at a time.

use inferlib_program::{SampledRow, SamplingParams};

use super::super::Sampler;
use super::{greedy, row};

/// The logits after the edits of `params`; `prompt_len` tokens of `history` are the prompt's.
fn edited(logits: &[f32], params: SamplingParams, history: &[i32], prompt_len: u32) -> Vec<f32> {
    let row = SampledRow {
        history_prompt_len: prompt_len,
        ..row(params)
    };
    let mut logits = logits.to_vec();
    Sampler::new(logits.len()).run(&mut logits, &row, history);
    logits
}

const MASKED: f32 = f32::NEG_INFINITY;

#[test]
fn nothing_is_changed_where_nothing_is_asked_for() {
    let logits = [1.0, -2.0, 0.5];
    assert_eq!(
        edited(
            &logits,
            SamplingParams {
                eos_token_ids: vec![1],
                ..greedy()
            },
            &[0, 1],
            1
        ),
        logits
    );
}

#[test]
fn repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_output_once() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..greedy()
    };
    let got = edited(
        &[4.0, -4.0, 4.0, -4.0, 0.0, MASKED],
        params,
        &[0, 0, 3, 1, 1, 4, 5],
        2,
    );
    assert_eq!(got, [2.0, -8.0, 4.0, -8.0, 0.0, MASKED]);
}

#[test]
fn presence_and_frequency_count_the_output_only() {
    let presence = SamplingParams {
        presence_penalty: 0.5,
        ..greedy()
    };
    let frequency = SamplingParams {
        frequency_penalty: 0.25,
        ..greedy()
    };
    let history = [0, 0, 1, 2, 2, 2];
    assert_eq!(
        edited(&[1.0; 4], presence, &history, 2),
        [1.0, 0.5, 0.5, 1.0]
    );
    assert_eq!(
        edited(&[1.0; 4], frequency, &history, 2),
        [1.0, 0.75, 0.25, 1.0]
    );
}

#[test]
fn repetition_acts_before_presence_and_frequency() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..greedy()
    };
    assert_eq!(
        edited(&[4.0, 0.0], params, &[0, 0], 0),
        [4.0 / 2.0 - 2.0 * 0.25 - 0.5, 0.0]
    );
}

#[test]
fn bias_is_added_before_penalties() {
    let params = SamplingParams {
        logit_bias: vec![(0, 3.0), (2, -1.0)],
        repetition_penalty: 2.0,
        ..greedy()
    };
    assert_eq!(edited(&[1.0, 1.0, 1.0], params, &[0], 1), [2.0, 1.0, 0.0]);
}

#[test]
fn only_allowed_tokens_keep_their_logits_and_their_bias() {
    let params = SamplingParams {
        allowed_token_ids: Some(vec![1, 3, 99]),
        logit_bias: vec![(3, 1.0)],
        ..greedy()
    };
    assert_eq!(
        edited(&[1.0, 2.0, 3.0, 4.0], params, &[], 0),
        [MASKED, 2.0, MASKED, 5.0]
    );
}

#[test]
fn a_grammars_mask_leaves_the_tokens_of_its_bits() {
    for size in [1_u16, 2, 31, 32, 33, 63, 64, 65, 100] {
        let logits: Vec<f32> = (0..size).map(f32::from).collect();
        let is_kept = |token: usize| (64..96).contains(&token) || token % 3 == 1 && token < 32;
        for num_words in [0, 1, 2, 3, 4] {
            let word = |at: usize| {
                (0..32).fold(0, |word, bit| {
                    word | u32::from(is_kept(32 * at + bit)) << bit
                })
            };
            let row = SampledRow {
                mask: Some((0..num_words).map(word).collect()),
                ..row(greedy())
            };
            let mut edited = logits.clone();
            Sampler::new(edited.len()).run(&mut edited, &row, &[]);
            for (token, (&found, &logit)) in edited.iter().zip(&logits).enumerate() {
                let expected = if token < 32 * num_words && is_kept(token) {
                    logit
                } else {
                    MASKED
                };
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{size} {num_words} {token}"
                );
            }
        }
    }
}

#[test]
fn a_bad_word_is_masked_when_the_history_ends_with_its_beginning() {
    let params = |bad_words| SamplingParams {
        bad_words,
        ..greedy()
    };
    let logits = [0.0; 4];
    assert_eq!(
        edited(&logits, params(vec![vec![2]]), &[], 0),
        [0.0, 0.0, MASKED, 0.0]
    );
    assert_eq!(
        edited(&logits, params(vec![vec![1, 2]]), &[0, 1], 1),
        [0.0, 0.0, MASKED, 0.0]
    );
    assert_eq!(
        edited(&logits, params(vec![vec![1, 2]]), &[1, 0], 1),
        logits
    );
    assert_eq!(
        edited(&logits, params(vec![vec![0, 1, 2], vec![3, 3]]), &[1], 0),
        logits
    );
    assert_eq!(
        edited(&logits, params(vec![vec![0, 1, 2], vec![1, 3]]), &[0, 1], 2),
        [0.0, 0.0, MASKED, MASKED]
    );
    assert_eq!(edited(&logits, params(vec![vec![]]), &[0, 1], 2), logits);
}

#[test]
fn stop_tokens_are_masked_until_min_tokens_are_there() {
    let params = SamplingParams {
        min_tokens: 3,
        eos_token_ids: vec![0, 50],
        stop_token_ids: vec![2],
        ..greedy()
    };
    for (num_output_tokens, expected) in [
        (0, [MASKED, 0.0, MASKED]),
        (2, [MASKED, 0.0, MASKED]),
        (3, [0.0; 3]),
    ] {
        let row = SampledRow {
            num_output_tokens,
            ..row(params.clone())
        };
        let mut logits = [0.0; 3];
        Sampler::new(3).run(&mut logits, &row, &[]);
        assert_eq!(logits, expected);
    }
}

#[test]
fn ids_outside_the_vocabulary_are_passed_over() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        frequency_penalty: 1.0,
        logit_bias: vec![(-1, 1.0), (3, 1.0)],
        bad_words: vec![vec![-7], vec![3]],
        min_tokens: 1,
        eos_token_ids: vec![i32::MAX],
        ..greedy()
    };
    assert_eq!(
        edited(&[1.0, 1.0], params, &[-1, 2, i32::MIN, i32::MAX, 1], 1),
        [1.0, -0.5]
    );
}

#[test]
fn counts_of_one_row_do_not_reach_the_next() {
    let mut sampler = Sampler::new(4);
    let params = SamplingParams {
        frequency_penalty: 1.0,
        ..greedy()
    };
    for history in [&[0, 0, 1][..], &[1], &[3, 3]] {
        let mut logits = [0.0; 4];
        sampler.run(&mut logits, &row(params.clone()), history);
        let expected: Vec<f32> = (0..4)
            .map(|id| 0.0 - history.iter().filter(|&&x| x == id).count() as f32)
            .collect();
        assert_eq!(logits[..], expected);
    }
}

#[test]
fn a_history_shorter_than_its_stated_prompt_is_all_prompt() {
    let params = SamplingParams {
        frequency_penalty: 1.0,
        repetition_penalty: 2.0,
        ..greedy()
    };
    assert_eq!(edited(&[1.0, 1.0], params, &[1], 9), [1.0, 0.5]);
}
