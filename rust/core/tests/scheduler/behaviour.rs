//! What the scheduler promises, one behaviour per test.

use inferlib_core::{FinishReason, NewRequest, Policy, RequestStatus, SchedulerConfig};
use inferlib_program::{Mirostat, SamplingParams};

use crate::pretended_executor::{
    build, chunks, config, drain, group, oracle, oracle_prompt_logprobs, params, prompt, request,
    step, used,
};

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
fn a_request_that_is_cancelled_before_its_first_step_leaves_nothing() {
    for policy in Policy::NAMES {
        let (mut scheduler, mut executor) = build(SchedulerConfig {
            policy: Policy::from_name(policy).unwrap(),
            ..config()
        });
        let new = NewRequest {
            n: 3,
            tenant: Some("a".to_owned()),
            deadline: Some(9.0),
            ..request(prompt(1, 40), params(5))
        };
        let id = scheduler.submit(new.clone(), 0.0).unwrap();
        assert!(scheduler.cancel(id, 1.0));
        assert!(!scheduler.has_work());
        scheduler.check_integrity().unwrap();
        let stats = scheduler.stats();
        assert_eq!(
            (stats.num_waiting_requests, stats.num_waiting_tokens),
            (0, 0)
        );
        assert_eq!((stats.num_waiting_seqs, used(&scheduler)), (0, 0));
        scheduler.take(id).unwrap();
        scheduler.submit(new, 1.0).unwrap();
        drain(&mut scheduler, &mut executor);
    }
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
fn a_sequence_that_is_let_in_late_shares_its_siblings_prompt() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_seqs: 2,
        enable_prefix_caching: false,
        ..config()
    });
    scheduler
        .submit(request(prompt(1, 4), params(4)), 0.0)
        .unwrap();
    let new = NewRequest {
        n: 2,
        ..request(prompt(2, 20), params(20))
    };
    let id = scheduler.submit(new.clone(), 0.0).unwrap();
    let mut steps = Vec::new();
    while scheduler.has_work() {
        steps.push(chunks(&mut scheduler, &mut executor));
    }
    // The other request's four tokens, then one row each: no step reads the prompt again.
    assert_eq!(steps[0], [4, 20]);
    assert!(
        steps[1..].iter().flatten().all(|&rows| rows == 1),
        "{steps:?}"
    );
    assert!(steps[5..10].iter().all(|rows| rows.len() == 2), "{steps:?}");
    let output = scheduler.take(id).unwrap();
    assert_eq!(output.sequences, oracle(&new, scheduler.config()));
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

#[test]
fn what_mirostat_keeps_comes_back_with_the_next_row_of_its_sequence() {
    let (mut scheduler, mut executor) = build(config());
    let mirostat = SamplingParams {
        mirostat: Some(Mirostat { tau: 3.0, eta: 0.1 }),
        ..params(3)
    };
    scheduler
        .submit(request(prompt(1, 4), params(3)), 0.0)
        .unwrap();
    scheduler
        .submit(request(prompt(2, 4), mirostat), 0.0)
        .unwrap();
    let mut expected = [0.0, 6.0]; // none, and twice tau
    for step in 0..3_u8 {
        let batch = scheduler.schedule(0.0).unwrap();
        let found: Vec<f32> = batch.sampled.iter().map(|row| row.mirostat_mu).collect();
        assert_eq!(found, expected);
        let mut output = executor.run(batch);
        expected[1] = f32::from(step) + 0.5;
        output.mirostat_mu = vec![(1, expected[1])];
        scheduler.update(&output, 0.0).unwrap();
    }
}
