//! Drafts of a draft model: who is asked for them, how many become rows, and that nobody can tell from the results.

use inferlib_core::{
    DraftModel, FinishReason, NewRequest, PromptLookup, Scheduler, SchedulerConfig, SequenceOutput,
    WantedDraft,
};
use inferlib_program::{Mirostat, RequestId, SamplingParams};
use proptest::prelude::*;

use crate::pretended_executor::{
    FakeExecutor, REPETITIVE, VOCAB_SIZE, build, config, group, mix, oracle, params, prompt,
    request,
};

fn assisted() -> SchedulerConfig {
    SchedulerConfig {
        draft_model: Some(DraftModel {
            num_speculative_tokens: 8,
        }),
        enable_prefix_caching: false,
        ..config()
    }
}

/// Noise, in which nothing repeats.
fn noise(seed: u64, max_tokens: u32) -> NewRequest {
    NewRequest {
        seed,
        ..request(prompt(seed, 20), params(max_tokens))
    }
}

/// What every sequence will say, and how often a draft of it is right.
struct DraftingModel {
    futures: Vec<(RequestId, usize, Vec<SequenceOutput>)>,
    /// Of a hundred tokens.
    num_right: u64,
    num_asked: usize,
}

impl DraftingModel {
    fn new(num_right: u64) -> Self {
        Self {
            futures: Vec::new(),
            num_right,
            num_asked: 0,
        }
    }

    fn submit(&mut self, scheduler: &mut Scheduler, new: &NewRequest) -> RequestId {
        let future = oracle(new, scheduler.config());
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        self.futures.push((id, new.prompt.len(), future));
        id
    }

    fn draft(&self, wanted: WantedDraft) -> Vec<i32> {
        let of = |each: &&(RequestId, usize, _)| each.0 == wanted.request_id;
        let (id, num_prompt, future) = self.futures.iter().find(of).unwrap();
        let done = wanted.num_tokens - num_prompt;
        let said = &future[wanted.sequence_index as usize].token_ids[done..];
        let tokens = said.iter().take(wanted.num_drafts).enumerate();
        let tokens = tokens.map(|(place, &token)| {
            let chance = mix(mix(id.0, (done + place) as u64), 77) % 100;
            if chance < self.num_right {
                token
            } else {
                (token + 1) % i32::try_from(VOCAB_SIZE).unwrap()
            }
        });
        tokens.collect()
    }

    /// Rows per sequence of each step until the end.
    fn run(&mut self, scheduler: &mut Scheduler, executor: &mut FakeExecutor) -> Vec<Vec<i32>> {
        let mut rows = Vec::new();
        loop {
            for wanted in scheduler.wanted_drafts().to_vec() {
                self.num_asked += 1;
                let tokens = self.draft(wanted);
                assert!(scheduler.suggest(wanted.request_id, wanted.sequence_index, &tokens));
            }
            scheduler.check_integrity().unwrap();
            let Some(batch) = scheduler.schedule(0.0) else {
                return rows;
            };
            let starts = batch.query_start_loc.windows(2);
            rows.push(starts.map(|pair| pair[1] - pair[0]).collect());
            let output = executor.run(batch);
            scheduler.check_integrity().unwrap();
            scheduler.update(&output, 0.0).unwrap();
            scheduler.check_integrity().unwrap();
        }
    }
}

#[test]
fn a_model_that_is_always_right_fills_the_rows_and_is_counted_apart() {
    let (mut scheduler, mut executor) = build(assisted());
    let mut model = DraftingModel::new(100);
    let new = noise(1, 60);
    let id = model.submit(&mut scheduler, &new);
    let rows = model.run(&mut scheduler, &mut executor);
    assert_eq!(rows[0], [20]);
    assert!(rows.len() < 18, "{rows:?}");
    assert!(rows[6..rows.len() - 1].iter().all(|rows| rows == &[6]));
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    let saved = 60 - (rows.len() as u64);
    assert_eq!(output.num_model_drafted_tokens, saved);
    assert_eq!(output.num_model_accepted_tokens, saved);
    assert_eq!(output.num_drafted_tokens, saved);
    let stats = scheduler.stats();
    assert_eq!(stats.num_model_drafted_tokens, saved);
    assert_eq!(stats.num_model_accepted_tokens, saved);
    assert_eq!(stats.num_accepted_tokens, saved);
}

#[test]
fn a_model_that_is_never_right_is_hardly_asked_any_more_and_the_next_sequence_knows() {
    let (mut scheduler, mut executor) = build(assisted());
    let mut model = DraftingModel::new(0);
    for seed in 0..4 {
        model.submit(&mut scheduler, &noise(seed, 150));
        let rows = model.run(&mut scheduler, &mut executor);
        assert_eq!(rows.len(), 150);
    }
    assert!(model.num_asked < 60, "{}", model.num_asked);
    let before = model.num_asked;
    model.submit(&mut scheduler, &noise(9, 150));
    model.run(&mut scheduler, &mut executor);
    assert!(model.num_asked - before < 8, "{}", model.num_asked - before);
    assert_eq!(scheduler.stats().num_accepted_tokens, 0);
}

#[test]
fn nobody_asks_where_there_is_no_model_or_no_room_or_a_prompt_comes_in_between() {
    let (mut scheduler, mut executor) = build(config());
    let id = scheduler.submit(noise(1, 9), 0.0).unwrap();
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    assert_eq!(scheduler.wanted_drafts(), []);
    assert!(!scheduler.suggest(id, 0, &[1]));

    let (mut scheduler, mut executor) = build(assisted());
    for seed in 0..6 {
        scheduler.submit(noise(seed, 9), 0.0).unwrap();
    }
    assert_eq!(scheduler.wanted_drafts(), []);
    while scheduler.stats().num_waiting_requests > 0 {
        crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    }
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    // Six rows are what a pass carries.
    assert_eq!(scheduler.wanted_drafts(), []);

    let (mut scheduler, mut executor) = build(assisted());
    let id = scheduler.submit(noise(1, 9), 0.0).unwrap();
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    let wanted = scheduler.wanted_drafts().to_vec();
    let expected = WantedDraft {
        request_id: id,
        sequence_index: 0,
        num_tokens: 21,
        num_drafts: 2,
    };
    assert_eq!(wanted, [expected]);
    scheduler.submit(noise(2, 9), 0.0).unwrap();
    assert_eq!(scheduler.wanted_drafts(), []);
    // A draft that was made all the same is not drawn at while a prompt is computed.
    assert!(scheduler.suggest(id, 0, &[1, 2]));
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.query_start_loc, [0, 1, 21]);
    let output = executor.run(batch);
    scheduler.update(&output, 0.0).unwrap();
    // It was for that step only.
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.query_start_loc, [0, 1, 2]);
}

#[test]
fn requests_that_do_not_want_drafts_get_none() {
    let (mut scheduler, mut executor) = build(assisted());
    let silent = NewRequest {
        draft_model: false,
        ..noise(1, 9)
    };
    let last = noise(2, 1);
    let stateful = NewRequest {
        params: std::sync::Arc::new(SamplingParams {
            mirostat: Some(Mirostat { tau: 5.0, eta: 0.1 }),
            ..params(9)
        }),
        ..noise(3, 9)
    };
    let mut ids = Vec::new();
    for new in [silent, last, stateful] {
        ids.push(scheduler.submit(new, 0.0).unwrap());
    }
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    assert_eq!(scheduler.wanted_drafts(), []);
    assert!(!scheduler.suggest(ids[0], 0, &[1]));
    assert!(!scheduler.suggest(ids[1], 0, &[1]), "it has ended");
    assert!(!scheduler.suggest(ids[2], 0, &[1]));
    assert!(!scheduler.suggest(ids[0], 7, &[1]));
}

#[test]
fn tokens_that_the_model_does_not_have_end_a_suggestion() {
    let (mut scheduler, mut executor) = build(assisted());
    let id = scheduler.submit(noise(1, 9), 0.0).unwrap();
    crate::pretended_executor::step(&mut scheduler, &mut executor, 0.0);
    let beyond = i32::try_from(VOCAB_SIZE).unwrap();
    for (told, expected) in [(vec![3, beyond, 4], 1), (vec![-1, 3], 0), (vec![3, 4], 2)] {
        assert!(scheduler.suggest(id, 0, &told));
        let batch = scheduler.schedule(0.0).unwrap();
        assert_eq!(batch.num_tokens(), 1 + expected);
        scheduler.discard_step();
    }
    // What was told is still known after a step that failed; nobody is asked again.
    assert_eq!(scheduler.wanted_drafts(), []);
    assert_eq!(scheduler.schedule(0.0).unwrap().num_tokens(), 3);
}

#[test]
fn what_repeats_itself_is_looked_up_first() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        speculation: Some(PromptLookup::default()),
        ..assisted()
    });
    let mut model = DraftingModel::new(50);
    let repetitive = NewRequest {
        seed: REPETITIVE,
        ..request(prompt(1, 20), params(150))
    };
    let id = model.submit(&mut scheduler, &repetitive);
    model.run(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    let by_lookup = output.num_drafted_tokens - output.num_model_drafted_tokens;
    assert!(by_lookup > 40, "{by_lookup}");
    assert!(output.num_model_drafted_tokens > 0);
    assert!(output.num_model_drafted_tokens < by_lookup / 2);
}

#[test]
fn sequences_share_the_rows() {
    let (mut scheduler, mut executor) = build(assisted());
    let mut model = DraftingModel::new(100);
    for seed in 0..3 {
        model.submit(&mut scheduler, &noise(seed, 40));
    }
    let rows = model.run(&mut scheduler, &mut executor);
    assert!(rows.contains(&vec![2, 2, 2]), "{rows:?}");
    assert!(rows.iter().filter(|rows| rows.len() == 3).count() < 25);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_model_drafts_the_results_are_those_without(
        shapes in prop::collection::vec((any::<u64>(), 1..50_usize, 1..40_u32, 1..3_u32), 1..5),
        num_right in prop_oneof![Just(0_u64), Just(100), 0..100_u64],
        num_blocks in prop_oneof![Just(64_u32), 8..14_u32],
        budget in prop_oneof![Just(64_usize), Just(5)],
        rows_per_pass in 1..12_usize,
        looks_up in any::<bool>(),
    ) {
        let limits = SchedulerConfig {
            groups: vec![group(num_blocks)],
            max_num_batched_tokens: budget,
            rows_per_pass,
            speculation: looks_up.then(PromptLookup::default),
            ..assisted()
        };
        let (mut scheduler, mut executor) = build(limits);
        let mut model = DraftingModel::new(num_right);
        let mut ids = Vec::new();
        for &(seed, num_prompt, max_tokens, n) in &shapes {
            let new = NewRequest {
                seed,
                n,
                ..request(prompt(seed % 5, num_prompt), params(max_tokens))
            };
            ids.push((model.submit(&mut scheduler, &new), new));
        }
        model.run(&mut scheduler, &mut executor);
        for (id, new) in ids {
            let output = scheduler.take(id).unwrap();
            let reason = output.sequences[0].finish_reason;
            prop_assert!(matches!(reason, Some(FinishReason::Length | FinishReason::Stop)));
            prop_assert_eq!(oracle(&new, scheduler.config()), output.sequences);
            if num_right == 100 {
                let (drafted, accepted) =
                    (output.num_model_drafted_tokens, output.num_model_accepted_tokens);
                prop_assert_eq!(drafted, accepted);
            }
        }
    }
}
