//! Logs whose checksums are right and whose contents are not.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::codec::{Damage, Decoder, Encode, read_frame, write_frame};
use super::config::write_config;
use super::fields::{
    PlannedRow, read_output, read_reason, read_request, write_output, write_reason, write_request,
    write_rows,
};
use super::records::tag;
use super::{MAGIC, ReplayError, VERSION, replay};
use crate::drafting::DraftModel;
use crate::kv_cache::GroupConfig;
use crate::request::{CapturePoint, FinishReason, NewRequest};
use crate::scheduler::{Policy, Scheduler, SchedulerConfig, samples};
use inferlib_program::program::Rows;
use inferlib_program::{RequestId, RowLogprobs, RowStatus, SamplingParams, StepOutput};

const MAX_BYTES: u64 = 1 << 22;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 16,
        draft_model: Some(DraftModel {
            num_speculative_tokens: 4,
        }),
        ..samples::config()
    }
}

fn new_request(priority: i32, max_tokens: u32) -> NewRequest {
    let params = SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    };
    NewRequest {
        priority,
        ..NewRequest::new(vec![1; 20], Arc::new(params))
    }
}

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

/// The payloads of a log in which requests of several priorities wait for each other.
fn sample() -> Vec<Vec<u8>> {
    let log = Shared::default();
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.log_decisions(Box::new(log.clone())).unwrap();
    let held = scheduler.open_sequence(None);
    let restored = scheduler.restore_sequence(held, vec![3; 20], 20);
    assert_eq!(restored, Ok(true));
    for priority in [3, 2, 1] {
        scheduler.submit(new_request(priority, 4), 0.0).unwrap();
    }
    while let Some(batch) = scheduler.schedule(1.0) {
        let rows = batch.num_sampled();
        let output = StepOutput {
            mirostat_mu: Vec::new(),
            token_ids: vec![7; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
            captures: Vec::new(),
            logits: Vec::new(),
        };
        scheduler.update(&output, 1.0).unwrap();
    }
    scheduler.end_decision_log();
    let bytes = log.0.lock().unwrap().clone();
    let mut rest = &bytes[MAGIC.len() + 1..];
    let (mut payloads, mut payload) = (Vec::new(), Vec::new());
    while read_frame(&mut rest, &mut payload).unwrap().is_some() {
        payloads.push(payload.clone());
    }
    payloads
}

fn assemble(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut log = MAGIC.to_vec();
    log.push(VERSION);
    for payload in payloads {
        write_frame(payload, &mut log);
    }
    log
}

#[test]
fn a_scheduler_that_decides_otherwise_is_found_out() {
    let mut payloads = sample();
    replay(assemble(&payloads).as_slice(), MAX_BYTES).unwrap();
    payloads[0].clear();
    let policy = Policy::Deadline {
        patience_seconds: 1.0,
    };
    let other = SchedulerConfig { policy, ..config() };
    write_config(&other, &mut payloads[0]);
    match replay(assemble(&payloads).as_slice(), MAX_BYTES) {
        Err(ReplayError::Diverged { call, step, .. }) => assert_eq!((call, step), ("schedule", 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_that_is_left_out_is_found_out() {
    let payloads = sample();
    for left_out in 3..payloads.len() - 1 {
        let mut rest = payloads.clone();
        rest.remove(left_out);
        let error = replay(assemble(&rest).as_slice(), MAX_BYTES);
        assert!(
            matches!(error, Err(ReplayError::Diverged { .. })),
            "{left_out}"
        );
    }
}

#[test]
fn a_log_of_a_huge_scheduler_is_refused_before_anything_is_allocated() {
    let needed = |payloads: &[Vec<u8>]| match replay(assemble(payloads).as_slice(), MAX_BYTES) {
        Err(ReplayError::Damaged {
            damage: Damage::TooLarge { needed, .. },
            ..
        }) => needed,
        other => panic!("{other:?}"),
    };
    let mut header = Vec::new();
    let group = GroupConfig {
        num_blocks: 1 << 27,
        window: None,
    };
    let huge = SchedulerConfig {
        groups: vec![group; 4],
        ..config()
    };
    write_config(&huge, &mut header);
    assert!(needed(&[header]) > 1 << 30);

    // Many sequences of long outputs, and many forks, in a few bytes each.
    let wide = SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: 4096,
            window: None,
        }],
        max_model_len: 1 << 20,
        ..config()
    };
    let mut header = Vec::new();
    write_config(&wide, &mut header);
    let mut submit = vec![tag::SUBMIT];
    submit.float(0.0);
    let request = NewRequest {
        n: 4096,
        ..new_request(0, u32::MAX)
    };
    write_request(&request, &mut submit);
    submit.optional(Some(0));
    assert!(needed(&[header.clone(), submit]) > 1 << 30);

    let mut open = vec![tag::OPEN];
    open.text(None);
    open.number(0);
    let mut payloads = vec![header, open];
    for fork in 1..8192 {
        let mut record = vec![tag::FORK];
        record.number(0);
        record.optional(Some(fork));
        payloads.push(record);
    }
    assert!(needed(&payloads) > MAX_BYTES);
}

#[test]
fn a_frame_that_claims_more_than_there_is_allocates_what_there_is() {
    let mut log = MAGIC.to_vec();
    log.push(VERSION);
    log.number(1 << 28);
    log.extend_from_slice(&[1; 100]);
    match replay(log.as_slice(), MAX_BYTES) {
        Err(ReplayError::Damaged {
            damage: Damage::Truncated,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    let mut payload = Vec::new();
    let _ = read_frame(&mut &log[MAGIC.len() + 1..], &mut payload);
    assert!(payload.capacity() < 1000);
}

#[test]
fn told_tokens_and_ended_sequences_replay_and_a_changed_answer_is_found_out() {
    let log = Shared::default();
    let mut scheduler = Scheduler::new(config()).unwrap();
    scheduler.log_decisions(Box::new(log.clone())).unwrap();
    assert!(format!("{scheduler:?}").contains("Some(DecisionLog { .. })"));
    let id = scheduler.submit(new_request(0, 4), 0.0).unwrap();
    assert!(scheduler.force(id, 0, &[5, 6]));
    assert!(scheduler.suggest(id, 0, &[7]));
    assert!(!scheduler.force(id, 1, &[5]));
    assert!(scheduler.finish(id, 0, FinishReason::Abstain, None, 1.0));
    assert!(!scheduler.force(id, 0, &[5]));
    scheduler.end_decision_log();
    let bytes = log.0.lock().unwrap().clone();
    let replayed = replay(bytes.as_slice(), MAX_BYTES).unwrap();
    assert_eq!((replayed.num_records, replayed.stats.num_finished), (6, 1));

    let mut header = Vec::new();
    write_config(&config(), &mut header);
    let mut force = vec![tag::FORCE];
    force.number(id.0);
    force.number(0);
    force.tokens(&[5]);
    force.flag(true);
    match replay(assemble(&[header, force]).as_slice(), MAX_BYTES) {
        Err(ReplayError::Diverged {
            call,
            expected,
            found,
            ..
        }) => assert_eq!(
            (call, expected.as_str(), found.as_str()),
            ("force", "true", "false")
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_difference_is_shortened() {
    let mut header = Vec::new();
    write_config(&config(), &mut header);
    let mut schedule = vec![tag::SCHEDULE];
    schedule.float(1.0);
    let row = |index| PlannedRow {
        request_id: RequestId(index),
        sequence_index: 0,
        num_tokens: 1,
        num_drafts: 0,
    };
    write_rows(
        (0..40).map(row).collect::<Vec<_>>().into_iter(),
        &mut schedule,
    );
    schedule.fixed(0);
    match replay(assemble(&[header, schedule]).as_slice(), MAX_BYTES) {
        Err(ReplayError::Diverged {
            expected, found, ..
        }) => {
            assert_eq!(expected.chars().count(), 301);
            assert!(expected.ends_with('…'));
            assert_eq!(found, "[]");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_without_a_proper_length_is_refused() {
    let refused = |length: &[u8]| {
        let mut log = assemble(&[]);
        log.extend_from_slice(length);
        match replay(log.as_slice(), MAX_BYTES) {
            Err(ReplayError::Damaged { damage, .. }) => damage,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&[]), Damage::Truncated);
    assert_eq!(refused(&[0x80]), Damage::Truncated);
    let too_long = |damage| matches!(damage, Damage::FrameTooLong { .. });
    assert!(too_long(refused(&[0xff; 5])));
    assert!(too_long(refused(&[0x80; 6])));
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_damaged_one() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
    let log = assemble(&sample());
    for length in [3, 9, 12, log.len()] {
        match replay((&log[..length]).chain(Broken), MAX_BYTES) {
            Err(ReplayError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn a_number_of_more_than_64_bits_is_refused() {
    let number = |bytes: &[u8]| Decoder::new(bytes).number("here");
    let refused = Err(Damage::Field { field: "here" });
    let largest = [[0xff; 9].as_slice(), &[1]].concat();
    assert_eq!(number(&largest), Ok(u64::MAX));
    assert_eq!(number(&[0xff; 10]), refused);
    assert_eq!(number(&[0x80; 11]), refused);
    assert_eq!(number(&[0x80; 3]), refused);
}

#[test]
fn reasons_come_back_and_an_unknown_one_is_refused() {
    for name in ["stop", "length", "abort", "error", "deadline", "abstain"] {
        let reason = FinishReason::from_name(name).unwrap();
        let mut bytes = Vec::new();
        write_reason(reason, &mut bytes);
        assert_eq!(read_reason(&mut Decoder::new(&bytes)), Ok(reason));
    }
    let refused = Err(Damage::Field { field: "reason" });
    assert_eq!(read_reason(&mut Decoder::new(&[6])), refused);
}

#[test]
fn results_come_back_and_impossible_ones_are_refused() {
    let output = StepOutput {
        token_ids: vec![3, 4, 5, 6],
        status: vec![
            RowStatus::Ok,
            RowStatus::Failed,
            RowStatus::Redraw,
            RowStatus::Ok,
        ],
        logprobs: vec![
            None,
            None,
            Some(RowLogprobs::default()),
            Some(RowLogprobs::default()),
        ],
        captures: vec![vec![1.0, 2.0]],
        ..StepOutput::default()
    };
    let mut bytes = Vec::new();
    write_output(&output, &mut bytes);
    let found = read_output(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(found.token_ids, output.token_ids);
    assert_eq!(found.status, output.status);
    assert_eq!(found.logprobs, output.logprobs);
    assert_eq!(found.captures, [Vec::<f32>::new()]);

    // Four tokens of a byte behind their number, a flag, four rows' flags, one capture.
    let refused = |place: usize, byte| {
        let mut bytes = bytes.clone();
        bytes[place] = byte;
        read_output(&mut Decoder::new(&bytes)).unwrap_err()
    };
    assert_eq!(refused(6, 5), Damage::Field { field: "flags" });
    assert_eq!(refused(6, 8), Damage::Field { field: "flags" });
    assert_eq!(refused(11, 1), Damage::Field { field: "captures" });
}

#[test]
fn captures_come_back_and_those_of_an_unknown_kind_are_refused() {
    let kinds = [Rows::Tokens, Rows::Sequences, Rows::Sampled];
    for (code, rows) in (0_u8..).zip(kinds) {
        let mut request = new_request(0, 1);
        request.captures.points = vec![CapturePoint { point: 99, rows }];
        let mut bytes = Vec::new();
        write_request(&request, &mut bytes);
        let found = read_request(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(found.captures, request.captures);

        let place = bytes.windows(2).rposition(|pair| pair == [99, code]);
        bytes[place.unwrap() + 1] = 3;
        let refused = read_request(&mut Decoder::new(&bytes)).unwrap_err();
        assert_eq!(refused, Damage::Field { field: "captures" });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn records_of_any_bytes_are_refused_or_played_and_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        inserted in prop::collection::vec((any::<prop::sample::Index>(), 1..14_u8, prop::collection::vec(0..130_u8, 0..20)), 0..3),
    ) {
        let mut payloads = sample();
        for (which, place, byte) in changes {
            let which = which.index(payloads.len());
            let payload = &mut payloads[which];
            let place = place.index(payload.len());
            payload[place] = byte;
        }
        for (place, tag, bytes) in inserted {
            let place = 1 + place.index(payloads.len());
            payloads.insert(place.min(payloads.len()), [&[tag], bytes.as_slice()].concat());
        }
        let _ = replay(assemble(&payloads).as_slice(), MAX_BYTES);
    }

    #[test]
    fn values_come_back(
        number in any::<u64>(),
        signed in any::<i64>(),
        float in any::<f64>(),
        text in prop::option::of(".{0,20}"),
        tokens in prop::collection::vec(any::<i32>(), 0..20),
        optional in prop::option::of(any::<u64>()),
    ) {
        let mut bytes = Vec::new();
        bytes.number(number);
        bytes.signed(signed);
        bytes.float(float);
        bytes.text(text.as_deref());
        bytes.tokens(&tokens);
        bytes.optional(optional);
        let mut input = Decoder::new(&bytes);
        prop_assert_eq!(input.number("number"), Ok(number));
        prop_assert_eq!(input.signed("signed"), Ok(signed));
        prop_assert_eq!(input.float("float").map(f64::to_bits), Ok(float.to_bits()));
        prop_assert_eq!(input.text("text"), Ok(text));
        prop_assert_eq!(input.tokens("tokens"), Ok(tokens));
        prop_assert_eq!(input.optional("optional"), Ok(optional));
        prop_assert_eq!(input.end(), Ok(()));
    }
}
