//! Work in the background: what it may have of a step, and what it gives up for others.

use inferlib_core::{NewRequest, Policy, RequestStatus, Scheduler, SchedulerConfig, WaitReason};
use inferlib_program::RequestId;

use crate::pretended_executor::{
    build, chunks, config, drain, group, oracle, params, prompt, request, step,
};

fn background(seed: u64, num_prompt: usize, max_tokens: u32) -> NewRequest {
    NewRequest {
        background: true,
        ..request(prompt(seed, num_prompt), params(max_tokens))
    }
}

fn submit(scheduler: &mut Scheduler, new: NewRequest) -> RequestId {
    scheduler.submit(new, 0.0).unwrap()
}

#[test]
fn a_step_has_few_tokens_of_it_and_prompts_get_half_of_them() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        background_tokens: 8,
        ..config()
    });
    for seed in 0..10 {
        submit(&mut scheduler, background(seed, 20, 25));
    }
    let mut most_decoding = 0;
    while scheduler.has_work() {
        let tokens = chunks(&mut scheduler, &mut executor);
        assert!(tokens.iter().sum::<i32>() <= 8);
        most_decoding = most_decoding.max(tokens.len());
    }
    assert_eq!(most_decoding, 4);
}

#[test]
fn it_stands_still_while_somebody_elses_prompt_is_read_and_decodes_beside_others() {
    let (mut scheduler, mut executor) = build(config());
    let behind = submit(&mut scheduler, background(1, 4, 30));
    assert_eq!(chunks(&mut scheduler, &mut executor), [4]);
    submit(&mut scheduler, request(prompt(2, 100), params(3)));
    assert_eq!(chunks(&mut scheduler, &mut executor), [64]);
    assert_eq!(scheduler.status(behind), Some(RequestStatus::Running));
    assert_eq!(chunks(&mut scheduler, &mut executor), [36]);
    assert_eq!(chunks(&mut scheduler, &mut executor), [1, 1]);
    drain(&mut scheduler, &mut executor);
}

#[test]
fn who_comes_takes_nobodys_place_where_there_is_room() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        background_tokens: 8,
        ..config()
    });
    let behind: Vec<_> = (0..4)
        .map(|seed| submit(&mut scheduler, background(seed, 4, 50)))
        .collect();
    while chunks(&mut scheduler, &mut executor) != [1; 4] {}
    let live = submit(&mut scheduler, request(prompt(9, 4), params(3)));
    assert_eq!(chunks(&mut scheduler, &mut executor), [4]);
    for id in [&behind[..], &[live]].concat() {
        assert_eq!(scheduler.status(id), Some(RequestStatus::Running));
    }
    drain(&mut scheduler, &mut executor);
}

#[test]
fn it_keeps_its_place_where_only_the_steps_tokens_are_missing() {
    let (mut scheduler, mut executor) = build(config());
    let behind = submit(&mut scheduler, background(1, 4, 50));
    assert_eq!(chunks(&mut scheduler, &mut executor), [4]);
    submit(&mut scheduler, request(prompt(2, 64), params(1)));
    submit(&mut scheduler, request(prompt(3, 20), params(1)));
    assert_eq!(chunks(&mut scheduler, &mut executor), [64]);
    assert_eq!(scheduler.status(behind), Some(RequestStatus::Running));
    drain(&mut scheduler, &mut executor);
}

#[test]
fn it_makes_room_for_who_waits_to_be_let_in() {
    for limits in [
        SchedulerConfig {
            max_num_seqs: 2,
            ..config()
        },
        SchedulerConfig {
            groups: vec![group(8)],
            ..config()
        },
    ] {
        for policy in Policy::NAMES {
            let policy = Policy::from_name(policy).unwrap();
            let limits = SchedulerConfig {
                policy,
                ..limits.clone()
            };
            let (mut scheduler, mut executor) = build(limits.clone());
            let behind: Vec<_> = (1..3).map(|seed| background(seed, 20, 25)).collect();
            let ids: Vec<_> = behind
                .iter()
                .cloned()
                .map(|new| submit(&mut scheduler, new))
                .collect();
            for _ in 0..6 {
                step(&mut scheduler, &mut executor, 0.0);
            }
            assert!(
                ids.iter()
                    .all(|&id| scheduler.status(id) == Some(RequestStatus::Running))
            );
            let first = submit(&mut scheduler, request(prompt(9, 60), params(30)));
            assert_eq!(chunks(&mut scheduler, &mut executor), [60], "{policy:?}");
            assert_eq!(scheduler.status(first), Some(RequestStatus::Running));
            assert_eq!(scheduler.status(ids[1]), Some(RequestStatus::Preempted));
            drain(&mut scheduler, &mut executor);
            for (id, new) in ids.iter().zip(&behind) {
                assert_eq!(scheduler.take(*id).unwrap().sequences, oracle(new, &limits));
            }
        }
    }
}

#[test]
fn it_is_nobodys_under_fair_share() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        policy: Policy::from_name("fair").unwrap(),
        max_num_seqs: 1,
        ..config()
    });
    let named = |new| NewRequest {
        tenant: Some("a".to_owned()),
        ..new
    };
    submit(&mut scheduler, named(background(1, 8, 8)));
    drain(&mut scheduler, &mut executor);
    assert_eq!(scheduler.tenants().count(), 0);
    submit(&mut scheduler, named(background(1, 8, 8)));
    submit(&mut scheduler, named(request(prompt(2, 8), params(8))));
    for _ in 0..3 {
        step(&mut scheduler, &mut executor, 0.0);
    }
    let served = scheduler.tenants().next().unwrap().service;
    assert_eq!(served, 8 + 2 * 3);
    drain(&mut scheduler, &mut executor);
}

#[test]
fn who_waits_in_it_is_told_what_for() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    submit(&mut scheduler, request(prompt(1, 100), params(20)));
    let behind = submit(&mut scheduler, background(2, 4, 1));
    let next = submit(&mut scheduler, background(3, 4, 1));
    step(&mut scheduler, &mut executor, 0.0);
    let waiting = scheduler.why_waiting(behind).unwrap();
    assert_eq!(
        (waiting.reason, waiting.num_ahead),
        (Some(WaitReason::Foreground), 0)
    );
    assert_eq!(scheduler.why_waiting(next).unwrap().num_ahead, 1);
    step(&mut scheduler, &mut executor, 0.0);
    step(&mut scheduler, &mut executor, 0.0);
    assert_eq!(
        scheduler.why_waiting(behind).unwrap().reason,
        Some(WaitReason::MaxNumSeqs)
    );
    submit(&mut scheduler, request(prompt(4, 4), params(1)));
    assert_eq!(
        scheduler.why_waiting(behind).unwrap().reason,
        Some(WaitReason::Foreground)
    );
    assert_eq!(scheduler.why_waiting(next).unwrap().num_ahead, 2);
    drain(&mut scheduler, &mut executor);
    let run = scheduler.take(behind).unwrap().run;
    assert!(run.waited_for[WaitReason::Foreground as usize] > 0);
}
