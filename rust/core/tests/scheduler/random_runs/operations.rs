//! Random configurations, requests, and what may happen to them.

use std::sync::Arc;

use inferlib_core::{
    CapturePoint, Captures, DraftModel, NewRequest, Policy, PrefixHash, PromptLookup,
    SchedulerConfig,
};
use inferlib_program::SamplingParams;
use inferlib_program::program::Rows;
use proptest::prelude::*;

use crate::pretended_executor::{LOGITS_POINT, SEQUENCE_POINT, TOKEN_POINT, config, group, prompt};

#[derive(Clone, Debug)]
pub enum Operation {
    Submit(NewRequest),
    Step,
    /// The step ran partly and broke off.
    Interrupted,
    /// Cancel the k-th living request, between steps or while one is in flight.
    Cancel {
        which: usize,
        in_flight: bool,
    },
    /// End one sequence of it, as a stop string would.
    Finish {
        which: usize,
        sequence: u32,
        in_flight: bool,
    },
    /// Something with the k-th held sequence.
    Held {
        which: usize,
        change: HeldChange,
        in_flight: bool,
    },
}

#[derive(Clone, Debug)]
pub enum HeldChange {
    Open(Option<String>),
    Fork,
    Rewind(usize),
    Close,
    /// Its tokens and those of the request's prompt are a new request's; with `keep` they are the sequence's at its
    /// end.
    Continue {
        request: NewRequest,
        keep: bool,
    },
    /// Its tokens come back from a file, with K and V of the first of them.
    Restore(Vec<i32>, usize),
}

pub fn arbitrary_params() -> impl Strategy<Value = SamplingParams> {
    (
        0..40_u32,
        0..8_u32,
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.25, 0..60_u32),
        any::<bool>(),
    )
        .prop_map(
            |(max_tokens, min_tokens, eos, logprobs, score_from, penalties)| SamplingParams {
                max_tokens: if score_from.is_some() {
                    max_tokens
                } else {
                    max_tokens.max(1)
                },
                min_tokens: min_tokens.min(max_tokens),
                eos_token_ids: if eos { vec![3] } else { vec![] },
                stop_token_ids: if eos { vec![5] } else { vec![] },
                logprobs: logprobs.then_some(0),
                prompt_logprobs: score_from.map(|_| 0),
                prompt_logprobs_start: score_from.unwrap_or(0),
                repetition_penalty: if penalties { 1.5 } else { 1.0 },
                ..SamplingParams::default()
            },
        )
}

/// Prompts share much: prefixes of few texts, sometimes with another tail, and rows of few repeated blocks.
pub fn arbitrary_prompt() -> impl Strategy<Value = Vec<i32>> {
    let texts = (
        0..3_u64,
        1..80_usize,
        prop::option::of((0..3_u64, 1..20_usize)),
    );
    let texts = texts.prop_map(|(text, length, tail)| {
        let tail = tail.map_or(vec![], |(text, length)| prompt(100 + text, length));
        [prompt(text, length), tail].concat()
    });
    let blocks = (prop::collection::vec(0..2_u64, 0..5), 0..17_usize);
    let blocks = blocks.prop_map(|(blocks, rest)| {
        let whole = blocks.into_iter().flat_map(|block| prompt(200 + block, 16));
        whole.chain(prompt(200, rest)).collect()
    });
    prop_oneof![texts, blocks]
}

/// Its deadline counts from when it is submitted.
pub fn arbitrary_request() -> impl Strategy<Value = NewRequest> {
    (
        arbitrary_prompt(),
        arbitrary_params(),
        (prop_oneof![3 => Just(1), 1 => 2..6_u32], any::<u64>()),
        prop::option::weighted(0.3, prop_oneof![Just("a".to_owned()), Just("b".to_owned())]),
        prop_oneof![4 => Just(0), 1 => -1..2_i32],
        prop::bool::weighted(0.9),
        (
            prop::option::weighted(0.7, prop_oneof![Just("x".to_owned()), Just("y".to_owned())]),
            prop::option::weighted(0.2, 0..40_u32),
            prop::option::weighted(0.25, (0..60_usize, 1..8_u8)),
            prop_oneof![3 => Just(0), 1 => 1..3_u32],
            prop::bool::weighted(0.2),
        ),
    )
        .prop_map(
            |(prompt, params, (n, seed), cache_salt, priority, speculation, whose)| NewRequest {
                captures: captures(whose.2, prompt.len()),
                second_segment: None,
                prompt,
                params: Arc::new(params),
                n,
                seed,
                cache_salt,
                priority,
                tenant: whose.0,
                deadline: whose.1.map(f64::from),
                closes: false,
                speculation,
                draft_model: true,
                continues: None,
                adapter: whose.3,
                background: whose.4,
            },
        )
}

/// Some of the points, from some token of the prompt on.
fn captures(wanted: Option<(usize, u8)>, prompt_len: usize) -> Captures {
    let Some((start, which)) = wanted else {
        return Captures::default();
    };
    let points = [
        (1, TOKEN_POINT, Rows::Tokens),
        (2, SEQUENCE_POINT, Rows::Sequences),
        (4, LOGITS_POINT, Rows::Sampled),
    ];
    let wanted = points.into_iter().filter(|&(bit, ..)| which & bit != 0);
    Captures {
        points: wanted
            .map(|(_, point, rows)| CapturePoint { point, rows })
            .collect(),
        start: start % prompt_len.max(1),
    }
}

pub fn arbitrary_held_change() -> impl Strategy<Value = HeldChange> {
    let extension = prop_oneof![Just(0_usize), 1..40_usize];
    prop_oneof![
        2 => prop::option::weighted(0.3, Just("a".to_owned())).prop_map(HeldChange::Open),
        3 => Just(HeldChange::Fork),
        2 => (0..40_usize).prop_map(HeldChange::Rewind),
        1 => Just(HeldChange::Close),
        6 => (arbitrary_request(), extension, prop::bool::weighted(0.8)).prop_map(
            |(mut request, extension, keep)| {
                request.prompt.truncate(extension);
                request.n = if keep { 1 } else { request.n };
                request.adapter = 0;
                HeldChange::Continue { request, keep }
            }
        ),
        1 => (arbitrary_prompt(), 0..100_usize)
            .prop_map(|(tokens, computed)| HeldChange::Restore(tokens, computed)),
    ]
}

pub fn arbitrary_speculation() -> impl Strategy<Value = Option<PromptLookup>> {
    let lookup = (1..10_usize, 1..4_usize, 0..5_usize);
    let lookup =
        lookup.prop_map(
            |(num_speculative_tokens, prompt_lookup_min, more)| PromptLookup {
                num_speculative_tokens,
                prompt_lookup_min,
                prompt_lookup_max: prompt_lookup_min + more,
            },
        );
    prop::option::weighted(0.75, lookup)
}

pub fn arbitrary_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Fcfs),
        (1..30_u32).prop_map(|steps_per_class| Policy::Priority { steps_per_class }),
        (1..4_u32, 1..4_u32).prop_map(|(input_weight, output_weight)| Policy::FairShare {
            input_weight,
            output_weight
        }),
        (0..50_u32).prop_map(|seconds| Policy::Deadline {
            patience_seconds: f64::from(seconds)
        }),
    ]
}

pub fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => arbitrary_request().prop_map(Operation::Submit),
        10 => Just(Operation::Step),
        1 => Just(Operation::Interrupted),
        1 => (0..8_usize, any::<bool>())
            .prop_map(|(which, in_flight)| Operation::Cancel { which, in_flight }),
        5 => (0..6_usize, arbitrary_held_change(), prop::bool::weighted(0.2)).prop_map(
            |(which, change, in_flight)| Operation::Held { which, change, in_flight }
        ),
        1 => (0..8_usize, 0..3_u32, any::<bool>()).prop_map(|(which, sequence, in_flight)| {
            Operation::Finish { which, sequence, in_flight }
        }),
    ]
}

pub fn arbitrary_config() -> impl Strategy<Value = SchedulerConfig> {
    (
        prop::collection::vec(7..24_u32, 1..3),
        1..8_usize,
        1..48_usize,
        any::<bool>(),
        prop::option::of(1..20_usize),
        prop_oneof![Just(128_u32), Just(4), Just(1)],
        (
            arbitrary_speculation(),
            1..14_usize,
            prop::bool::weighted(0.15),
            prop::option::weighted(0.4, 1..10_usize),
        ),
        arbitrary_policy(),
    )
        .prop_map(
            |(
                blocks,
                max_num_seqs,
                max_num_batched_tokens,
                caching,
                max_chunk,
                bits,
                drafts,
                policy,
            )| {
                SchedulerConfig {
                    groups: blocks.into_iter().map(group).collect(),
                    max_num_seqs,
                    max_num_batched_tokens,
                    max_model_len: 130,
                    speculation: drafts.0,
                    draft_model: drafts.3.map(|num_speculative_tokens| DraftModel {
                        num_speculative_tokens,
                    }),
                    rows_per_pass: drafts.1,
                    policy,
                    enable_prefix_caching: caching,
                    whole_prompts: drafts.2,
                    max_chunk,
                    prefix_hash: PrefixHash {
                        bits,
                        ..PrefixHash::default()
                    },
                    ..config()
                }
            },
        )
}
