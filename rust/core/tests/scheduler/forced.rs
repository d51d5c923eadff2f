//! Certain tokens and tokens that are drawn once more: fewer steps or more, never another result.

use std::collections::HashMap;

use inferlib_core::{
    CLOSING_SECONDS, FinishReason, NewRequest, PromptLookup, Scheduler, SchedulerConfig,
    SequenceOutput,
};
use inferlib_program::{Batch, LogitsRow, RequestId, RowStatus, SamplingParams, StepOutput};
use proptest::prelude::*;

use crate::pretended_executor::{
    REPETITIVE, build, config, group, mix, oracle, params, prompt, request, step,
};

/// Whoever runs a sequence knows its future, mostly.
struct Prophet {
    futures: HashMap<(RequestId, u32), Vec<i32>>,
    seed: u64,
    /// Every so many rows one is drawn once more.
    redraw: u64,
}

impl Prophet {
    /// Tell what follows, at times wrongly, at times too much.
    fn tell(&self, scheduler: &mut Scheduler) {
        for (&(id, index), future) in &self.futures {
            let Some(output) = scheduler.output(id) else {
                continue;
            };
            let done = output.sequences[index as usize].token_ids.len();
            let chance = mix(mix(self.seed, done as u64), u64::from(index) ^ id.0);
            let count = usize::try_from(chance % 9).unwrap();
            let mut tokens: Vec<i32> = future.iter().skip(done).take(count).copied().collect();
            if chance.is_multiple_of(5) && !tokens.is_empty() {
                let last = tokens.len() - 1;
                tokens[last] = (tokens[last] + 1) % 20;
            }
            if !chance.is_multiple_of(7) {
                scheduler.force(id, index, &tokens);
            }
        }
    }

    /// Have some rows drawn once more; never the same one twice in a row.
    fn refuse(&self, batch: &Batch, output: &mut StepOutput) {
        for (row, sampled) in batch.sampled.iter().enumerate() {
            let chance = mix(mix(self.seed, batch.step), row as u64);
            if sampled.kind == LogitsRow::Sample
                && self.redraw > 0
                && chance.is_multiple_of(self.redraw)
            {
                output.status[row] = RowStatus::Redraw;
            }
        }
    }
}

fn is_finished(scheduler: &Scheduler, id: RequestId) -> bool {
    scheduler.output(id).unwrap().is_finished()
}

fn run(
    config: &SchedulerConfig,
    requests: &[NewRequest],
    seed: u64,
    redraw: u64,
    tell: bool,
) -> (Vec<Vec<SequenceOutput>>, usize, u64) {
    let (mut scheduler, mut executor) = build(config.clone());
    let mut prophet = Prophet {
        futures: HashMap::new(),
        seed,
        redraw,
    };
    let mut ids = Vec::new();
    for new in requests {
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        for (index, output) in (0..).zip(oracle(new, config)) {
            prophet.futures.insert((id, index), output.token_ids);
        }
        ids.push(id);
    }
    let mut num_steps = 0;
    loop {
        if tell {
            prophet.tell(&mut scheduler);
        }
        let Some(batch) = scheduler.schedule(0.0) else {
            break;
        };
        let mut output = executor.run(batch);
        prophet.refuse(batch, &mut output);
        scheduler.check_integrity().unwrap();
        scheduler.update(&output, 0.0).unwrap();
        scheduler.check_integrity().unwrap();
        num_steps += 1;
        assert!(num_steps < 20_000, "no end in sight");
    }
    let num_forced = scheduler.stats().num_forced_tokens;
    let outputs = ids
        .into_iter()
        .map(|id| scheduler.take(id).unwrap().sequences)
        .collect();
    (outputs, num_steps, num_forced)
}

#[test]
fn certain_tokens_are_rows_of_one_step_behind_the_prompt_too() {
    let (mut scheduler, mut executor) = build(config());
    let new = request(prompt(1, 20), params(40));
    let future = oracle(&new, &config()).remove(0).token_ids;
    let id = scheduler.submit(new, 0.0).unwrap();
    assert!(scheduler.force(id, 0, &future[..10]));
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.num_tokens(), 30);
    assert_eq!(batch.num_sampled(), 11);
    let output = executor.run(batch);
    assert_eq!(scheduler.update(&output, 0.0).unwrap().token_ids.len(), 11);
    assert_eq!(scheduler.output(id).unwrap().num_forced_tokens, 10);
    assert_eq!(scheduler.stats().num_forced_tokens, 10);
    // A token came: what was said before it is of no use.
    assert_eq!(scheduler.schedule(0.0).unwrap().num_tokens(), 1);
    scheduler.discard_step();
    // No more than fit, and none behind the last one.
    assert!(scheduler.force(id, 0, &[1; 200]));
    assert_eq!(scheduler.schedule(0.0).unwrap().num_tokens(), 1 + 28);
    scheduler.discard_step();
    scheduler.cancel(id, 0.0);
    assert!(!scheduler.force(id, 0, &[1]));
    assert!(!scheduler.force(id, 7, &[1]));
}

#[test]
fn a_token_that_is_drawn_once_more_leaves_its_row_to_the_next_step() {
    let (mut scheduler, mut executor) = build(config());
    let new = request(prompt(1, 20), params(5));
    let expected = oracle(&new, &config());
    let id = scheduler.submit(new, 0.0).unwrap();
    for _ in 0..3 {
        let batch = scheduler.schedule(0.0).unwrap();
        let mut output = executor.run(batch);
        output.status[0] = RowStatus::Redraw;
        let events = scheduler.update(&output, 0.0).unwrap();
        assert!(events.token_ids.is_empty());
        scheduler.check_integrity().unwrap();
        assert_eq!(scheduler.output(id).unwrap().sequences[0].token_ids, []);
    }
    assert_eq!(scheduler.schedule(0.0).unwrap().num_tokens(), 1);
    while step(&mut scheduler, &mut executor, 0.0) {}
    assert_eq!(scheduler.take(id).unwrap().sequences, expected);
}

#[test]
fn a_request_that_closes_has_a_moment_more_if_it_runs_and_has_output() {
    let closing = |seed, count| NewRequest {
        deadline: Some(2.0),
        closes: true,
        ..request(prompt(seed, count), params(50))
    };
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    let running = scheduler.submit(closing(1, 10), 0.0).unwrap();
    let waiting = scheduler.submit(closing(2, 10), 0.0).unwrap();
    step(&mut scheduler, &mut executor, 1.0);
    step(&mut scheduler, &mut executor, 2.5);
    assert!(is_finished(&scheduler, waiting) && !is_finished(&scheduler, running));
    step(&mut scheduler, &mut executor, 2.6);
    assert!(scheduler.finish(running, 0, FinishReason::Deadline, None, 2.7));
    let late = scheduler.submit(closing(3, 10), 0.0).unwrap();
    step(&mut scheduler, &mut executor, 1.0);
    step(&mut scheduler, &mut executor, 3.0);
    assert!(!is_finished(&scheduler, late));
    step(&mut scheduler, &mut executor, 3.1 + CLOSING_SECONDS);
    for id in [running, waiting, late] {
        let sequence = &scheduler.take(id).unwrap().sequences[0];
        assert_eq!(sequence.finish_reason, Some(FinishReason::Deadline));
    }
}

#[test]
fn a_request_that_closes_and_has_no_output_yet_ends_at_its_deadline() {
    let (mut scheduler, mut executor) = build(config());
    let closing = NewRequest {
        deadline: Some(2.0),
        closes: true,
        ..request(prompt(1, 150), params(20))
    };
    let id = scheduler.submit(closing, 0.0).unwrap();
    step(&mut scheduler, &mut executor, 1.0);
    assert!(!is_finished(&scheduler, id));
    step(&mut scheduler, &mut executor, 2.0);
    assert!(is_finished(&scheduler, id));
    let sequence = &scheduler.take(id).unwrap().sequences[0];
    assert_eq!(sequence.finish_reason, Some(FinishReason::Deadline));
    assert_eq!(sequence.token_ids, []);
}

fn requests() -> impl Strategy<Value = Vec<NewRequest>> {
    let one = (
        1..40usize,
        1..30u32,
        any::<u64>(),
        1..4u32,
        any::<bool>(),
        any::<bool>(),
    );
    let request = one.prop_map(|(length, max_tokens, seed, n, logprobs, repetitive)| {
        let params = SamplingParams {
            max_tokens,
            eos_token_ids: vec![3],
            logprobs: logprobs.then_some(0),
            repetition_penalty: if seed % 3 == 0 { 1.5 } else { 1.0 },
            ..SamplingParams::default()
        };
        let seed = if repetitive {
            seed | REPETITIVE
        } else {
            seed & !REPETITIVE
        };
        NewRequest {
            n,
            seed,
            ..request(prompt(seed, length), params)
        }
    });
    proptest::collection::vec(request, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn results_are_those_of_decoding_one_by_one(
        requests in requests(),
        seed in any::<u64>(),
        redraw in prop_oneof![Just(0u64), Just(4)],
        num_blocks in prop_oneof![Just(64u32), 8..14u32],
        budget in prop_oneof![Just(64usize), Just(7)],
        speculation in any::<bool>(),
    ) {
        let config = SchedulerConfig {
            groups: vec![group(num_blocks)],
            max_num_seqs: 6,
            max_num_batched_tokens: budget,
            speculation: speculation.then(PromptLookup::default),
            ..config()
        };
        let (outputs, _, num_forced) = run(&config, &requests, seed, redraw, true);
        for (new, found) in requests.iter().zip(&outputs) {
            prop_assert_eq!(&oracle(new, &config), found);
        }
        if redraw == 0 {
            let (_, num_alone, none) = run(&config, &requests, seed, 0, false);
            let (_, num_told, _) = run(&config, &requests, seed, 0, true);
            prop_assert_eq!(none, 0);
            prop_assert!(num_forced == 0 || num_told <= num_alone + 40, "{num_told} {num_alone}");
        }
    }
}

#[test]
fn certain_tokens_take_nobodys_blocks() {
    let (mut scheduler, _) = build(SchedulerConfig {
        groups: vec![group(3)],
        ..config()
    });
    for seed in 0..2 {
        let id = scheduler
            .submit(request(prompt(seed, 12), params(8)), 0.0)
            .unwrap();
        scheduler.force(id, 0, &[1; 7]);
    }
    let batch = scheduler.schedule(0.0).unwrap();
    // The first took the block that was free, the second has what fits into its own.
    assert_eq!(batch.seq_lens, [19, 16]);
}
