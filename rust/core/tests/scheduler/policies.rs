//! What each policy promises, one situation at a time; against a naive twin: `model.rs`.

use inferlib_core::{
    ConfigError, Continuation, FinishReason, NewRequest, Policy, RequestStatus, Scheduler,
    SchedulerConfig, Standing, SubmitError, WaitReason,
};
use inferlib_program::RequestId;

use crate::pretended_executor::{
    FakeExecutor, build, config, drain, group, params, prompt, request, step,
};

const FAIR: Policy = Policy::FairShare {
    input_weight: 1,
    output_weight: 2,
};

/// One sequence at a time, no cache.
fn one_at_a_time(policy: Policy) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        max_num_seqs: 1,
        enable_prefix_caching: false,
        ..config()
    }
}

fn of_tenant(tenant: &str, seed: u64, num_prompt: usize, max_tokens: u32) -> NewRequest {
    NewRequest {
        tenant: Some(tenant.to_owned()),
        ..request(prompt(seed, num_prompt), params(max_tokens))
    }
}

/// The requests in the order in which they end, a second per step.
fn order(scheduler: &mut Scheduler, executor: &mut FakeExecutor, ids: &[RequestId]) -> Vec<usize> {
    let mut ended = Vec::new();
    for now in 1..2000 {
        if !step(scheduler, executor, f64::from(now)) {
            break;
        }
        for (index, &id) in ids.iter().enumerate() {
            let is_new = !ended.contains(&index);
            if is_new && scheduler.status(id) == Some(RequestStatus::Finished) {
                ended.push(index);
            }
        }
    }
    ended
}

fn service(scheduler: &Scheduler, tenant: &str) -> u64 {
    let mut tenants = scheduler.tenants();
    let found = tenants.find(|each| each.tenant.as_deref() == Some(tenant));
    found.unwrap().service
}

#[test]
fn a_request_that_waits_improves_by_one_class_for_every_so_many_steps() {
    let policy = Policy::Priority { steps_per_class: 4 };
    let (mut scheduler, mut executor) = build(one_at_a_time(policy));
    let submit = |scheduler: &mut Scheduler, priority| {
        let new = NewRequest {
            priority,
            ..request(prompt(1, 4), params(1))
        };
        scheduler.submit(new, 0.0).unwrap()
    };
    let old = submit(&mut scheduler, 1);
    let standing = |scheduler: &Scheduler| scheduler.why_waiting(old).map(|why| why.standing);
    // Somebody of the better class comes with every step, of which each runs one.
    for steps in 0..4 {
        submit(&mut scheduler, 0);
        let expected = Standing::Priority {
            priority: 1,
            effective: i64::from(steps < 1),
        };
        assert_eq!(standing(&scheduler), Some(expected), "after {steps} steps");
        step(&mut scheduler, &mut executor, 0.0);
        assert_eq!(scheduler.status(old), Some(RequestStatus::Waiting));
    }
    // After four steps it is as good as one that comes now, and was there before.
    submit(&mut scheduler, 0);
    step(&mut scheduler, &mut executor, 0.0);
    assert_eq!(scheduler.status(old), Some(RequestStatus::Finished));
}

#[test]
fn first_come_first_served_never_ages() {
    let (mut scheduler, mut executor) = build(one_at_a_time(Policy::Fcfs));
    let new = |priority| NewRequest {
        priority,
        ..request(prompt(1, 4), params(1))
    };
    let old = scheduler.submit(new(1), 0.0).unwrap();
    for _ in 0..500 {
        scheduler.submit(new(0), 0.0).unwrap();
        step(&mut scheduler, &mut executor, 0.0);
    }
    let waiting = scheduler.why_waiting(old).unwrap();
    assert_eq!(waiting.standing, Standing::Arrival { priority: 1 });
    assert_eq!(waiting.reason, Some(WaitReason::MaxNumSeqs));
}

#[test]
fn the_earliest_deadline_runs_first_and_patience_stands_in_for_a_missing_one() {
    let policy = Policy::Deadline {
        patience_seconds: 500.0,
    };
    let (mut scheduler, mut executor) = build(one_at_a_time(policy));
    let ids = [Some(900.0), None, Some(300.0), Some(700.0), None].map(|deadline| {
        let new = NewRequest {
            deadline,
            ..request(prompt(1, 4), params(3))
        };
        scheduler.submit(new, 0.0).unwrap()
    });
    let due = scheduler.why_waiting(ids[1]).unwrap().standing;
    let expected = Standing::Deadline {
        due: 500.0,
        is_own: false,
    };
    assert_eq!(due, expected);
    let found = order(&mut scheduler, &mut executor, &ids);
    assert_eq!(found, [2, 1, 4, 3, 0]);
}

#[test]
fn the_tenant_that_was_served_least_is_next() {
    let (mut scheduler, mut executor) = build(one_at_a_time(FAIR));
    // Four of a, then one each of b and of nobody, which is a tenant too.
    let mut ids = Vec::new();
    for seed in 0..4 {
        ids.push(scheduler.submit(of_tenant("a", seed, 5, 3), 0.0).unwrap());
    }
    ids.push(scheduler.submit(of_tenant("b", 4, 5, 3), 0.0).unwrap());
    let nobodys = request(prompt(5, 5), params(3));
    ids.push(scheduler.submit(nobodys, 0.0).unwrap());
    assert_eq!(
        order(&mut scheduler, &mut executor, &ids),
        [0, 4, 5, 1, 2, 3]
    );
}

#[test]
fn a_tenants_own_requests_go_by_priority_and_do_not_pass_other_tenants() {
    let (mut scheduler, mut executor) = build(one_at_a_time(FAIR));
    let mut ids = Vec::new();
    for (tenant, priority) in [("a", 0), ("a", -9), ("b", 3), ("b", 0)] {
        let new = NewRequest {
            priority,
            ..of_tenant(tenant, 1, 5, 3)
        };
        ids.push(scheduler.submit(new, 0.0).unwrap());
    }
    assert_eq!(order(&mut scheduler, &mut executor, &ids), [1, 3, 0, 2]);
}

#[test]
fn cached_prompts_cost_their_tenant_nothing_and_a_longer_answer_costs_more() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        policy: FAIR,
        ..config()
    });
    scheduler.submit(of_tenant("a", 1, 33, 1), 0.0).unwrap();
    scheduler.submit(of_tenant("b", 2, 33, 1), 0.0).unwrap();
    step(&mut scheduler, &mut executor, 0.0);
    step(&mut scheduler, &mut executor, 0.0);
    let busy = |scheduler: &mut Scheduler, tenant| {
        scheduler.submit(of_tenant(tenant, 1, 33, 90), 0.0).unwrap();
    };
    busy(&mut scheduler, "b");
    busy(&mut scheduler, "a");
    let before = ["a", "b"].map(|tenant| service(&scheduler, tenant));
    for _ in 0..3 {
        step(&mut scheduler, &mut executor, 0.0);
    }
    // Of 33 tokens 32 were cached, and three were drawn.
    let after = ["a", "b"].map(|tenant| service(&scheduler, tenant));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [1 + 6, 1 + 6]);
}

#[test]
fn idleness_earns_no_credit() {
    let (mut scheduler, mut executor) = build(one_at_a_time(FAIR));
    // b is served once, then a alone for a long time.
    scheduler.submit(of_tenant("b", 1, 5, 3), 0.0).unwrap();
    drain(&mut scheduler, &mut executor);
    for seed in 0..20 {
        scheduler.submit(of_tenant("a", seed, 5, 30), 0.0).unwrap();
    }
    for _ in 0..300 {
        step(&mut scheduler, &mut executor, 0.0);
    }
    let mut ids = Vec::new();
    for seed in 0..4 {
        ids.push(scheduler.submit(of_tenant("b", seed, 5, 30), 0.0).unwrap());
    }
    // It begins where a is, and they take turns.
    let difference = service(&scheduler, "a").abs_diff(service(&scheduler, "b"));
    assert!(difference <= 5 + 2 * 30, "{difference}");
    let mut served = Vec::new();
    for _ in 0..200 {
        step(&mut scheduler, &mut executor, 0.0);
        served.push(service(&scheduler, "a").abs_diff(service(&scheduler, "b")));
    }
    assert!(
        served.iter().all(|&gap| gap <= 2 * (5 + 2 * 30)),
        "{served:?}"
    );
}

#[test]
fn tenants_without_a_lead_are_forgotten_and_the_others_are_bounded() {
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        policy: FAIR,
        ..config()
    });
    // Nobody waits when the next one comes: each begins where the one before has ended.
    for tenant in 0..1500 {
        let new = of_tenant(&tenant.to_string(), 1, 4, 1);
        scheduler.submit(new, 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
    }
    assert!(scheduler.tenants().count() <= 2);

    // Somebody always waits who was not served yet, so that nobody else's lead is ever used up.
    let (mut scheduler, mut executor) = build(SchedulerConfig {
        policy: FAIR,
        max_num_seqs: 2,
        enable_prefix_caching: false,
        ..config()
    });
    for tenant in 0..1500 {
        let new = of_tenant(&tenant.to_string(), 1, 4, 1);
        scheduler.submit(new, 0.0).unwrap();
    }
    let mut most = 0;
    while scheduler.stats().num_steps < 740 {
        let output = executor.run(scheduler.schedule(0.0).unwrap());
        scheduler.update(&output, 0.0).unwrap();
        let idle = scheduler.tenants().filter(|tenant| tenant.num_seqs == 0);
        most = most.max(idle.count());
        scheduler.submit(of_tenant("late", 1, 4, 1), 0.0).unwrap();
    }
    scheduler.check_integrity().unwrap();
    assert!((1000..=1024).contains(&most), "{most}");
}

#[test]
fn who_is_far_ahead_makes_room_for_a_waiting_tenant() {
    // A cache of 128 tokens. Four requests of a grow in it, and whenever it is full one of them goes, so that they could
    // generate far more than 128 tokens before there is room for the long prompt of b.
    let limits = SchedulerConfig {
        policy: FAIR,
        groups: vec![group(8)],
        max_num_seqs: 8,
        max_model_len: 2000,
        enable_prefix_caching: false,
        ..config()
    };
    let (mut scheduler, mut executor) = build(limits);
    for seed in 0..4 {
        scheduler.submit(of_tenant("a", seed, 1, 120), 0.0).unwrap();
    }
    step(&mut scheduler, &mut executor, 0.0);
    scheduler.submit(of_tenant("b", 99, 100, 2), 0.0).unwrap();
    let bound = 2 * 8 * 16;
    for _ in 0..2000 {
        step(&mut scheduler, &mut executor, 0.0);
        let waits = scheduler
            .tenants()
            .any(|tenant| tenant.tenant.as_deref() == Some("b") && tenant.num_waiting_seqs > 0);
        if !waits {
            break;
        }
        let lead = service(&scheduler, "a") - service(&scheduler, "b");
        assert!(lead <= bound, "{lead} of at most {bound}");
    }
    drain(&mut scheduler, &mut executor);
}

#[test]
fn at_its_deadline_a_request_ends_with_what_it_has() {
    for name in Policy::NAMES {
        let (mut scheduler, mut executor) = build(SchedulerConfig {
            policy: Policy::from_name(name).unwrap(),
            ..config()
        });
        let with_deadline = |deadline| NewRequest {
            deadline,
            n: 2,
            ..request(prompt(1, 20), params(50))
        };
        let late = scheduler.submit(with_deadline(Some(10.0)), 0.0).unwrap();
        let whole = scheduler.submit(with_deadline(None), 0.0).unwrap();
        for second in 1..=12 {
            let now = f64::from(second);
            let batch = scheduler.schedule(now).unwrap();
            let output = executor.run(batch);
            let finished = &scheduler.update(&output, now).unwrap().finished_requests;
            assert_eq!(finished.contains(&late), second == 10, "{name} at {now}");
            scheduler.check_integrity().unwrap();
        }
        drain(&mut scheduler, &mut executor);
        let (late, whole) = (
            scheduler.take(late).unwrap(),
            scheduler.take(whole).unwrap(),
        );
        assert_eq!(late.timestamps.finished, Some(10.0));
        for (late, whole) in late.sequences.iter().zip(&whole.sequences) {
            assert_eq!(late.finish_reason, Some(FinishReason::Deadline));
            let count = late.token_ids.len();
            assert!((1..=10).contains(&count), "{name}: {count} tokens");
            assert_eq!(late.token_ids, whole.token_ids[..count]);
        }
    }
}

#[test]
fn a_deadline_that_passes_while_nothing_runs_is_told_without_a_step() {
    let (mut scheduler, _) = build(config());
    let new = NewRequest {
        deadline: Some(5.0),
        ..request(prompt(1, 20), params(50))
    };
    let id = scheduler.submit(new, 0.0).unwrap();
    assert!(scheduler.has_work());
    assert!(scheduler.schedule(5.0).is_none());
    assert_eq!(scheduler.overdue().finished_requests, [id]);
    assert!(scheduler.overdue().finished_requests.is_empty());
    assert!(!scheduler.has_work());
    let output = scheduler.take(id).unwrap();
    let reason = output.sequences[0].finish_reason;
    assert_eq!(reason, Some(FinishReason::Deadline));
    assert_eq!(scheduler.stats().num_waiting_requests, 0);
}

#[test]
fn a_held_sequence_keeps_what_was_generated_in_time() {
    let (mut scheduler, mut executor) = build(config());
    let sequence = scheduler.open_sequence(None);
    let new = NewRequest {
        deadline: Some(6.0),
        continues: Some(Continuation {
            sequence,
            keep: true,
        }),
        ..request(prompt(1, 20), params(50))
    };
    let id = scheduler.submit(new, 0.0).unwrap();
    for now in 1..=6 {
        step(&mut scheduler, &mut executor, f64::from(now));
    }
    let output = scheduler.take(id).unwrap();
    let held = scheduler.sequence(sequence).unwrap();
    assert!(!held.is_busy());
    let generated = &output.sequences[0].token_ids;
    assert_eq!(
        held.tokens(),
        [prompt(1, 20).as_slice(), generated].concat()
    );
    assert_eq!(held.num_computed_tokens(), held.tokens().len() - 1);
}

#[test]
fn deadlines_of_requests_that_ended_do_not_pile_up() {
    let (mut scheduler, mut executor) = build(config());
    for _ in 0..10_000 {
        let new = NewRequest {
            deadline: Some(1e9),
            ..request(prompt(1, 4), params(1))
        };
        let id = scheduler.submit(new, 0.0).unwrap();
        drain(&mut scheduler, &mut executor);
        scheduler.take(id).unwrap();
    }
    let text = format!("{scheduler:?}");
    assert!(text.matches("RequestId").count() < 200);
}

#[test]
fn numbers_that_a_policy_cannot_work_with_are_refused() {
    let refused = |policy| {
        let limits = SchedulerConfig { policy, ..config() };
        match Scheduler::new(limits) {
            Err(ConfigError::Policy { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    let weights = |input_weight, output_weight| Policy::FairShare {
        input_weight,
        output_weight,
    };
    assert_eq!(
        refused(Policy::Priority { steps_per_class: 0 }),
        "steps_per_class"
    );
    assert_eq!(refused(weights(0, 1)), "input_weight");
    assert_eq!(refused(weights(1, 0)), "output_weight");
    assert_eq!(refused(weights(1, u32::MAX)), "output_weight");
    for patience_seconds in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(
            refused(Policy::Deadline { patience_seconds }),
            "patience_seconds"
        );
    }
}

#[test]
fn a_deadline_that_is_no_moment_is_refused_and_leaves_nothing() {
    let (mut scheduler, _) = build(config());
    for deadline in [f64::NAN, f64::INFINITY] {
        let new = NewRequest {
            deadline: Some(deadline),
            ..request(prompt(1, 4), params(1))
        };
        assert_eq!(
            scheduler.submit(new, 0.0),
            Err(SubmitError::InvalidDeadline)
        );
    }
    assert!(!scheduler.has_work());
    scheduler.check_integrity().unwrap();
}
