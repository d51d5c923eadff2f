//! The decision log: whatever happened, its log replays to the same decisions; whatever is wrong with a log, the reader
//! says so.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use inferlib_core::decision_log::{Damage, Replay, ReplayError, replay};
use inferlib_core::{NewRequest, Policy, Scheduler, SchedulerConfig};
use proptest::prelude::*;

use crate::pretended_executor::{FakeExecutor, config, drain, params, prompt, request, step};
use crate::random_runs::Run;
use crate::random_runs::operations::{arbitrary_config, arbitrary_operation};

/// What a test's scheduler writes.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

const MAX_BYTES: u64 = 1 << 26;

fn read(log: &[u8]) -> Result<Replay, ReplayError> {
    replay(log, MAX_BYTES)
}

fn damage(log: &[u8]) -> Damage {
    match read(log) {
        Err(ReplayError::Damaged { damage, .. }) => damage,
        other => panic!("{other:?}"),
    }
}

/// The log of a short run, with a bit of everything.
fn sample(policy: Policy) -> Vec<u8> {
    let limits = SchedulerConfig {
        policy,
        max_num_seqs: 2,
        ..config()
    };
    let mut scheduler = Scheduler::new(limits.clone()).unwrap();
    let mut executor = FakeExecutor::new(&limits.groups);
    let log = Shared::default();
    scheduler.log_decisions(Box::new(log.clone())).unwrap();
    let held = scheduler.open_sequence(Some("salt".to_owned()));
    scheduler.fork_sequence(held).unwrap();
    let mut ids = Vec::new();
    for seed in 0..4_u32 {
        let new = NewRequest {
            tenant: Some(format!("tenant {}", seed % 2)),
            priority: 5 - seed.cast_signed(),
            deadline: Some(f64::from(30 - 5 * seed)),
            ..request(prompt(u64::from(seed), 20), params(8))
        };
        ids.push(scheduler.submit(new, 0.0).unwrap());
    }
    for now in 1..4 {
        step(&mut scheduler, &mut executor, f64::from(now));
    }
    scheduler.cancel(ids[1], 4.0);
    drain(&mut scheduler, &mut executor);
    scheduler.take(ids[0]);
    assert!(scheduler.end_decision_log().is_none());
    log.bytes()
}

#[test]
fn a_log_replays_and_says_what_it_held() {
    for name in Policy::NAMES {
        let replayed = read(&sample(Policy::from_name(name).unwrap())).unwrap();
        assert_eq!(replayed.config.policy.name(), name);
        assert_eq!(
            (replayed.stats.num_requests, replayed.stats.num_finished),
            (4, 4)
        );
        assert!(replayed.stats.num_steps > 8);
        assert!(replayed.num_records > 2 * replayed.stats.num_steps);
    }
}

#[test]
fn a_log_is_compact() {
    let limits = SchedulerConfig {
        max_num_seqs: 32,
        ..config()
    };
    let mut scheduler = Scheduler::new(limits.clone()).unwrap();
    let mut executor = FakeExecutor::new(&limits.groups);
    let log = Shared::default();
    scheduler.log_decisions(Box::new(log.clone())).unwrap();
    for seed in 0..16 {
        let new = request(prompt(seed, 2), params(30));
        scheduler.submit(new, 0.0).unwrap();
    }
    step(&mut scheduler, &mut executor, 0.0);
    let before = log.bytes().len();
    for _ in 0..20 {
        step(&mut scheduler, &mut executor, 0.0);
    }
    let per_row = (log.bytes().len() - before) / (16 * 20);
    assert!(per_row <= 8, "{per_row} bytes for a row of a step");
}

#[test]
fn what_is_no_log_or_of_another_version_is_refused() {
    assert_eq!(damage(b""), Damage::NotALog);
    assert_eq!(damage(b"GGUF\0\0\0\0\0\0\0\0"), Damage::NotALog);
    let mut log = sample(Policy::Fcfs);
    log[8] = 9;
    assert_eq!(damage(&log), Damage::Version { found: 9, known: 3 });
}

#[test]
fn a_log_that_ends_early_is_verified_up_to_there() {
    let log = sample(Policy::Fcfs);
    let whole = read(&log).unwrap();
    let (mut complete, mut truncated) = (0, 0);
    for length in 9..log.len() {
        match read(&log[..length]) {
            Ok(part) => {
                assert!(part.num_records < whole.num_records);
                complete += 1;
            }
            Err(ReplayError::Damaged {
                record,
                offset,
                damage: Damage::Truncated,
            }) => {
                assert!(record <= whole.num_records && offset < length as u64 + 1);
                truncated += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(complete, whole.num_records);
    assert!(truncated > complete);
}

#[test]
fn every_damaged_byte_is_noticed() {
    let log = sample(Policy::FairShare {
        input_weight: 1,
        output_weight: 2,
    });
    for index in 0..log.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = log.clone();
            damaged[index] ^= flip;
            let error = read(&damaged).expect_err("the byte was changed");
            assert!(matches!(error, ReplayError::Damaged { .. }), "{error}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_any_more_ends_and_the_scheduler_goes_on() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut scheduler = Scheduler::new(config()).unwrap();
    let mut executor = FakeExecutor::new(&config().groups);
    scheduler.log_decisions(Box::new(Full(200))).unwrap();
    scheduler
        .submit(request(prompt(1, 40), params(20)), 0.0)
        .unwrap();
    assert_eq!(drain(&mut scheduler, &mut executor), 20);
    let error = scheduler.end_decision_log().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(scheduler.end_decision_log().is_none());

    let refused = Scheduler::new(config())
        .unwrap()
        .log_decisions(Box::new(Full(3)));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
#[should_panic(expected = "a log begins with the scheduler")]
fn a_log_cannot_begin_in_the_middle() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.open_sequence(None);
    let _ = scheduler.log_decisions(Box::new(Shared::default()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_its_log_replays_to_the_same_decisions(
        config in arbitrary_config(),
        operations in prop::collection::vec(arbitrary_operation(), 1..80),
    ) {
        let log = Shared::default();
        let mut run = Run::new(&config);
        run.scheduler.log_decisions(Box::new(log.clone())).unwrap();
        run.carry_out(&operations);
        let expected = run.scheduler.stats();
        prop_assert!(run.scheduler.end_decision_log().is_none());
        let replayed = read(&log.bytes());
        prop_assert!(replayed.is_ok(), "{}", replayed.unwrap_err());
        prop_assert_eq!(replayed.unwrap().stats, expected);
    }

    #[test]
    fn whatever_a_file_holds_the_reader_says_what_is_wrong(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        has_magic in any::<bool>(),
    ) {
        let head: &[u8] = if has_magic { b"INFLDLOG\x01" } else { b"" };
        prop_assert!(read(&[head, &bytes].concat()).is_err());
    }
}
