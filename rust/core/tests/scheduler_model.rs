//! The policy against a naive twin: plain lists, recomputed from scratch, no cache, one sequence per request. Both must
//! choose the same sequences, the same numbers of tokens, the same victims, step by step.
#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

mod pretended_executor;

use inferlib_core::{
    BLOCK_SIZE, NewRequest, RequestId, RowStatus, Scheduler, SchedulerConfig, StepOutput,
};
use pretended_executor::{config, group, params, prompt, request};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct NaiveRequest {
    id: RequestId,
    priority: i32,
    arrival: usize,
    num_prompt: usize,
    max_tokens: usize,
    num_tokens: usize,
    computed: usize,
    /// Blocks held; none while it waits.
    blocks: usize,
    is_running: bool,
    num_preemptions: u32,
}

impl NaiveRequest {
    fn rank(&self) -> (i32, usize) {
        (self.priority, self.arrival)
    }

    fn remaining(&self) -> usize {
        self.num_tokens - self.computed
    }

    fn needed(&self) -> usize {
        self.num_tokens.div_ceil(BLOCK_SIZE)
    }
}

#[derive(Debug)]
struct Naive {
    limits: SchedulerConfig,
    /// Always in order of rank.
    requests: Vec<NaiveRequest>,
    /// Of the step in flight: request, first position, tokens.
    planned: Vec<(RequestId, usize, usize)>,
    num_preemptions: u64,
}

impl Naive {
    fn free(&self) -> usize {
        let used: usize = self.requests.iter().map(|request| request.blocks).sum();
        self.limits.groups[0].num_blocks as usize - used
    }

    fn num_running(&self) -> usize {
        self.requests
            .iter()
            .filter(|request| request.is_running)
            .count()
    }

    fn plan(&mut self, index: usize, tokens: usize) -> usize {
        let request = &self.requests[index];
        self.planned.push((request.id, request.computed, tokens));
        tokens
    }

    fn schedule(&mut self) -> Vec<(usize, usize)> {
        self.planned.clear();
        let mut budget = self.limits.max_num_batched_tokens;
        let chunk = self.limits.max_chunk.unwrap_or(usize::MAX);
        let mut preempted = false;
        for index in 0..self.requests.len() {
            if !self.requests[index].is_running
                || self.requests[index].remaining() > 1
                || budget == 0
            {
                continue;
            }
            let needed = self.requests[index].needed();
            while needed > self.requests[index].blocks && self.free() == 0 {
                let victim = self
                    .requests
                    .iter()
                    .rposition(|request| request.is_running)
                    .unwrap();
                let request = &mut self.requests[victim];
                (request.blocks, request.computed, request.is_running) = (0, 0, false);
                request.num_preemptions += 1;
                self.num_preemptions += 1;
                preempted = true;
                if victim == index {
                    break;
                }
            }
            if self.requests[index].is_running {
                self.requests[index].blocks = needed;
                budget -= self.plan(index, 1);
            }
        }
        for index in 0..self.requests.len() {
            let request = &self.requests[index];
            if request.is_running && request.remaining() > 1 && budget > 0 {
                let tokens = request.remaining().min(chunk).min(budget);
                budget -= self.plan(index, tokens);
            }
        }
        let most = self
            .limits
            .max_num_seqs
            .min(self.limits.max_num_batched_tokens);
        if !preempted {
            for index in 0..self.requests.len() {
                if self.requests[index].is_running {
                    continue;
                }
                let fits = self.requests[index].needed() + self.num_running() <= self.free();
                if budget == 0 || self.num_running() == most || !fits {
                    break;
                }
                let request = &mut self.requests[index];
                (request.blocks, request.is_running) = (request.needed(), true);
                let tokens = request.remaining().min(chunk).min(budget);
                budget -= self.plan(index, tokens);
            }
        }
        self.planned
            .iter()
            .map(|&(_, start, tokens)| (start, tokens))
            .collect()
    }

    fn update(&mut self) -> Vec<RequestId> {
        let mut finished = Vec::new();
        for (id, _, tokens) in std::mem::take(&mut self.planned) {
            let Some(index) = self.requests.iter().position(|request| request.id == id) else {
                continue;
            };
            let request = &mut self.requests[index];
            request.computed += tokens;
            if request.remaining() == 0 {
                request.num_tokens += 1;
            }
            if request.num_tokens == request.num_prompt + request.max_tokens {
                finished.push(id);
                self.requests.remove(index);
            }
        }
        finished
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Submit {
        length: usize,
        max_tokens: u32,
        priority: i32,
    },
    Step,
    Discard,
    Cancel {
        which: usize,
        in_flight: bool,
    },
}

fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (1..70_usize, 1..40_u32, prop_oneof![3 => Just(0), 1 => -1..2_i32]).prop_map(
            |(length, max_tokens, priority)| Operation::Submit { length, max_tokens, priority }
        ),
        8 => Just(Operation::Step),
        1 => Just(Operation::Discard),
        1 => (0..6_usize, any::<bool>())
            .prop_map(|(which, in_flight)| Operation::Cancel { which, in_flight }),
    ]
}

struct Pair {
    real: Scheduler,
    naive: Naive,
    arrivals: usize,
}

impl Pair {
    fn submit(&mut self, length: usize, max_tokens: u32, priority: i32) {
        let seed = self.arrivals as u64;
        let new = NewRequest {
            priority,
            ..request(prompt(seed, length), params(max_tokens))
        };
        let Ok(id) = self.real.submit(new, 0.0) else {
            return;
        };
        let limits = &self.naive.limits;
        let capacity = limits.groups[0].num_blocks as usize * BLOCK_SIZE;
        let room = (limits.max_model_len - length).min(capacity + 1 - length);
        self.naive.requests.push(NaiveRequest {
            id,
            priority,
            arrival: self.arrivals,
            num_prompt: length,
            max_tokens: (max_tokens as usize).min(room),
            num_tokens: length,
            computed: 0,
            blocks: 0,
            is_running: false,
            num_preemptions: 0,
        });
        self.naive.requests.sort_by_key(NaiveRequest::rank);
        self.arrivals += 1;
    }

    /// Whether there was something to do.
    fn step(&mut self, operation: &Operation) -> bool {
        let expected = self.naive.schedule();
        let Some(batch) = self.real.schedule(0.0) else {
            assert!(expected.is_empty() && self.naive.requests.is_empty());
            return false;
        };
        let found: Vec<_> = batch
            .query_start_loc
            .windows(2)
            .map(|rows| {
                let first = usize::try_from(rows[0]).unwrap();
                let start = usize::try_from(batch.positions[first]).unwrap();
                (start, usize::try_from(rows[1] - rows[0]).unwrap())
            })
            .collect();
        assert_eq!(found, expected);
        let rows = batch.num_sampled();
        self.check();
        match operation {
            Operation::Discard => {
                self.real.discard_step();
                return true;
            }
            Operation::Cancel { which, .. } => self.cancel(*which),
            _ => {}
        }
        let output = StepOutput {
            token_ids: vec![1; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
        };
        let finished = self
            .real
            .update(&output, 0.0)
            .unwrap()
            .finished_requests
            .clone();
        assert_eq!(finished, self.naive.update());
        for id in finished {
            self.real.take(id).unwrap();
        }
        self.check();
        true
    }

    fn cancel(&mut self, which: usize) {
        if which < self.naive.requests.len() {
            let gone = self.naive.requests.remove(which);
            assert!(self.real.cancel(gone.id, 0.0));
            let output = self.real.take(gone.id).unwrap();
            assert_eq!(output.num_preemptions, gone.num_preemptions);
        }
    }

    fn check(&self) {
        self.real.check_integrity().unwrap();
        let stats = self.real.stats();
        assert_eq!(stats.groups[0].num_free, self.naive.free());
        assert_eq!(stats.num_running_seqs, self.naive.num_running());
        assert_eq!(stats.num_preemptions, self.naive.num_preemptions);
        assert_eq!(
            stats.num_waiting_seqs,
            self.naive.requests.len() - self.naive.num_running()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_agrees_with_its_naive_twin(
        num_blocks in 5..24_u32,
        max_num_seqs in 1..8_usize,
        max_num_batched_tokens in 1..48_usize,
        max_chunk in prop::option::of(1..20_usize),
        operations in prop::collection::vec(arbitrary_operation(), 1..100),
    ) {
        let limits = SchedulerConfig {
            groups: vec![group(num_blocks)],
            max_num_seqs,
            max_num_batched_tokens,
            max_chunk,
            max_model_len: 100,
            enable_prefix_caching: false,
            ..config()
        };
        let real = Scheduler::new(limits.clone()).unwrap();
        let naive = Naive { limits, requests: Vec::new(), planned: Vec::new(), num_preemptions: 0 };
        let mut pair = Pair { real, naive, arrivals: 0 };
        for operation in operations {
            match operation {
                Operation::Submit { length, max_tokens, priority } => {
                    pair.submit(length, max_tokens, priority);
                }
                Operation::Cancel { which, in_flight: false } => {
                    pair.cancel(which);
                    pair.check();
                }
                _ => {
                    pair.step(&operation);
                }
            }
        }
        let mut steps = 0;
        while pair.step(&Operation::Step) {
            steps += 1;
            prop_assert!(steps < 20_000, "no end in sight");
        }
        prop_assert_eq!(pair.real.stats().num_finished, pair.arrivals as u64);
    }
}
