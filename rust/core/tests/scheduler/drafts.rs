//! Drafted tokens: who drafts, how much, what is kept, and that nobody can tell from the results.

use std::sync::Arc;

use inferlib_core::{
    ConfigError, FinishReason, NewRequest, PromptLookup, Scheduler, SchedulerConfig,
};
use inferlib_program::{Batch, RowStatus, SamplingParams, StepOutput};

use crate::pretended_executor::{
    FakeExecutor, REPETITIVE, config, drain, group, oracle, params, prompt, request, step,
};

fn lookup() -> PromptLookup {
    PromptLookup::default()
}

fn drafting() -> SchedulerConfig {
    SchedulerConfig {
        speculation: Some(lookup()),
        ..config()
    }
}

/// `7 8 9 7 8 9 …`, as a model that repeats itself without end says it.
fn periodic(count: usize) -> Vec<i32> {
    [7, 8, 9].into_iter().cycle().take(count).collect()
}

/// What a model says that knows nothing but [`periodic`]: the rows' tokens tell.
fn periodic_output(batch: &Batch) -> StepOutput {
    let next = |&row: &i32| match batch.token_ids[usize::try_from(row).unwrap()] {
        7 => 8,
        8 => 9,
        _ => 7,
    };
    let token_ids: Vec<i32> = batch.logits_indices.iter().map(next).collect();
    StepOutput {
        mirostat_mu: Vec::new(),
        status: vec![RowStatus::Ok; token_ids.len()],
        logprobs: vec![None; token_ids.len()],
        token_ids,
        captures: Vec::new(),
        logits: Vec::new(),
    }
}

/// Rows per sequence of each step until the end.
fn rows_of_steps(scheduler: &mut Scheduler) -> Vec<Vec<i32>> {
    let mut rows = Vec::new();
    while let Some(batch) = scheduler.schedule(0.0) {
        let starts = batch.query_start_loc.windows(2);
        rows.push(starts.map(|pair| pair[1] - pair[0]).collect());
        let output = periodic_output(batch);
        scheduler.check_integrity().unwrap();
        scheduler.update(&output, 0.0).unwrap();
        scheduler.check_integrity().unwrap();
    }
    rows
}

#[test]
fn a_repetitive_sequence_takes_a_fraction_of_the_steps() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let id = scheduler
        .submit(request(periodic(12), params(50)), 0.0)
        .unwrap();
    let rows = rows_of_steps(&mut scheduler);
    // The prompt; then steps of one row and five drafts, all accepted.
    assert_eq!(rows[0], [12]);
    assert!(rows[1..8].iter().all(|rows| rows == &[6]), "{rows:?}");
    assert_eq!(rows.len(), 10);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[0].token_ids, periodic(50));
    assert_eq!(
        output.sequences[0].finish_reason,
        Some(FinishReason::Length)
    );
    assert_eq!(
        (output.num_drafted_tokens, output.num_accepted_tokens),
        (40, 40)
    );
    let stats = scheduler.stats();
    assert_eq!(
        (stats.num_drafted_tokens, stats.num_accepted_tokens),
        (40, 40)
    );
}

#[test]
fn a_draft_never_reaches_behind_max_tokens() {
    for max_tokens in 1..9 {
        let mut scheduler = Scheduler::new(drafting()).unwrap();
        let id = scheduler
            .submit(request(periodic(12), params(max_tokens)), 0.0)
            .unwrap();
        let rows = rows_of_steps(&mut scheduler);
        let wanted = i32::try_from(max_tokens).unwrap();
        assert!(rows[1..].iter().all(|rows| rows[0] < wanted), "{rows:?}");
        let output = scheduler.take(id).unwrap();
        let count = max_tokens as usize;
        assert_eq!(output.sequences[0].token_ids, periodic(count));
    }
}

#[test]
fn drafts_share_the_rows_that_a_pass_has_left_and_leave_none_to_many_sequences() {
    for (num_seqs, expected) in [
        (1, vec![6]),
        (2, vec![3, 3]),
        (4, vec![2, 2, 1, 1]),
        (6, vec![1; 6]),
        (8, vec![1; 8]),
    ] {
        let mut scheduler = Scheduler::new(SchedulerConfig {
            max_num_batched_tokens: 200,
            enable_prefix_caching: false,
            ..drafting()
        })
        .unwrap();
        for _ in 0..num_seqs {
            scheduler
                .submit(request(periodic(12), params(20)), 0.0)
                .unwrap();
        }
        let rows = rows_of_steps(&mut scheduler);
        assert_eq!(rows[1], expected);
    }
}

#[test]
fn a_step_with_a_prefill_chunk_has_no_drafts() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    scheduler
        .submit(request(periodic(12), params(60)), 0.0)
        .unwrap();
    let count = |scheduler: &mut Scheduler| {
        let batch = scheduler.schedule(0.0).unwrap();
        let rows = batch.query_start_loc[1];
        let output = periodic_output(batch);
        scheduler.update(&output, 0.0).unwrap();
        rows
    };
    assert_eq!((count(&mut scheduler), count(&mut scheduler)), (12, 6));
    let long = NewRequest {
        speculation: false,
        ..request(prompt(3, 100), params(5))
    };
    scheduler.submit(long, 0.0).unwrap();
    assert_eq!((count(&mut scheduler), count(&mut scheduler)), (1, 1));
    assert_eq!(count(&mut scheduler), 5);
}

#[test]
fn drafts_respect_the_token_budget_and_their_own_limits() {
    for (change, expected) in [
        (
            SchedulerConfig {
                max_num_batched_tokens: 3,
                ..drafting()
            },
            3,
        ),
        (
            SchedulerConfig {
                rows_per_pass: 4,
                ..drafting()
            },
            4,
        ),
        (
            SchedulerConfig {
                rows_per_pass: 40,
                ..drafting()
            },
            9,
        ),
        (
            SchedulerConfig {
                rows_per_pass: 1,
                ..drafting()
            },
            1,
        ),
        (
            SchedulerConfig {
                speculation: Some(PromptLookup {
                    num_speculative_tokens: 2,
                    ..lookup()
                }),
                ..drafting()
            },
            3,
        ),
        (config(), 1),
    ] {
        let mut scheduler = Scheduler::new(change).unwrap();
        scheduler
            .submit(request(periodic(12), params(40)), 0.0)
            .unwrap();
        let rows = rows_of_steps(&mut scheduler);
        let decode = rows.iter().rev().skip(2).take(2).flatten();
        assert!(decode.copied().all(|rows| rows == expected), "{rows:?}");
    }
}

#[test]
fn a_request_can_do_without() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let new = NewRequest {
        speculation: false,
        ..request(periodic(12), params(20))
    };
    let id = scheduler.submit(new, 0.0).unwrap();
    let rows = rows_of_steps(&mut scheduler);
    assert!(rows[1..].iter().all(|rows| rows == &[1]));
    assert_eq!(scheduler.take(id).unwrap().num_drafted_tokens, 0);
}

#[test]
fn every_row_of_a_draft_is_drawn_as_it_would_be_alone() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let new = NewRequest {
        seed: 77,
        ..request(
            periodic(12),
            SamplingParams {
                repetition_penalty: 1.1,
                min_tokens: 3,
                ..params(40)
            },
        )
    };
    scheduler.submit(new, 0.0).unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    scheduler.update(&output, 0.0).unwrap();
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.num_sampled(), 6);
    assert_eq!(batch.logits_indices, [0, 1, 2, 3, 4, 5]);
    assert_eq!(batch.token_ids, periodic(6));
    assert_eq!(batch.positions, [12, 13, 14, 15, 16, 17]);
    assert_eq!(batch.seq_lens, [18]);
    for (draw, row) in (0..).zip(&batch.sampled) {
        assert_eq!((row.seed, row.sequence_index), (77, 0));
        assert_eq!((row.position, row.num_output_tokens), (13 + draw, 1 + draw));
        assert_eq!(
            (row.history_prompt_len, row.history_output_len),
            (12, 1 + draw)
        );
        let tokens = &batch.history[row.history_start as usize..][..13 + draw as usize];
        assert_eq!(tokens, periodic(13 + draw as usize));
    }
}

#[test]
fn rejected_tokens_leave_no_trace() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let id = scheduler
        .submit(request(periodic(15), params(30)), 0.0)
        .unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    scheduler.update(&output, 0.0).unwrap();
    // Six rows at 15 … 20 reach into a second block. The second draw differs, and what is wrong behind it, even NaN,
    // does not count.
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.groups[0].block_tables.len(), 2);
    let mut output = periodic_output(batch);
    output.token_ids[1] = 3;
    output.status[4] = RowStatus::Failed;
    scheduler.check_integrity().unwrap();
    let events = scheduler.update(&output, 0.0).unwrap();
    assert_eq!(events.token_ids, [8, 3]);
    assert_eq!(events.token_indices, [1, 2]);
    scheduler.check_integrity().unwrap();
    let found = scheduler.output(id).unwrap();
    assert_eq!(found.sequences[0].token_ids, [7, 8, 3]);
    assert_eq!(
        (found.num_drafted_tokens, found.num_accepted_tokens),
        (5, 1)
    );
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!((batch.token_ids[0], batch.positions[0]), (3, 17));
}

#[test]
fn blocks_that_only_drafts_needed_go_back_at_once() {
    for keep in [true, false] {
        let mut scheduler = Scheduler::new(drafting()).unwrap();
        scheduler
            .submit(request(periodic(12), params(30)), 0.0)
            .unwrap();
        let output = periodic_output(scheduler.schedule(0.0).unwrap());
        scheduler.update(&output, 0.0).unwrap();
        assert_eq!(scheduler.stats().groups[0].num_used, 1);
        let mut output = periodic_output(scheduler.schedule(0.0).unwrap());
        assert_eq!(scheduler.stats().groups[0].num_used, 2);
        if keep {
            output.token_ids[0] = 3;
            scheduler.update(&output, 0.0).unwrap();
        } else {
            scheduler.discard_step();
        }
        scheduler.check_integrity().unwrap();
        assert_eq!(scheduler.stats().groups[0].num_used, 1);
    }
}

#[test]
fn a_draft_takes_nobodys_blocks() {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        groups: vec![group(3)],
        ..drafting()
    })
    .unwrap();
    for _ in 0..2 {
        let new = request(periodic(12), params(20));
        scheduler.submit(new, 0.0).unwrap();
    }
    let rows: Vec<Vec<i32>> = (0..3)
        .map(|_| {
            let batch = scheduler.schedule(0.0).unwrap();
            let starts = batch.query_start_loc.windows(2);
            let rows = starts.map(|pair| pair[1] - pair[0]).collect();
            let output = periodic_output(batch);
            scheduler.update(&output, 0.0).unwrap();
            rows
        })
        .collect();
    // Three blocks. Both stand at 16 tokens when the first one's draft takes the last block.
    assert_eq!(rows, [vec![12, 12], vec![3, 3], vec![3, 1]]);
    assert_eq!(scheduler.stats().num_preemptions, 0);
    rows_of_steps(&mut scheduler);
    assert_eq!(scheduler.stats().num_output_tokens, 40);
}

#[test]
fn a_failed_row_that_is_reached_ends_the_sequence_with_what_came_before() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let id = scheduler
        .submit(request(periodic(12), params(30)), 0.0)
        .unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    scheduler.update(&output, 0.0).unwrap();
    let mut output = periodic_output(scheduler.schedule(0.0).unwrap());
    output.status[2] = RowStatus::Failed;
    let events = scheduler.update(&output, 0.0).unwrap();
    assert_eq!(events.finished, [false, false]);
    assert_eq!(events.finished_requests, [id]);
    scheduler.check_integrity().unwrap();
    let sequence = &scheduler.take(id).unwrap().sequences[0];
    assert_eq!(sequence.token_ids, periodic(3));
    assert_eq!(sequence.finish_reason, Some(FinishReason::Error));
    assert_eq!(scheduler.stats().groups[0].num_cached, 0);
}

#[test]
fn a_sequence_that_is_cancelled_with_a_draft_in_flight_leaves_nothing() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let id = scheduler
        .submit(request(periodic(12), params(30)), 0.0)
        .unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    scheduler.update(&output, 0.0).unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    assert!(scheduler.cancel(id, 0.0));
    scheduler.check_integrity().unwrap();
    assert!(scheduler.update(&output, 0.0).unwrap().token_ids.is_empty());
    scheduler.check_integrity().unwrap();
    assert_eq!(scheduler.stats().groups[0].num_used, 0);
}

#[test]
fn a_stop_string_takes_back_what_came_behind_it() {
    for max_tokens in [7, 30] {
        let mut scheduler = Scheduler::new(drafting()).unwrap();
        let new = SamplingParams {
            logprobs: None,
            ..params(max_tokens)
        };
        let id = scheduler.submit(request(periodic(12), new), 0.0).unwrap();
        for _ in 0..2 {
            let output = periodic_output(scheduler.schedule(0.0).unwrap());
            scheduler.update(&output, 0.0).unwrap();
        }
        // With 7 it has ended by itself already, with a token that nobody shall see.
        let ended = scheduler.output(id).unwrap().is_finished();
        assert_eq!(ended, max_tokens == 7);
        let alive = scheduler.finish(id, 0, FinishReason::Stop, Some(4), 0.0);
        assert_eq!(alive, !ended);
        scheduler.check_integrity().unwrap();
        assert_eq!(scheduler.stats().num_output_tokens, 4);
        let sequence = &scheduler.take(id).unwrap().sequences[0];
        assert_eq!(sequence.token_ids, periodic(4));
        assert_eq!(sequence.finish_reason, Some(FinishReason::Stop));
    }
}

/// Requests of all kinds with prompts that repeat themselves.
fn mixed_requests() -> Vec<NewRequest> {
    (0..24)
        .map(|seed: u64| {
            let mut new = request(
                [
                    prompt(seed, 5 + 3 * usize::try_from(seed).unwrap()),
                    periodic(9),
                ]
                .concat(),
                SamplingParams {
                    logprobs: (seed.is_multiple_of(2)).then_some(0),
                    repetition_penalty: if seed.is_multiple_of(3) { 1.2 } else { 1.0 },
                    eos_token_ids: if seed.is_multiple_of(5) {
                        vec![3]
                    } else {
                        vec![]
                    },
                    min_tokens: u32::try_from(seed % 4).unwrap(),
                    ..params(60)
                },
            );
            new.seed = REPETITIVE + seed;
            new.n = if seed % 7 == 6 { 3 } else { 1 };
            new
        })
        .collect()
}

#[test]
fn accepted_drafts_change_no_result_in_whatever_company() {
    for (num_blocks, max_num_seqs, max_chunk, rows_per_pass) in [
        (200, 1, None, 6),
        (200, 3, Some(7), 6),
        (200, 16, None, 30),
        (14, 4, None, 8),
        (11, 16, Some(16), 30),
    ] {
        let limits = SchedulerConfig {
            groups: vec![group(num_blocks), group(num_blocks + 1)],
            max_num_seqs,
            max_chunk,
            rows_per_pass,
            ..drafting()
        };
        let mut scheduler = Scheduler::new(limits.clone()).unwrap();
        let mut executor = FakeExecutor::new(&limits.groups);
        let requests = mixed_requests();
        let submitted: Vec<_> = requests
            .iter()
            .map(|new| scheduler.submit(new.clone(), 0.0).unwrap())
            .collect();
        drain(&mut scheduler, &mut executor);
        for (id, new) in submitted.into_iter().zip(&requests) {
            assert_eq!(scheduler.take(id).unwrap().sequences, oracle(new, &limits));
        }
        let stats = scheduler.stats();
        let (drafted, accepted) = (stats.num_drafted_tokens, stats.num_accepted_tokens);
        assert!(accepted > 100, "{accepted} of {drafted}");
        assert!(accepted < drafted, "nothing was ever rejected");
        assert_eq!(stats.num_preemptions > 0, num_blocks < 20);
    }
}

#[test]
fn noise_is_hardly_drafted() {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        max_model_len: 4000,
        groups: vec![group(400)],
        ..drafting()
    })
    .unwrap();
    let mut executor = FakeExecutor::new(&[group(400)]);
    let id = scheduler
        .submit(request(prompt(1, 200), params(3000)), 0.0)
        .unwrap();
    while step(&mut scheduler, &mut executor, 0.0) {}
    let output = scheduler.take(id).unwrap();
    assert!(
        output.num_drafted_tokens < 200,
        "{}",
        output.num_drafted_tokens
    );
}

#[test]
fn lengths_that_are_no_range_are_refused() {
    for (min, max) in [(0, 4), (3, 2), (1, 9)] {
        let speculation = Some(PromptLookup {
            prompt_lookup_min: min,
            prompt_lookup_max: max,
            ..lookup()
        });
        let refused = Scheduler::new(SchedulerConfig {
            speculation,
            ..config()
        });
        assert_eq!(refused.unwrap_err(), ConfigError::PromptLookup { min, max });
    }
    let refused = Scheduler::new(SchedulerConfig {
        rows_per_pass: 0,
        ..config()
    });
    assert!(matches!(
        refused.unwrap_err(),
        ConfigError::Limit {
            field: "rows_per_pass",
            ..
        }
    ));
}

#[test]
fn parameters_are_shared_with_the_rows_of_a_draft() {
    let mut scheduler = Scheduler::new(drafting()).unwrap();
    let shared = Arc::new(params(30));
    scheduler
        .submit(NewRequest::new(periodic(12), Arc::clone(&shared)), 0.0)
        .unwrap();
    let output = periodic_output(scheduler.schedule(0.0).unwrap());
    scheduler.update(&output, 0.0).unwrap();
    let batch = scheduler.schedule(0.0).unwrap();
    assert_eq!(batch.sampled.len(), 6);
    assert!(
        batch
            .sampled
            .iter()
            .all(|row| Arc::ptr_eq(&row.params, &shared))
    );
}
