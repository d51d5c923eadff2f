//! What the scheduler promises, one behaviour per test.
#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

mod pretended_executor;

use std::sync::Arc;

use inferlib_core::{
    ConfigError, FinishReason, LogitsRow, NewRequest, PrefixHash, PromptLimit, RequestStatus,
    SamplingParams, Scheduler, SchedulerConfig, StepOutput, SubmitError, UpdateError,
};
use pretended_executor::{
    FakeExecutor, VOCAB_SIZE, config, drain, group, oracle, oracle_prompt_logprobs, params, prompt,
    request, step,
};

fn build(config: SchedulerConfig) -> (Scheduler, FakeExecutor) {
    let executor = FakeExecutor::new(&config.groups);
    (Scheduler::new(config).unwrap(), executor)
}

/// Chunk lengths of the next batch, which is run.
fn chunks(scheduler: &mut Scheduler, executor: &mut FakeExecutor) -> Vec<i32> {
    let batch = scheduler.schedule(0.0).unwrap();
    let lengths = batch
        .query_start_loc
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    let output = executor.run(batch);
    scheduler.update(&output, 0.0).unwrap();
    scheduler.check_integrity().unwrap();
    lengths
}

fn used(scheduler: &Scheduler) -> usize {
    scheduler.stats().groups[0].num_used
}

#[test]
fn decode_rows_come_first_and_prefill_chunks_fill_the_budget_in_order_of_arrival() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_batched_tokens: 20,
        ..config()
    });
    scheduler
        .submit(request(prompt(1, 8), params(9)), 0.0)
        .unwrap();
    scheduler
        .submit(request(prompt(2, 30), params(9)), 0.0)
        .unwrap();
    scheduler
        .submit(request(prompt(3, 30), params(9)), 0.0)
        .unwrap();
    assert_eq!(chunks(&mut scheduler, &mut executor), [8, 12]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 18, 1]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 18]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 11]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 1]);
}

#[test]
fn a_chunk_is_limited_by_max_chunk() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_chunk: Some(7),
        ..config()
    });
    scheduler
        .submit(request(prompt(1, 16), params(1)), 0.0)
        .unwrap();
    let lengths: Vec<_> = (0..3)
        .map(|_| chunks(&mut scheduler, &mut executor))
        .collect();
    assert_eq!(lengths, [[7], [7], [2]]);
}

#[test]
fn a_token_budget_below_max_num_seqs_limits_the_sequences() {
    let limits = SchedulerConfig {
        max_num_batched_tokens: 2,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    for seed in 0..3 {
        scheduler
            .submit(request(prompt(seed, 3), params(5)), 0.0)
            .unwrap();
    }
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.stats().num_finished, 3);
}

#[test]
fn an_equal_prefix_is_computed_once_but_the_last_token_always() {
    let (mut scheduler, mut executor) = build(config());
    for (length, cached) in [(32, 0), (32, 16), (33, 32), (50, 32), (49, 48)] {
        let id = scheduler
            .submit(request(prompt(1, length), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        assert_eq!(
            scheduler.take(id).unwrap().num_cached_tokens,
            cached,
            "{length} tokens"
        );
    }
}

#[test]
fn equal_prompts_that_arrive_together_are_computed_once_and_others_do_not_wait() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_batched_tokens: 40,
        ..config()
    });
    let shared = |tail| [prompt(1, 60), prompt(tail, 3)].concat();
    for prompt in [shared(2), shared(3), shared(4), prompt(9, 7)] {
        scheduler.submit(request(prompt, params(3)), 0.0).unwrap();
    }
    let salted = NewRequest {
        cache_salt: Some("a".to_owned()),
        ..request(shared(5), params(3))
    };
    scheduler.submit(salted, 0.0).unwrap();
    // The second and third wait for the first's blocks; the fourth and the salted one need not.
    assert_eq!(chunks(&mut scheduler, &mut executor), [40]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [23, 7, 10]);
    // Now 48 tokens are cached, and the tails are computed.
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 38]);
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.stats().num_cached_tokens, 2 * 48);
}

#[test]
fn generated_tokens_are_cached_too() {
    let (mut scheduler, mut executor) = build(config());
    let first = request(prompt(1, 10), params(30));
    let id = scheduler.submit(first.clone(), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    let mut turn = first.prompt;
    turn.extend(&scheduler.take(id).unwrap().sequences[0].token_ids);
    let id = scheduler.submit(request(turn, params(1)), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.take(id).unwrap().num_cached_tokens, 32); // 39 of 40 were computed
}

#[test]
fn salts_separate_even_where_hashes_collide() {
    for bits in [128, 1] {
        let prefix_hash = PrefixHash {
            bits,
            ..PrefixHash::default()
        };
        let (mut scheduler, mut executor) = build(SchedulerConfig {
            prefix_hash,
            ..config()
        });
        let mut cached = |salt: Option<&str>| {
            let new = NewRequest {
                cache_salt: salt.map(str::to_owned),
                ..request(prompt(1, 40), params(1))
            };
            let id = scheduler.submit(new, 0.0).unwrap();
            drain(&mut scheduler, &mut executor);
            scheduler.take(id).unwrap().num_cached_tokens
        };
        let salts = [
            None,
            Some("a"),
            Some("b"),
            Some(""),
            None,
            Some("a"),
            Some("b"),
            Some(""),
        ];
        assert_eq!(salts.map(&mut cached), [0, 0, 0, 0, 32, 32, 32, 32]);
    }
}

#[test]
fn prefix_caching_can_be_off() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        enable_prefix_caching: false,
        ..config()
    });
    for _ in 0..2 {
        let id = scheduler
            .submit(request(prompt(1, 40), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        assert_eq!(scheduler.take(id).unwrap().num_cached_tokens, 0);
    }
}

#[test]
fn many_salts_do_not_pile_up_and_those_with_cached_blocks_are_kept() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        groups: vec![group(8)],
        ..config()
    });
    for salt in 0..100 {
        let cached: Vec<usize> = (0..2)
            .map(|_| {
                let new = NewRequest {
                    cache_salt: Some(salt.to_string()),
                    ..request(prompt(1, 20), params(1))
                };
                let id = scheduler.submit(new, 0.0).unwrap();
                drain(&mut scheduler, &mut executor);
                scheduler.take(id).unwrap().num_cached_tokens
            })
            .collect();
        assert_eq!(cached, [0, 16]);
    }
}

#[test]
fn the_least_recently_used_prefix_is_evicted_tail_first() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        groups: vec![group(8)],
        max_model_len: 100,
        ..config()
    });
    let mut cached = |seed, length| {
        let id = scheduler
            .submit(request(prompt(seed, length), params(1)), 0.0)
            .unwrap();
        drain(&mut scheduler, &mut executor);
        scheduler.take(id).unwrap().num_cached_tokens
    };
    assert_eq!(cached(1, 65), 0); // 4 full blocks stay, 1 is free without content
    assert_eq!(cached(2, 33), 0); // 2 more stay
    assert_eq!(cached(3, 49), 0); // needs 4: two without content, two of the oldest's tail
    assert_eq!(cached(2, 33), 32);
    assert_eq!(cached(1, 65), 32);
}

#[test]
fn prompt_logprobs_are_computed_even_where_the_prompt_is_cached() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_batched_tokens: 13,
        ..config()
    });
    for (start, cached) in [
        (0, 0),
        (0, 0),
        (40, 32),
        (33, 32),
        (32, 16),
        (59, 48),
        (70, 48),
    ] {
        let params = SamplingParams {
            prompt_logprobs: Some(2),
            prompt_logprobs_start: start,
            ..params(3)
        };
        let new = request(prompt(1, 60), params);
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.num_cached_tokens, cached, "from {start}");
        assert_eq!(output.prompt_logprobs, oracle_prompt_logprobs(&new));
        assert_eq!(output.prompt_logprobs_start, (start as usize).clamp(1, 60));
        assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    }
}

#[test]
fn scoring_a_prompt_needs_no_generated_token() {
    let (mut scheduler, mut executor) = build(config());
    for length in [1, 2, 16, 17] {
        let params = SamplingParams {
            prompt_logprobs: Some(0),
            ..params(0)
        };
        let new = NewRequest {
            n: 2,
            ..request(prompt(1, length), params)
        };
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        let batch = scheduler.schedule(0.0).unwrap();
        assert_eq!(batch.num_sampled(), length - 1);
        assert!(
            batch
                .sampled
                .iter()
                .all(|row| row.kind != LogitsRow::Sample)
        );
        let output = executor.run(batch);
        let events = scheduler.update(&output, 0.0).unwrap();
        assert_eq!(
            (events.token_ids.len(), &*events.finished_requests),
            (0, &[id][..])
        );
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.prompt_logprobs, oracle_prompt_logprobs(&new));
        for sequence in output.sequences {
            assert_eq!(sequence.finish_reason, Some(FinishReason::Length));
        }
    }
}

#[test]
fn further_sequences_share_full_blocks_copy_the_partial_one_and_compute_one_token() {
    let (mut scheduler, mut executor) = build(config());
    let new = NewRequest {
        n: 4,
        seed: 9,
        ..request(prompt(1, 40), params(20))
    };
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    assert_eq!(chunks(&mut scheduler, &mut executor), [40]);
    assert_eq!(used(&scheduler), 2 + 4);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1, 1, 1]);
    assert_eq!((used(&scheduler), executor.num_copies), (2 + 4, 3));
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    let distinct: std::collections::BTreeSet<_> = output
        .sequences
        .iter()
        .map(|sequence| &sequence.token_ids)
        .collect();
    assert_eq!(
        distinct.len(),
        4,
        "each sequence has random numbers of its own"
    );
}

#[test]
fn further_sequences_still_share_when_the_first_ends_at_its_first_token() {
    for (length, n, caching) in [
        (40, 2, true),
        (48, 2, true),
        (48, 2, false),
        (33, 3, false),
        (1, 3, true),
    ] {
        let limits = SchedulerConfig {
            enable_prefix_caching: caching,
            ..config()
        };
        let (mut scheduler, mut executor) = build(limits);
        let new = NewRequest {
            n,
            ..request(prompt(1, length), params(1))
        };
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let stats = scheduler.stats();
        assert_eq!(stats.num_scheduled_tokens, length as u64 + u64::from(n) - 1);
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    }
}

#[test]
fn sequences_beyond_max_num_seqs_take_turns() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_seqs: 2,
        ..config()
    });
    let new = NewRequest {
        n: 7,
        ..request(prompt(1, 30), params(5))
    };
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    assert_eq!(
        scheduler.take(id).unwrap().sequences,
        oracle(&new, scheduler.config())
    );
}

#[test]
fn when_the_first_sequence_is_ended_early_the_next_computes_the_prompt() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_chunk: Some(8),
        ..config()
    });
    let scored = SamplingParams {
        prompt_logprobs: Some(0),
        ..params(4)
    };
    let new = NewRequest {
        n: 3,
        ..request(prompt(1, 30), scored)
    };
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    step(&mut scheduler, &mut executor, 0.0);
    assert!(scheduler.finish(id, 0, FinishReason::Stop, None, 0.0));
    assert!(!scheduler.finish(id, 0, FinishReason::Stop, None, 0.0));
    assert_eq!(scheduler.status(id), Some(RequestStatus::Preempted));
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[1..], oracle(&new, scheduler.config())[1..]);
    assert_eq!(output.prompt_logprobs, oracle_prompt_logprobs(&new));
}

#[test]
fn the_latest_arrival_is_preempted_and_gives_the_same_tokens() {
    let limits = SchedulerConfig {
        groups: vec![group(8)],
        max_model_len: 120,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let requests = [1, 2, 3].map(|seed| request(prompt(seed, 18), params(40)));
    let ids = requests
        .clone()
        .map(|new| scheduler.submit(new, 0.0).unwrap());
    drain(&mut scheduler, &mut executor);
    let outputs = ids.map(|id| scheduler.take(id).unwrap());
    assert_eq!(outputs[0].num_preemptions, 0);
    assert!(outputs[2].num_preemptions > 0);
    for (output, new) in outputs.iter().zip(&requests) {
        assert_eq!(output.sequences, oracle(new, scheduler.config()));
    }
    let finished = outputs.map(|output| output.timestamps.finished);
    assert!(finished.is_sorted(), "first come, first finished");
}

#[test]
fn admission_leaves_a_spare_block_for_each_running_sequence() {
    let limits = SchedulerConfig {
        groups: vec![group(5)],
        max_model_len: 80,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    scheduler
        .submit(request(prompt(1, 20), params(30)), 0.0)
        .unwrap();
    let second = scheduler
        .submit(request(prompt(2, 40), params(4)), 0.0)
        .unwrap();
    step(&mut scheduler, &mut executor, 0.0);
    // 2 of 5 blocks are used; the second needs 3, and then none would be left.
    assert_eq!(scheduler.status(second), Some(RequestStatus::Waiting));
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.stats().num_preemptions, 0);
}

#[test]
fn smaller_priorities_run_first() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    let mut submit = |priority| {
        let new = NewRequest {
            priority,
            ..request(prompt(1, 5), params(2))
        };
        scheduler.submit(new, 0.0).unwrap()
    };
    let ids = [1, 0, -1, 0].map(&mut submit);
    let mut order = Vec::new();
    while let Some(batch) = scheduler.schedule(0.0) {
        let output = executor.run(batch);
        order.extend(
            scheduler
                .update(&output, 0.0)
                .unwrap()
                .finished_requests
                .clone(),
        );
    }
    assert_eq!(order, [ids[2], ids[1], ids[3], ids[0]]);
}

#[test]
fn a_request_that_can_never_run_is_refused_and_leaves_nothing() {
    let limits = SchedulerConfig {
        groups: vec![group(64), group(4)],
        max_model_len: 60,
        ..config()
    };
    let (mut scheduler, _) = build(limits);
    let mut refused = |new: NewRequest| scheduler.submit(new, 0.0).unwrap_err();
    let fits = || request(prompt(1, 20), params(1));
    assert_eq!(
        refused(request(vec![], params(1))),
        SubmitError::EmptyPrompt
    );
    let error = refused(request(prompt(1, 60), params(1)));
    let expected = SubmitError::PromptTooLong {
        prompt_tokens: 60,
        limit: 59,
        because: PromptLimit::Context,
    };
    assert_eq!(error, expected);
    assert!(
        error
            .to_string()
            .contains("60 tokens but the context holds 59")
    );
    let token = i32::try_from(VOCAB_SIZE).unwrap();
    assert!(matches!(
        refused(request(vec![1, token], params(1))),
        SubmitError::TokenOutOfRange {
            index: 1,
            token: 24,
            vocab_size: 24
        }
    ));
    assert!(matches!(
        refused(request(vec![-1], params(1))),
        SubmitError::TokenOutOfRange { index: 0, .. }
    ));
    assert!(matches!(
        refused(NewRequest { n: 0, ..fits() }),
        SubmitError::InvalidN { n: 0, .. }
    ));
    let wrong = SamplingParams {
        top_p: 0.0,
        ..params(1)
    };
    let SubmitError::InvalidParams(error) = refused(NewRequest {
        params: Arc::new(wrong),
        ..fits()
    }) else {
        panic!("another error")
    };
    assert_eq!(error.field, "top_p");
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.stats().num_requests, 0);
    scheduler.check_integrity().unwrap();
}

#[test]
fn a_prompt_larger_than_the_smallest_kv_group_is_refused() {
    let limits = SchedulerConfig {
        groups: vec![group(64), group(2)],
        max_model_len: 200,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let error = scheduler
        .submit(request(prompt(1, 33), params(1)), 0.0)
        .unwrap_err();
    let because = PromptLimit::KvCache;
    assert_eq!(
        error,
        SubmitError::PromptTooLong {
            prompt_tokens: 33,
            limit: 32,
            because
        }
    );
    // One of exactly that size runs, and gives the one token whose K and V are never needed.
    let id = scheduler
        .submit(request(prompt(1, 32), params(50)), 0.0)
        .unwrap();
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[0].token_ids.len(), 1);
    assert_eq!(
        output.sequences[0].finish_reason,
        Some(FinishReason::Length)
    );
}

#[test]
fn max_tokens_ends_with_the_context() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_model_len: 50,
        ..config()
    });
    let id = scheduler
        .submit(request(prompt(1, 30), params(1000)), 0.0)
        .unwrap();
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences[0].token_ids.len(), 20);
    assert_eq!(
        output.sequences[0].finish_reason,
        Some(FinishReason::Length)
    );
}

#[test]
fn a_full_queue_refuses_until_requests_start() {
    let limits = SchedulerConfig {
        max_waiting: Some(3),
        max_waiting_tokens: Some(50),
        max_num_seqs: 1,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    let submit = |scheduler: &mut Scheduler, length| {
        scheduler.submit(request(prompt(1, length), params(2)), 0.0)
    };
    submit(&mut scheduler, 60).unwrap(); // alone, a long one is let in
    let error = submit(&mut scheduler, 1).unwrap_err();
    assert_eq!(
        error,
        SubmitError::Overloaded {
            waiting: 1,
            waiting_tokens: 60
        }
    );
    step(&mut scheduler, &mut executor, 0.0);
    for _ in 0..3 {
        submit(&mut scheduler, 2).unwrap();
    }
    let error = submit(&mut scheduler, 2).unwrap_err();
    assert_eq!(
        error,
        SubmitError::Overloaded {
            waiting: 3,
            waiting_tokens: 6
        }
    );
    drain(&mut scheduler, &mut executor);
    submit(&mut scheduler, 2).unwrap();
}

#[test]
fn a_cancelled_request_gives_its_blocks_back_at_once_even_in_flight() {
    let (mut scheduler, mut executor) = build(config());
    let ids = [1, 2].map(|seed| {
        scheduler
            .submit(request(prompt(seed, 20), params(10)), 0.0)
            .unwrap()
    });
    step(&mut scheduler, &mut executor, 0.0);
    let output = executor.run(scheduler.schedule(0.0).unwrap());
    assert!(scheduler.cancel(ids[0], 5.0));
    assert_eq!(used(&scheduler), 2);
    let events = scheduler.update(&output, 6.0).unwrap();
    assert_eq!(events.request_ids, [ids[1]]);
    let output = scheduler.take(ids[0]).unwrap();
    assert_eq!(output.sequences[0].finish_reason, Some(FinishReason::Abort));
    assert_eq!(output.sequences[0].token_ids.len(), 1);
    assert_eq!(output.timestamps.finished, Some(5.0));
    assert_eq!(
        (scheduler.output(ids[0]), scheduler.status(ids[0])),
        (None, None)
    );
    assert!(!scheduler.cancel(ids[0], 7.0));
}

#[test]
fn a_slot_reused_while_a_step_is_in_flight_gets_nothing_of_it() {
    let (mut scheduler, mut executor) = build(config());
    let old = scheduler
        .submit(request(prompt(1, 20), params(10)), 0.0)
        .unwrap();
    let output = executor.run(scheduler.schedule(0.0).unwrap());
    scheduler.cancel(old, 0.0);
    scheduler.take(old).unwrap();
    let new = request(prompt(2, 20), params(10));
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    assert_ne!(id, old);
    assert!(scheduler.update(&output, 0.0).unwrap().token_ids.is_empty());
    drain(&mut scheduler, &mut executor);
    assert_eq!(
        scheduler.take(id).unwrap().sequences,
        oracle(&new, scheduler.config())
    );
}

#[test]
fn a_discarded_step_is_planned_again() {
    let (mut scheduler, mut executor) = build(config());
    let new = NewRequest {
        n: 2,
        ..request(prompt(1, 20), params(3))
    };
    scheduler.submit(new, 0.0).unwrap();
    for _ in 0..4 {
        let mut first = scheduler.schedule(0.0).unwrap().clone();
        executor.interrupt(&first);
        scheduler.discard_step();
        let second = scheduler.schedule(0.0).unwrap().clone();
        let third = scheduler.schedule(0.0).unwrap(); // without an update: discarded, too
        assert_eq!((second.step, third.step), (first.step + 1, first.step + 2));
        first.step += 2;
        assert_eq!(format!("{first:?}"), format!("{third:?}"));
        let output = executor.run(third);
        scheduler.update(&output, 0.0).unwrap();
    }
    assert!(!scheduler.has_work());
}

#[test]
fn stop_and_end_tokens_end_a_sequence_but_not_before_min_tokens() {
    let (mut scheduler, mut executor) = build(config());
    let mut reasons = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let params = SamplingParams {
            eos_token_ids: vec![2, 4],
            stop_token_ids: vec![1, 3],
            min_tokens: 3,
            ..params(9)
        };
        let new = NewRequest {
            seed,
            ..request(prompt(1, 4), params)
        };
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let sequence = &scheduler.take(id).unwrap().sequences[0];
        assert_eq!(sequence, &oracle(&new, scheduler.config())[0]);
        assert!(sequence.token_ids.len() > 3);
        reasons.insert((
            sequence.finish_reason.unwrap().as_str(),
            sequence.stop_token_id,
        ));
    }
    let expected = [
        ("length", None),
        ("stop", None),
        ("stop", Some(1)),
        ("stop", Some(3)),
    ];
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn logits_that_are_not_numbers_end_the_request_and_are_not_cached() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_chunk: Some(16),
        ..config()
    });
    let new = NewRequest {
        n: 2,
        ..request(prompt(1, 40), params(5))
    };
    let other = request(prompt(2, 40), params(5));
    executor.poison = |_| true;
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    let output = scheduler.take(id).unwrap();
    for sequence in &output.sequences {
        assert_eq!(sequence.finish_reason, Some(FinishReason::Error));
        assert!(sequence.token_ids.is_empty());
    }
    executor.poison = |_| false;
    for new in [new, other] {
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        let output = scheduler.take(id).unwrap();
        assert_eq!(output.num_cached_tokens, 0);
        assert_eq!(output.sequences, oracle(&new, scheduler.config()));
    }
}

#[test]
fn one_failing_sequence_does_not_end_its_siblings() {
    let (mut scheduler, mut executor) = build(config());
    let new = NewRequest {
        n: 6,
        ..request(prompt(1, 40), params(30))
    };
    executor.poison = |state| state % 64 == 1;
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    let outputs = scheduler.take(id).unwrap().sequences;
    let mut num_failed = 0;
    for (found, expected) in outputs.iter().zip(oracle(&new, scheduler.config())) {
        if found.finish_reason == Some(FinishReason::Error) {
            num_failed += 1;
            assert_eq!(found.token_ids, expected.token_ids[..found.token_ids.len()]);
        } else {
            assert_eq!(*found, expected);
        }
    }
    assert!((1..6).contains(&num_failed), "{num_failed} of 6 failed");
}

#[test]
fn a_result_that_is_not_the_steps_is_refused_and_the_step_stays() {
    let (mut scheduler, mut executor) = build(config());
    let error = scheduler.update(&StepOutput::default(), 0.0).unwrap_err();
    assert_eq!(error, UpdateError::NoStep);
    let params = SamplingParams {
        logprobs: Some(0),
        ..params(2)
    };
    scheduler
        .submit(request(prompt(1, 4), params), 0.0)
        .unwrap();
    let output = executor.run(scheduler.schedule(0.0).unwrap());
    let error = scheduler.update(&StepOutput::default(), 0.0).unwrap_err();
    assert_eq!(
        error,
        UpdateError::Length {
            array: "token_ids",
            expected: 1,
            found: 0
        }
    );
    let without = StepOutput {
        logprobs: vec![None],
        ..output.clone()
    };
    let error = scheduler.update(&without, 0.0).unwrap_err();
    assert_eq!(error, UpdateError::MissingLogprobs { row: 0 });
    assert_eq!(scheduler.update(&output, 0.0).unwrap().token_ids.len(), 1);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let error = |config: SchedulerConfig| Scheduler::new(config).unwrap_err();
    assert_eq!(
        error(SchedulerConfig {
            groups: vec![],
            ..config()
        }),
        ConfigError::NoGroups
    );
    assert_eq!(
        error(SchedulerConfig {
            groups: vec![group(1), group(0)],
            ..config()
        }),
        ConfigError::NumBlocks {
            group: 1,
            num_blocks: 0
        }
    );
    for (field, config) in [
        (
            "max_num_seqs",
            SchedulerConfig {
                max_num_seqs: 0,
                ..config()
            },
        ),
        (
            "max_num_batched_tokens",
            SchedulerConfig {
                max_num_batched_tokens: 0,
                ..config()
            },
        ),
        (
            "max_model_len",
            SchedulerConfig {
                max_model_len: 0,
                ..config()
            },
        ),
        (
            "max_chunk",
            SchedulerConfig {
                max_chunk: Some(0),
                ..config()
            },
        ),
    ] {
        assert_eq!(error(config), ConfigError::Limit { field, value: 0 });
    }
}

#[test]
fn timestamps_follow_the_callers_clock() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_chunk: Some(8),
        ..config()
    });
    let id = scheduler
        .submit(request(prompt(1, 12), params(2)), 1.0)
        .unwrap();
    for (schedule, update) in [(2.0, 3.0), (4.0, 5.0), (6.0, 7.0)] {
        let output = executor.run(scheduler.schedule(schedule).unwrap());
        scheduler.update(&output, update).unwrap();
    }
    let times = scheduler.take(id).unwrap().timestamps;
    assert_eq!(Some(times.arrival), Some(1.0));
    assert_eq!(times.first_scheduled, Some(2.0));
    assert_eq!(times.prefill_done, Some(5.0));
    assert_eq!(times.first_token, Some(5.0));
    assert_eq!(times.last_token, Some(7.0));
    assert_eq!(times.finished, Some(7.0));
}
