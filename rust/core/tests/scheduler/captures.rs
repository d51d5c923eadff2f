//! Rows that are handed out of the forward pass, and prompts that are whole steps.

use std::sync::Arc;

use inferlib_core::{
    CapturePoint, Captures, NewRequest, PromptLimit, Scheduler, SchedulerConfig, SubmitError,
    UpdateError,
};
use inferlib_program::program::Rows;
use inferlib_program::{Batch, SamplingParams, StepOutput};

use crate::pretended_executor::{
    FakeExecutor, LOGITS_POINT, SEQUENCE_POINT, TOKEN_POINT, build, config, group, oracle_captures,
    prompt,
};

fn points(points: &[(u32, Rows)]) -> Vec<CapturePoint> {
    let point = |&(point, rows)| CapturePoint { point, rows };
    points.iter().map(point).collect()
}

/// Only computed; of every token from `start` on, and of the sequence.
fn request(prompt: Vec<i32>, start: usize) -> NewRequest {
    let params = SamplingParams {
        max_tokens: 0,
        prompt_logprobs: Some(0),
        prompt_logprobs_start: u32::MAX,
        ..SamplingParams::default()
    };
    NewRequest {
        captures: Captures {
            points: points(&[
                (TOKEN_POINT, Rows::Tokens),
                (SEQUENCE_POINT, Rows::Sequences),
            ]),
            start,
        },
        ..NewRequest::new(prompt, Arc::new(params))
    }
}

fn whole() -> SchedulerConfig {
    SchedulerConfig {
        whole_prompts: true,
        ..config()
    }
}

/// Run all that there is; tokens per sequence of each step.
fn drain(scheduler: &mut Scheduler, executor: &mut FakeExecutor) -> Vec<Vec<i32>> {
    let mut steps = Vec::new();
    while let Some(batch) = scheduler.schedule(0.0) {
        let rows = batch.query_start_loc.windows(2);
        steps.push(rows.map(|pair| pair[1] - pair[0]).collect());
        let output = executor.run(batch);
        scheduler.check_integrity().unwrap();
        scheduler.update(&output, 0.0).unwrap();
        scheduler.check_integrity().unwrap();
    }
    steps
}

#[test]
fn a_cache_hit_stops_where_rows_are_wanted() {
    let config = config();
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    for (start, cached) in [(0, 0), (0, 0), (40, 32), (99, 96), (16, 16)] {
        let new = request(prompt(1, 100), start);
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.num_cached_tokens, cached, "start {start}");
        assert_eq!(output.captures, oracle_captures(&new), "start {start}");
    }
}

#[test]
fn rows_are_collected_over_chunks() {
    let config = SchedulerConfig {
        max_num_batched_tokens: 7,
        ..config()
    };
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    let new = request(prompt(1, 50), 3);
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    assert_eq!(drain(&mut scheduler, &mut executor).len(), 8);
    assert_eq!(scheduler.take(id).unwrap().captures, oracle_captures(&new));
}

/// States of every token from `start` on, and its logits; then `max_tokens` tokens.
fn with_logits(prompt: Vec<i32>, start: usize, max_tokens: u32) -> NewRequest {
    let params = SamplingParams {
        max_tokens,
        prompt_logprobs: Some(0),
        prompt_logprobs_start: u32::try_from(start + 1).unwrap(),
        ..SamplingParams::default()
    };
    let mut new = request(prompt, start);
    new.captures.points = points(&[(TOKEN_POINT, Rows::Tokens), (LOGITS_POINT, Rows::Sampled)]);
    new.params = Arc::new(params);
    new
}

#[test]
fn logits_of_the_prompt_are_collected_over_chunks_and_behind_cache_hits() {
    for max_num_batched_tokens in [7, 64] {
        let config = SchedulerConfig {
            max_num_batched_tokens,
            ..config()
        };
        let mut executor = FakeExecutor::new(&config.groups);
        let mut scheduler = Scheduler::new(config).unwrap();
        for (start, max_tokens) in [(0, 1), (3, 9), (33, 1), (49, 4)] {
            let new = with_logits(prompt(1, 50), start, max_tokens);
            let id = scheduler.submit(new.clone(), 0.0).unwrap();
            scheduler.submit(request(prompt(2, 20), 0), 0.0).unwrap();
            drain(&mut scheduler, &mut executor);
            let output = scheduler.take(id).unwrap();
            assert_eq!(output.captures, oracle_captures(&new), "start {start}");
        }
    }
}

#[test]
fn logits_are_handed_out_once_though_a_preempted_request_computes_them_again() {
    // Both prompts fit, but not what both generate.
    let config = SchedulerConfig {
        groups: vec![group(5)],
        enable_prefix_caching: false,
        ..config()
    };
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    let requests = [1, 2].map(|seed| with_logits(prompt(seed, 30), 5, 30));
    let ids = requests
        .each_ref()
        .map(|new| scheduler.submit(new.clone(), 0.0).unwrap());
    drain(&mut scheduler, &mut executor);
    let outputs = ids.map(|id| scheduler.take(id).unwrap());
    assert!(outputs.iter().any(|output| output.num_preemptions > 0));
    for (output, new) in outputs.iter().zip(&requests) {
        assert_eq!(output.captures, oracle_captures(new));
    }
}

#[test]
fn a_result_without_the_rows_is_refused() {
    let config = config();
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    scheduler.submit(request(prompt(1, 20), 0), 0.0).unwrap();
    let output = executor.run(scheduler.schedule(0.0).unwrap());
    let short = StepOutput {
        captures: output.captures[1..].to_vec(),
        ..output.clone()
    };
    assert_eq!(
        scheduler.update(&short, 0.0).unwrap_err(),
        UpdateError::Length {
            array: "captures",
            expected: 2,
            found: 1
        }
    );
    scheduler.update(&output, 0.0).unwrap();
}

#[test]
fn captures_that_cannot_be_are_refused() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    let mut twice = request(prompt(1, 20), 0);
    twice.captures.points = points(&[(TOKEN_POINT, Rows::Tokens), (TOKEN_POINT, Rows::Tokens)]);
    for new in [request(prompt(1, 20), 20), twice] {
        assert_eq!(
            scheduler.submit(new, 0.0).unwrap_err(),
            SubmitError::InvalidCaptures
        );
    }
}

#[test]
fn whole_prompts_fill_steps_and_are_never_cut() {
    let config = SchedulerConfig {
        max_chunk: Some(5),
        ..whole()
    };
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    let requests: Vec<_> = [30, 30, 10, 64, 1, 1]
        .into_iter()
        .map(|length| request(prompt(1, length), 0))
        .collect();
    let ids: Vec<_> = requests
        .iter()
        .map(|new| scheduler.submit(new.clone(), 0.0).unwrap())
        .collect();
    let steps = drain(&mut scheduler, &mut executor);
    assert_eq!(steps, [vec![30, 30], vec![10], vec![64], vec![1, 1]]);
    for (id, new) in ids.into_iter().zip(requests) {
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.num_cached_tokens, 0);
        assert_eq!(output.captures, oracle_captures(&new));
    }
    let stats = scheduler.stats();
    assert!(stats.groups.iter().all(|g| g.num_free == g.num_blocks));
}

#[test]
fn whole_prompts_in_the_background_are_a_step_each() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        background_tokens: 8,
        ..whole()
    });
    for seed in 0..3 {
        let behind = NewRequest {
            background: true,
            ..request(prompt(seed, 20), 0)
        };
        scheduler.submit(behind, 0.0).unwrap();
    }
    scheduler.submit(request(prompt(9, 30), 0), 0.0).unwrap();
    let steps = drain(&mut scheduler, &mut executor);
    assert_eq!(steps, [vec![30], vec![20], vec![20], vec![20]]);
}

#[test]
fn whole_prompts_use_all_blocks() {
    // 4 blocks: two prompts of 2 blocks each run together, though none is left for them to grow.
    let config = SchedulerConfig {
        groups: vec![group(4)],
        ..whole()
    };
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    for _ in 0..3 {
        scheduler.submit(request(prompt(1, 20), 0), 0.0).unwrap();
    }
    let steps = drain(&mut scheduler, &mut executor);
    assert_eq!(steps, [vec![20, 20], vec![20]]);
}

#[test]
fn a_discarded_step_of_whole_prompts_is_planned_again() {
    let config = whole();
    let mut executor = FakeExecutor::new(&config.groups);
    let mut scheduler = Scheduler::new(config).unwrap();
    let new = request(prompt(1, 40), 0);
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    scheduler.submit(request(prompt(2, 20), 0), 0.0).unwrap();
    executor.interrupt(scheduler.schedule(0.0).unwrap());
    scheduler.discard_step();
    scheduler.check_integrity().unwrap();
    scheduler.submit(request(prompt(3, 20), 0), 0.0).unwrap();
    let steps = drain(&mut scheduler, &mut executor);
    assert_eq!(steps, [vec![40, 20], vec![20]]);
    assert_eq!(scheduler.take(id).unwrap().captures, oracle_captures(&new));
}

#[test]
fn what_whole_prompts_cannot_have_is_refused_by_name() {
    let mut scheduler = Scheduler::new(whole()).unwrap();
    let held = scheduler.open_sequence(None);
    let new = |change: &dyn Fn(&mut NewRequest, &mut SamplingParams)| {
        let mut new = request(prompt(1, 20), 0);
        let mut params = (*new.params).clone();
        change(&mut new, &mut params);
        new.params = Arc::new(params);
        new
    };
    let continues = inferlib_core::Continuation {
        sequence: held,
        keep: false,
    };
    for (field, new) in [
        ("max_tokens", new(&|_, params| params.max_tokens = 1)),
        (
            "prompt_logprobs",
            new(&|_, params| params.prompt_logprobs_start = 19),
        ),
        ("n", new(&|new, _| new.n = 2)),
        ("sequence", new(&|new, _| new.continues = Some(continues))),
    ] {
        assert_eq!(
            scheduler.submit(new, 0.0).unwrap_err(),
            SubmitError::WholePrompts { field }
        );
    }
    assert_eq!(
        scheduler
            .submit(request(prompt(1, 65), 0), 0.0)
            .unwrap_err(),
        SubmitError::PromptTooLong {
            prompt_tokens: 65,
            limit: 64,
            because: PromptLimit::Step
        }
    );
}

/// A column of the batch of these requests, and of that of another one like the first, once they have ended.
fn columns<T: Clone>(requests: Vec<NewRequest>, column: fn(&Batch) -> &Vec<T>) -> [Vec<T>; 2] {
    let (mut scheduler, mut executor) = build(whole());
    let plain = requests[0].clone();
    for request in requests {
        scheduler.submit(request, 0.0).unwrap();
    }
    let batch = scheduler.schedule(0.0).unwrap();
    let first = column(batch).clone();
    let output = executor.run(batch);
    scheduler.update(&output, 0.0).unwrap();
    scheduler.submit(plain, 0.0).unwrap();
    [first, column(scheduler.schedule(0.0).unwrap()).clone()]
}

#[test]
fn second_texts_are_marked_once_there_is_one() {
    let of = |second_segment| NewRequest {
        second_segment,
        ..request(prompt(1, 4), 0)
    };
    let requests = [None, Some(3), None, Some(9)].map(of);
    let [marked, without] = columns(requests.into(), |batch| &batch.segment_ids);
    assert_eq!(marked, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(without.is_empty());
}

#[test]
fn adapters_are_told_for_every_sequence_once_one_has_some() {
    let of = |adapter| NewRequest {
        adapter,
        ..request(prompt(1, 4), 0)
    };
    let requests = [0, 3, 0, 1].map(of);
    let [told, without] = columns(requests.into(), |batch| &batch.adapters);
    assert_eq!(told, [0, 3, 0, 1]);
    assert!(without.is_empty());
}
