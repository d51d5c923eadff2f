//! A scheduler, a pretended executor and a model of both, on which random operations are carried out.
#![expect(unreachable_pub, reason = "a part of the tests")]

pub mod operations;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use inferlib_core::{
    Continuation, Events, FinishReason, NewRequest, RequestOutput, Scheduler, SchedulerConfig,
    SequenceError, SequenceId, SequenceOutput,
};
use inferlib_program::{Batch, RequestId, SamplingParams};

use crate::pretended_executor::{
    FakeExecutor, check_whole, mix, oracle, oracle_captures, oracle_prompt_logprobs,
};
use operations::{HeldChange, Operation};

/// What a stop string does to a request whose seed says so: the caller ends the sequence at this token.
pub const STOP_STRING: i32 = 11;

pub fn has_stop_string(request: &NewRequest) -> bool {
    request.seed.is_multiple_of(3)
}

/// What a request gives alone, stop strings included.
pub fn expected_sequences(request: &NewRequest, config: &SchedulerConfig) -> Vec<SequenceOutput> {
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

/// The same prompt, only computed.
fn without_output(request: NewRequest) -> NewRequest {
    let params = SamplingParams {
        max_tokens: 0,
        min_tokens: 0,
        prompt_logprobs: Some(0),
        prompt_logprobs_start: u32::MAX,
        ..(*request.params).clone()
    };
    NewRequest {
        params: Arc::new(params),
        n: 1,
        ..request
    }
}

pub struct Run {
    pub scheduler: Scheduler,
    pub executor: FakeExecutor,
    requests: BTreeMap<RequestId, NewRequest>,
    living: Vec<RequestId>,
    /// What every held sequence must hold.
    held: BTreeMap<SequenceId, Vec<i32>>,
    /// What every request gives, if somebody drafts who knows about that.
    futures: BTreeMap<RequestId, Vec<SequenceOutput>>,
    /// Tokens seen in events.
    streamed: BTreeMap<(RequestId, u32), Vec<i32>>,
    pub now: f64,
    batch: Batch,
}

impl Run {
    pub fn new(config: &SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            executor: FakeExecutor::new(&config.groups),
            requests: BTreeMap::new(),
            living: Vec::new(),
            held: BTreeMap::new(),
            futures: BTreeMap::new(),
            streamed: BTreeMap::new(),
            now: 0.0,
            batch: Batch::default(),
        }
    }

    pub fn submit(&mut self, mut request: NewRequest) {
        request.deadline = request.deadline.map(|seconds| self.now + seconds);
        if self.scheduler.config().whole_prompts {
            request = without_output(request);
        }
        if let Ok(id) = self.scheduler.submit(request.clone(), self.now) {
            if self.scheduler.config().draft_model.is_some() {
                let future = oracle(&request, self.scheduler.config());
                self.futures.insert(id, future);
            }
            self.requests.insert(id, request);
            self.living.push(id);
        }
    }

    /// Suggest what follows, mostly: as a draft model that knows the future, but errs, and at times says nothing or too
    /// much.
    fn suggest(&mut self) {
        for wanted in self.scheduler.wanted_drafts().to_vec() {
            let (id, index) = (wanted.request_id, wanted.sequence_index);
            let done = wanted.num_tokens - self.requests[&id].prompt.len();
            let future = &self.futures[&id][index as usize].token_ids;
            let chance = mix(mix(id.0, done as u64), u64::from(index));
            let extra = usize::from(chance.is_multiple_of(11));
            let mut tokens: Vec<i32> = future[done..].to_vec();
            tokens.truncate(wanted.num_drafts + extra);
            if chance.is_multiple_of(3) && !tokens.is_empty() {
                let place = (chance / 3) as usize % tokens.len();
                tokens[place] = (tokens[place] + 1) % 24;
            }
            if !chance.is_multiple_of(7) {
                assert!(self.scheduler.suggest(id, index, &tokens));
            }
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
            && matches!(
                reason,
                FinishReason::Stop
                    | FinishReason::Length
                    | FinishReason::Deadline
                    | FinishReason::Abstain
            )
        {
            *tokens = [
                output.prompt_token_ids.as_slice(),
                &output.sequences[0].token_ids,
            ]
            .concat();
        }
    }

    pub fn check_held(&self) {
        for (&id, tokens) in &self.held {
            let sequence = self.scheduler.sequence(id).unwrap();
            let busy_until_taken = sequence.is_busy() || sequence.tokens() == tokens.as_slice();
            assert!(busy_until_taken, "a held sequence has other tokens");
        }
        assert_eq!(self.scheduler.stats().num_held_seqs, self.held.len());
    }

    pub fn end(&mut self, operation: &Operation) {
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
    pub fn step(&mut self, interruption: Option<&Operation>) -> bool {
        self.now += 1.0;
        let had_work = self.scheduler.has_work();
        let limits = self.scheduler.config().clone();
        if limits.draft_model.is_some() {
            self.suggest();
        }
        let mut batch = std::mem::take(&mut self.batch);
        let planned = self.scheduler.schedule_into(&mut batch, self.now);
        self.batch = batch;
        if !planned {
            let late = self.scheduler.overdue().finished_requests.clone();
            assert!(!had_work || !late.is_empty(), "stuck");
            assert!(!self.scheduler.has_work(), "stuck");
            self.end_all(&late);
            return !late.is_empty();
        }
        self.end_late();
        let batch = &self.batch;
        assert!(batch.num_tokens() <= limits.max_num_batched_tokens);
        assert!(batch.num_seqs() <= limits.max_num_seqs);
        if matches!(interruption, Some(Operation::Interrupted)) {
            self.executor.interrupt(batch);
            self.scheduler.discard_step();
            self.scheduler.check_integrity().unwrap();
            return true;
        }
        if limits.whole_prompts {
            check_whole(batch);
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
        self.end_all(&events.finished_requests);
        true
    }

    /// Requests ended at their deadline; events will tell of them.
    fn end_late(&mut self) {
        let is_late = |id: &&RequestId| self.scheduler.output(**id).unwrap().is_finished();
        let late: Vec<_> = self.living.iter().filter(is_late).copied().collect();
        self.end_all(&late);
    }

    /// Requests ended; somebody may have noticed that already.
    fn end_all(&mut self, ids: &[RequestId]) {
        for &id in ids {
            if let Some(place) = self.living.iter().position(|&living| living == id) {
                self.living.remove(place);
                self.check_finished(id);
            }
        }
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
        }
        // Once all that ends has ended: a request may have several stops in one step.
        let stopped: BTreeSet<_> = seen.into_iter().map(|(id, _)| id).collect();
        for id in stopped {
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
                Some(FinishReason::Abort | FinishReason::Stop | FinishReason::Deadline)
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
        let expected = oracle_captures(request);
        assert_eq!(output.captures.len(), expected.len());
        for (found, expected) in output.captures.iter().zip(expected) {
            if complete {
                assert_eq!(found, &expected);
            } else {
                assert_eq!(found, &expected[..found.len()]);
            }
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

    /// Carry out `operations`, then run until nothing is left.
    pub fn carry_out(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::Submit(request) => self.submit(request.clone()),
                Operation::Step => {
                    self.step(None);
                }
                Operation::Cancel {
                    in_flight: false, ..
                }
                | Operation::Finish {
                    in_flight: false, ..
                }
                | Operation::Held {
                    in_flight: false, ..
                } => self.end(operation),
                _ => {
                    self.step(Some(operation));
                }
            }
            self.scheduler.check_integrity().unwrap();
            self.check_held();
        }
        self.drain();
    }

    pub fn drain(&mut self) {
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

/// Carry out `operations`, then run until nothing is left.
pub fn run_all(config: &SchedulerConfig, operations: &[Operation]) {
    Run::new(config).carry_out(operations);
}
