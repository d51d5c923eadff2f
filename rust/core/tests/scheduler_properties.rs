//! Random operations on a scheduler with a tiny cache: whatever is shared, chunked, preempted, interrupted, cancelled
//! or hit, every request gets what it would get alone, and the invariants hold after every step.

#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

mod pretended_executor;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use inferlib_core::{
    Continuation, Events, FinishReason, NewRequest, PrefixHash, PromptLookup, RequestId,
    RequestOutput, SamplingParams, Scheduler, SchedulerConfig, SequenceError, SequenceId,
    SequenceOutput,
};
use pretended_executor::{FakeExecutor, config, group, oracle, oracle_prompt_logprobs, prompt};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Submit(NewRequest),
    Step,
    /// The step ran partly and broke off.
    Interrupted,
    /// Cancel the k-th living request, between steps or while one is in flight.
    Cancel {
        which: usize,
        in_flight: bool,
    },
    /// End one sequence of it, as a stop string would.
    Finish {
        which: usize,
        sequence: u32,
        in_flight: bool,
    },
    /// Something with the k-th held sequence.
    Held {
        which: usize,
        change: HeldChange,
        in_flight: bool,
    },
}

#[derive(Clone, Debug)]
enum HeldChange {
    Open(Option<String>),
    Fork,
    Rewind(usize),
    Close,
    /// Its tokens and those of the request's prompt are a new request's; with `keep` they are the sequence's at its
    /// end.
    Continue {
        request: NewRequest,
        keep: bool,
    },
    /// Its tokens come back from a file, with K and V of the first of them.
    Restore(Vec<i32>, usize),
}

fn arbitrary_params() -> impl Strategy<Value = SamplingParams> {
    (
        0..40_u32,
        0..8_u32,
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.25, 0..60_u32),
        any::<bool>(),
    )
        .prop_map(
            |(max_tokens, min_tokens, eos, logprobs, score_from, penalties)| SamplingParams {
                max_tokens: if score_from.is_some() {
                    max_tokens
                } else {
                    max_tokens.max(1)
                },
                min_tokens: min_tokens.min(max_tokens),
                eos_token_ids: if eos { vec![3] } else { vec![] },
                stop_token_ids: if eos { vec![5] } else { vec![] },
                logprobs: logprobs.then_some(0),
                prompt_logprobs: score_from.map(|_| 0),
                prompt_logprobs_start: score_from.unwrap_or(0),
                repetition_penalty: if penalties { 1.5 } else { 1.0 },
                ..SamplingParams::default()
            },
        )
}

/// Prompts share much: prefixes of few texts, sometimes with another tail, and rows of few repeated blocks.
fn arbitrary_prompt() -> impl Strategy<Value = Vec<i32>> {
    let texts = (
        0..3_u64,
        1..80_usize,
        prop::option::of((0..3_u64, 1..20_usize)),
    );
    let texts = texts.prop_map(|(text, length, tail)| {
        let tail = tail.map_or(vec![], |(text, length)| prompt(100 + text, length));
        [prompt(text, length), tail].concat()
    });
    let blocks = (prop::collection::vec(0..2_u64, 0..5), 0..17_usize);
    let blocks = blocks.prop_map(|(blocks, rest)| {
        let whole = blocks.into_iter().flat_map(|block| prompt(200 + block, 16));
        whole.chain(prompt(200, rest)).collect()
    });
    prop_oneof![texts, blocks]
}

fn arbitrary_request() -> impl Strategy<Value = NewRequest> {
    (
        arbitrary_prompt(),
        arbitrary_params(),
        (prop_oneof![3 => Just(1), 1 => 2..6_u32], any::<u64>()),
        prop::option::weighted(0.3, prop_oneof![Just("a".to_owned()), Just("b".to_owned())]),
        prop_oneof![4 => Just(0), 1 => -1..2_i32],
        prop::bool::weighted(0.9),
    )
        .prop_map(
            |(prompt, params, (n, seed), cache_salt, priority, speculation)| NewRequest {
                prompt,
                params: Arc::new(params),
                n,
                seed,
                cache_salt,
                priority,
                speculation,
                continues: None,
            },
        )
}

fn arbitrary_held_change() -> impl Strategy<Value = HeldChange> {
    let extension = prop_oneof![Just(0_usize), 1..40_usize];
    prop_oneof![
        2 => prop::option::weighted(0.3, Just("a".to_owned())).prop_map(HeldChange::Open),
        3 => Just(HeldChange::Fork),
        2 => (0..40_usize).prop_map(HeldChange::Rewind),
        1 => Just(HeldChange::Close),
        6 => (arbitrary_request(), extension, prop::bool::weighted(0.8)).prop_map(
            |(mut request, extension, keep)| {
                request.prompt.truncate(extension);
                request.n = if keep { 1 } else { request.n };
                HeldChange::Continue { request, keep }
            }
        ),
        1 => (arbitrary_prompt(), 0..100_usize)
            .prop_map(|(tokens, computed)| HeldChange::Restore(tokens, computed)),
    ]
}

/// What a stop string does to a request whose seed says so: the caller ends the sequence at this token.
const STOP_STRING: i32 = 11;

fn has_stop_string(request: &NewRequest) -> bool {
    request.seed.is_multiple_of(3)
}

/// What a request gives alone, stop strings included.
fn expected_sequences(request: &NewRequest, config: &SchedulerConfig) -> Vec<SequenceOutput> {
    let mut sequences = oracle(request, config);
    for sequence in &mut sequences {
        let stop = sequence.token_ids.iter().position(|&t| t == STOP_STRING);
        if let (Some(index), true) = (stop, has_stop_string(request)) {
            sequence.token_ids.truncate(index + 1);
            sequence.logprobs.truncate(index + 1);
            sequence.finish_reason = Some(FinishReason::Stop);
            sequence.stop_token_id = None;
        }
    }
    sequences
}

fn arbitrary_speculation() -> impl Strategy<Value = Option<PromptLookup>> {
    let lookup = (1..10_usize, 1..4_usize, 0..5_usize);
    let lookup =
        lookup.prop_map(
            |(num_speculative_tokens, prompt_lookup_min, more)| PromptLookup {
                num_speculative_tokens,
                prompt_lookup_min,
                prompt_lookup_max: prompt_lookup_min + more,
            },
        );
    prop::option::weighted(0.75, lookup)
}

fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => arbitrary_request().prop_map(Operation::Submit),
        10 => Just(Operation::Step),
        1 => Just(Operation::Interrupted),
        1 => (0..8_usize, any::<bool>())
            .prop_map(|(which, in_flight)| Operation::Cancel { which, in_flight }),
        5 => (0..6_usize, arbitrary_held_change(), prop::bool::weighted(0.2)).prop_map(
            |(which, change, in_flight)| Operation::Held { which, change, in_flight }
        ),
        1 => (0..8_usize, 0..3_u32, any::<bool>()).prop_map(|(which, sequence, in_flight)| {
            Operation::Finish { which, sequence, in_flight }
        }),
    ]
}

fn arbitrary_config() -> impl Strategy<Value = SchedulerConfig> {
    (
        prop::collection::vec(7..24_u32, 1..3),
        1..8_usize,
        1..48_usize,
        any::<bool>(),
        prop::option::of(1..20_usize),
        prop_oneof![Just(128_u32), Just(4), Just(1)],
        (arbitrary_speculation(), 1..14_usize),
    )
        .prop_map(
            |(blocks, max_num_seqs, max_num_batched_tokens, caching, max_chunk, bits, drafts)| {
                SchedulerConfig {
                    groups: blocks.into_iter().map(group).collect(),
                    max_num_seqs,
                    max_num_batched_tokens,
                    max_model_len: 130,
                    speculation: drafts.0,
                    rows_per_pass: drafts.1,
                    enable_prefix_caching: caching,
                    max_chunk,
                    prefix_hash: PrefixHash {
                        bits,
                        ..PrefixHash::default()
                    },
                    ..config()
                }
            },
        )
}

struct Run {
    scheduler: Scheduler,
    executor: FakeExecutor,
    requests: BTreeMap<RequestId, NewRequest>,
    living: Vec<RequestId>,
    /// What every held sequence must hold.
    held: BTreeMap<SequenceId, Vec<i32>>,
    /// Tokens seen in events.
    streamed: BTreeMap<(RequestId, u32), Vec<i32>>,
    now: f64,
}

impl Run {
    fn new(config: &SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            executor: FakeExecutor::new(&config.groups),
            requests: BTreeMap::new(),
            living: Vec::new(),
            held: BTreeMap::new(),
            streamed: BTreeMap::new(),
            now: 0.0,
        }
    }

    fn submit(&mut self, request: NewRequest) {
        if let Ok(id) = self.scheduler.submit(request.clone(), self.now) {
            self.requests.insert(id, request);
            self.living.push(id);
        }
    }

    /// Change a held sequence, in the scheduler and in the model.
    fn change(&mut self, which: usize, change: &HeldChange) {
        if let HeldChange::Open(salt) = change {
            let id = self.scheduler.open_sequence(salt.clone());
            self.held.insert(id, Vec::new());
            return;
        }
        let Some((&id, tokens)) = self.held.iter_mut().nth(which) else {
            return;
        };
        let is_busy = self.scheduler.sequence(id).unwrap().is_busy();
        match change {
            HeldChange::Open(_) => {}
            HeldChange::Fork => {
                let tokens = tokens.clone();
                self.held
                    .insert(self.scheduler.fork_sequence(id).unwrap(), tokens);
            }
            HeldChange::Rewind(count) => {
                let expected = match tokens.len().checked_sub(*count) {
                    _ if is_busy => Err(SequenceError::Busy),
                    Some(kept) => {
                        tokens.truncate(kept);
                        Ok(())
                    }
                    None => Err(SequenceError::TooShort {
                        num_tokens: tokens.len(),
                        wanted: *count,
                    }),
                };
                assert_eq!(self.scheduler.rewind_sequence(id, *count), expected);
            }
            HeldChange::Close => {
                assert!(self.scheduler.close_sequence(id));
                assert!(!self.scheduler.close_sequence(id));
                self.held.remove(&id);
            }
            HeldChange::Continue { request, keep } => {
                let prompt = [tokens.as_slice(), &request.prompt].concat();
                self.submit(NewRequest {
                    prompt,
                    continues: Some(Continuation {
                        sequence: id,
                        keep: *keep,
                    }),
                    ..request.clone()
                });
            }
            HeldChange::Restore(restored, num_computed) => {
                let restored = restored.clone();
                let result = self
                    .scheduler
                    .restore_sequence(id, restored.clone(), *num_computed);
                if is_busy {
                    assert_eq!(result, Err(SequenceError::Busy));
                    return;
                }
                if result.unwrap() {
                    let sequence = self.scheduler.sequence(id).unwrap();
                    let computed = &restored[..sequence.num_computed_tokens()];
                    self.executor
                        .write(computed, |group| sequence.table(group).to_vec());
                }
                *tokens = restored;
            }
        }
    }

    /// A request that was to change a held sequence has ended.
    fn keep(&mut self, id: RequestId, output: &RequestOutput) {
        let continues = self.requests[&id].continues;
        let Some(Continuation {
            sequence,
            keep: true,
        }) = continues
        else {
            return;
        };
        let reason = output.sequences[0].finish_reason.unwrap();
        if let Some(tokens) = self.held.get_mut(&sequence)
            && matches!(reason, FinishReason::Stop | FinishReason::Length)
        {
            *tokens = [
                output.prompt_token_ids.as_slice(),
                &output.sequences[0].token_ids,
            ]
            .concat();
        }
    }

    fn check_held(&self) {
        for (&id, tokens) in &self.held {
            let sequence = self.scheduler.sequence(id).unwrap();
            let busy_until_taken = sequence.is_busy() || sequence.tokens() == tokens.as_slice();
            assert!(busy_until_taken, "a held sequence has other tokens");
        }
        assert_eq!(self.scheduler.stats().num_held_seqs, self.held.len());
    }

    fn end(&mut self, operation: &Operation) {
        if let Operation::Held { which, change, .. } = operation {
            self.change(*which, change);
            self.scheduler.check_integrity().unwrap();
            return;
        }
        match *operation {
            Operation::Cancel { which, .. } if which < self.living.len() => {
                let id = self.living.remove(which);
                assert!(self.scheduler.cancel(id, self.now));
                assert!(!self.scheduler.cancel(id, self.now));
                self.check_finished(id);
            }
            Operation::Finish {
                which, sequence, ..
            } if which < self.living.len() => {
                let id = self.living[which];
                self.scheduler
                    .finish(id, sequence, FinishReason::Stop, None, self.now);
                if self.scheduler.output(id).unwrap().is_finished() {
                    self.living.remove(which);
                    self.check_finished(id);
                }
            }
            _ => {}
        }
        self.scheduler.check_integrity().unwrap();
    }

    /// One step, with something happening in the middle. Whether there was one.
    fn step(&mut self, interruption: Option<&Operation>) -> bool {
        self.now += 1.0;
        let had_work = self.scheduler.has_work();
        let limits = self.scheduler.config().clone();
        let Some(batch) = self.scheduler.schedule(self.now) else {
            assert!(!had_work, "stuck");
            return false;
        };
        assert!(batch.num_tokens() <= limits.max_num_batched_tokens);
        assert!(batch.num_seqs() <= limits.max_num_seqs);
        if matches!(interruption, Some(Operation::Interrupted)) {
            self.executor.interrupt(batch);
            self.scheduler.discard_step();
            self.scheduler.check_integrity().unwrap();
            return true;
        }
        let output = self.executor.run(batch);
        self.scheduler.check_integrity().unwrap();
        if let Some(operation) = interruption {
            self.end(operation);
        }
        let events = self.scheduler.update(&output, self.now).unwrap().clone();
        self.scheduler.check_integrity().unwrap();
        for index in 0..events.token_ids.len() {
            let key = (events.request_ids[index], events.sequence_indices[index]);
            let streamed = self.streamed.entry(key).or_default();
            let stopped =
                has_stop_string(&self.requests[&key.0]) && streamed.last() == Some(&STOP_STRING);
            if !stopped {
                assert_eq!(events.token_indices[index] as usize, streamed.len());
                streamed.push(events.token_ids[index]);
            }
        }
        self.stop_strings(&events);
        for id in events.finished_requests {
            self.living.retain(|&living| living != id);
            self.check_finished(id);
        }
        true
    }

    /// As the engine does: a stop string is complete with a token, and what came behind it goes.
    fn stop_strings(&mut self, events: &Events) {
        let mut seen = BTreeSet::new();
        for row in 0..events.token_ids.len() {
            let (id, index) = (events.request_ids[row], events.sequence_indices[row]);
            let stops = events.token_ids[row] == STOP_STRING;
            if !stops || !has_stop_string(&self.requests[&id]) || !seen.insert((id, index)) {
                continue;
            }
            let kept = Some(events.token_indices[row] as usize + 1);
            self.scheduler
                .finish(id, index, FinishReason::Stop, kept, self.now);
            self.scheduler.check_integrity().unwrap();
            let finished = self.scheduler.output(id).unwrap().is_finished();
            if finished && !events.finished_requests.contains(&id) {
                self.living.retain(|&living| living != id);
                self.check_finished(id);
            }
        }
    }

    /// A finished request gave exactly what it gives alone, or a beginning of it if somebody ended it.
    fn check_finished(&mut self, id: RequestId) {
        let output = self.scheduler.take(id).expect("finished");
        self.keep(id, &output);
        let request = &self.requests[&id];
        assert!(self.scheduler.output(id).is_none());
        let expected = expected_sequences(request, self.scheduler.config());
        for (index, (found, expected)) in (0..).zip(output.sequences.iter().zip(&expected)) {
            let streamed = self.streamed.remove(&(id, index)).unwrap_or_default();
            assert_eq!(streamed, found.token_ids, "events and output differ");
            let count = found.token_ids.len();
            let whole = found == expected;
            let ended = matches!(
                found.finish_reason,
                Some(FinishReason::Abort | FinishReason::Stop)
            ) && found.token_ids == expected.token_ids[..count]
                && found.logprobs == expected.logprobs[..count.min(expected.logprobs.len())];
            assert!(whole || ended, "{found:?} instead of {expected:?}");
        }
        let expected = oracle_prompt_logprobs(request);
        let complete = output.timestamps.prefill_done.is_some();
        match (output.prompt_logprobs, expected) {
            (Some(found), Some(expected)) if complete => assert_eq!(found, expected),
            (Some(found), Some(expected)) => assert_eq!(found, expected[..found.len()]),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some()),
        }
        let times = output.timestamps;
        let order = [
            Some(times.arrival),
            times.first_scheduled,
            times.prefill_done,
            times.first_token,
            times.last_token,
            times.finished,
        ];
        assert!(order.iter().flatten().is_sorted());
    }

    fn drain(&mut self) {
        let mut steps = 0;
        while self.step(None) {
            steps += 1;
            assert!(steps < 50_000, "no end in sight");
        }
        assert!(self.living.is_empty(), "a request was forgotten");
        self.check_held();
        for &id in self.held.keys() {
            assert!(!self.scheduler.sequence(id).unwrap().is_busy());
            self.scheduler.close_sequence(id);
        }
        self.scheduler.check_integrity().unwrap();
        let stats = self.scheduler.stats();
        assert_eq!((stats.num_running_seqs, stats.num_waiting_seqs), (0, 0));
        for group in stats.groups {
            assert_eq!(group.num_free, group.num_blocks, "blocks leaked");
        }
    }
}

fn run_all(config: &SchedulerConfig, operations: Vec<Operation>) {
    let mut run = Run::new(config);
    for operation in operations {
        match operation {
            Operation::Submit(request) => run.submit(request),
            Operation::Step => {
                run.step(None);
            }
            Operation::Cancel {
                in_flight: false, ..
            }
            | Operation::Finish {
                in_flight: false, ..
            }
            | Operation::Held {
                in_flight: false, ..
            } => run.end(&operation),
            _ => {
                run.step(Some(&operation));
            }
        }
        run.scheduler.check_integrity().unwrap();
        run.check_held();
    }
    run.drain();
}

/// Cases of the long run, which nobody waits for.
const LONG: u32 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_gets_what_it_gets_alone(
        config in arbitrary_config(),
        operations in prop::collection::vec(arbitrary_operation(), 1..80),
    ) {
        run_all(&config, operations);
    }

    #[test]
    fn the_same_inputs_give_the_same_batches(
        config in arbitrary_config(),
        requests in prop::collection::vec(arbitrary_request(), 1..8),
    ) {
        let batches = || {
            let mut run = Run::new(&config);
            for request in &requests {
                run.submit(request.clone());
            }
            let mut batches = Vec::new();
            while let Some(batch) = run.scheduler.schedule(0.0) {
                batches.push(format!("{batch:?}"));
                let output = run.executor.run(batch);
                run.scheduler.update(&output, 0.0).unwrap();
            }
            batches
        };
        prop_assert_eq!(batches(), batches());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: LONG, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "minutes; `make test-long`"]
    fn whatever_happens_for_long_every_request_gets_what_it_gets_alone(
        config in arbitrary_config(),
        operations in prop::collection::vec(arbitrary_operation(), 1..200),
    ) {
        run_all(&config, operations);
    }
}
