//! The scheduler's policies as plain lists: slow, and as short as the rules.
#![expect(unreachable_pub, reason = "a part of the tests")]

use inferlib_core::{Policy, SchedulerConfig};
use inferlib_program::{BLOCK_SIZE, RequestId};

#[derive(Clone, Debug)]
pub struct NaiveRequest {
    pub id: RequestId,
    pub priority: i32,
    pub tenant: usize,
    pub deadline: Option<u32>,
    /// On the clock of deadlines.
    pub arrived: u32,
    pub arrival: usize,
    pub arrival_step: u64,
    pub num_prompt: usize,
    pub max_tokens: usize,
    pub num_tokens: usize,
    pub computed: usize,
    /// Blocks held; none while it waits.
    pub blocks: usize,
    pub is_running: bool,
    pub was_started: bool,
    pub num_preemptions: u32,
}

impl NaiveRequest {
    fn remaining(&self) -> usize {
        self.num_tokens - self.computed
    }

    fn needed(&self) -> usize {
        self.num_tokens.div_ceil(BLOCK_SIZE)
    }

    /// Its priority, in units of which a class has `steps_per_class`, after what it waited until now.
    fn aged(&self, steps_per_class: u32, now: u64) -> i64 {
        let waited = i64::try_from(now - self.arrival_step).unwrap();
        i64::from(self.priority) * i64::from(steps_per_class) - waited
    }
}

const NUM_TENANTS: usize = 5;

#[derive(Debug)]
pub struct Naive {
    pub limits: SchedulerConfig,
    /// In order of rank from `schedule` on.
    pub requests: Vec<NaiveRequest>,
    /// Of the step in flight: request, first position, tokens.
    planned: Vec<(RequestId, usize, usize)>,
    pub num_preemptions: u64,
    pub num_steps: u64,
    /// Late requests of steps that were discarded.
    pub told: Vec<RequestId>,
    pub counters: [u64; NUM_TENANTS],
    /// When each tenant joined the queue, in joins.
    joined: [u64; NUM_TENANTS],
    num_joins: u64,
    floor: u64,
    left_last: Option<usize>,
}

impl Naive {
    pub fn new(limits: SchedulerConfig) -> Self {
        Self {
            limits,
            requests: Vec::new(),
            planned: Vec::new(),
            num_preemptions: 0,
            num_steps: 0,
            told: Vec::new(),
            counters: [0; NUM_TENANTS],
            joined: [0; NUM_TENANTS],
            num_joins: 0,
            floor: 0,
            left_last: None,
        }
    }

    pub fn free(&self) -> usize {
        let used: usize = self.requests.iter().map(|request| request.blocks).sum();
        self.limits.groups[0].num_blocks as usize - used
    }

    pub fn num_running(&self) -> usize {
        let running = self.requests.iter().filter(|request| request.is_running);
        running.count()
    }

    // Tenants

    fn weights(&self) -> Option<(u64, u64)> {
        let Policy::FairShare {
            input_weight,
            output_weight,
        } = self.limits.policy
        else {
            return None;
        };
        Some((u64::from(input_weight), u64::from(output_weight)))
    }

    fn is_queued(&self, tenant: usize) -> bool {
        let own = |request: &NaiveRequest| request.tenant == tenant && !request.is_running;
        self.requests.iter().any(own)
    }

    /// What nobody who joins the queue is below.
    fn level(&mut self) -> u64 {
        let queued = (0..NUM_TENANTS).filter(|&tenant| self.is_queued(tenant));
        let least = queued.map(|tenant| self.counters[tenant]).min();
        let of_last = self.left_last.map(|tenant| self.counters[tenant]);
        self.floor = self.floor.max(least.or(of_last).unwrap_or(0));
        self.floor
    }

    /// A request of the tenant is about to be in the queue.
    fn join(&mut self, tenant: usize) {
        if !self.is_queued(tenant) {
            self.counters[tenant] = self.counters[tenant].max(self.level());
            self.num_joins += 1;
            self.joined[tenant] = self.num_joins;
        }
    }

    /// A request of the tenant is about to leave the queue, for `leave`.
    fn leave(&mut self, index: usize, leave: impl FnOnce(&mut Self)) {
        let tenant = self.requests[index].tenant;
        let level = self.level();
        leave(self);
        if !self.is_queued(tenant) {
            self.floor = level;
            self.left_last = Some(tenant);
        }
    }

    fn lead(&self) -> u64 {
        let (input, output) = self.weights().unwrap();
        let blocks = self.limits.groups[0].num_blocks as usize;
        let limits = &self.limits;
        let capacity = blocks * BLOCK_SIZE;
        let longest = input * limits.max_model_len.min(capacity) as u64;
        let draws = limits.max_num_seqs.min(limits.max_num_batched_tokens);
        let bound = longest.max(output * capacity as u64);
        let step = output * draws.min(blocks) as u64;
        bound.saturating_sub(step).max(longest)
    }

    // What happens

    pub fn submit(&mut self, request: NaiveRequest) {
        self.join(request.tenant);
        self.requests.push(request);
    }

    pub fn remove(&mut self, index: usize) -> NaiveRequest {
        if self.requests[index].is_running {
            return self.requests.remove(index);
        }
        let request = self.requests[index].clone();
        self.leave(index, |naive| {
            naive.requests.remove(index);
        });
        request
    }

    /// End those whose deadline is not after `now`; the earliest first.
    pub fn expire(&mut self, now: u32) -> Vec<RequestId> {
        let is_late = |request: &&NaiveRequest| request.deadline.is_some_and(|due| due <= now);
        let late = self.requests.iter().filter(is_late);
        let mut late: Vec<_> = late.map(|request| (request.deadline, request.id)).collect();
        late.sort_unstable();
        for (_, id) in &late {
            let index = self.requests.iter().position(|request| request.id == *id);
            self.remove(index.unwrap());
        }
        late.into_iter().map(|(_, id)| id).collect()
    }

    /// Sort by what the policy says now.
    fn sort(&mut self) {
        let now = self.num_steps;
        match self.limits.policy {
            Policy::Fcfs => self
                .requests
                .sort_by_key(|request| (request.priority, request.arrival)),
            Policy::Priority { steps_per_class } => self
                .requests
                .sort_by_key(|request| (request.aged(steps_per_class, now), request.arrival)),
            Policy::FairShare { .. } => self.requests.sort_by_key(|request| request.arrival),
            Policy::Deadline { patience_seconds } => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole and small"
                )]
                let patience = patience_seconds as u32;
                let due =
                    |request: &NaiveRequest| request.deadline.unwrap_or(request.arrived + patience);
                self.requests
                    .sort_by_key(|request| (due(request), request.arrival));
            }
        }
    }

    fn plan(&mut self, index: usize, tokens: usize) -> usize {
        let request = &self.requests[index];
        self.planned.push((request.id, request.computed, tokens));
        tokens
    }

    /// The running request that is worst by policy.
    fn victim(&self) -> Option<usize> {
        let mut running = (0..self.requests.len()).filter(|&index| self.requests[index].is_running);
        if self.weights().is_none() {
            return running.next_back();
        }
        running.max_by_key(|&index| (self.counters[self.requests[index].tenant], index))
    }

    fn preempt(&mut self, index: usize, budget: &mut usize) {
        self.join(self.requests[index].tenant);
        let request = &mut self.requests[index];
        (request.blocks, request.computed, request.is_running) = (0, 0, false);
        request.num_preemptions += 1;
        self.num_preemptions += 1;
        let id = request.id;
        if let Some(place) = self.planned.iter().position(|planned| planned.0 == id) {
            *budget += self.planned.remove(place).2;
        }
    }

    /// The next to be let in.
    fn next(&self) -> Option<usize> {
        let waiting = (0..self.requests.len()).filter(|&index| !self.requests[index].is_running);
        if self.weights().is_none() {
            return waiting.min();
        }
        waiting.min_by_key(|&index| {
            let request = &self.requests[index];
            let turn = (self.counters[request.tenant], self.joined[request.tenant]);
            let aged = request.aged(Policy::STEPS_PER_CLASS, self.num_steps);
            (turn, aged, request.arrival)
        })
    }

    pub fn schedule(&mut self) -> Vec<(usize, usize)> {
        self.sort();
        self.planned.clear();
        let mut budget = self.limits.max_num_batched_tokens;
        let chunk = self.limits.max_chunk.unwrap_or(usize::MAX);
        let before = self.num_preemptions;
        for index in 0..self.requests.len() {
            let request = &self.requests[index];
            let needed = request.needed();
            if !request.is_running || request.remaining() > 1 || budget == 0 {
                continue;
            }
            while needed > self.requests[index].blocks && self.free() == 0 {
                let victim = self.victim().unwrap();
                self.preempt(victim, &mut budget);
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
        if self.num_preemptions == before || self.weights().is_some() {
            while let Some(index) = self.next()
                && self.admit(index, chunk, &mut budget)
            {}
        }
        if !self.planned.is_empty() {
            self.num_steps += 1;
        }
        let planned = self.planned.iter();
        planned.map(|&(_, start, tokens)| (start, tokens)).collect()
    }

    /// Let a request in, or take from somebody who had more than enough; whether to go on.
    fn admit(&mut self, index: usize, chunk: usize, budget: &mut usize) -> bool {
        let most = self
            .limits
            .max_num_seqs
            .min(self.limits.max_num_batched_tokens);
        let fits = self.requests[index].needed() + self.num_running() <= self.free();
        if *budget > 0 && self.num_running() < most && fits {
            self.leave(index, |naive| naive.requests[index].is_running = true);
            let request = &mut self.requests[index];
            request.blocks = request.needed();
            let is_first = !std::mem::replace(&mut request.was_started, true);
            let tokens = request.remaining().min(chunk).min(*budget);
            let (tenant, num_prompt) = (request.tenant, request.num_prompt);
            if let Some((input_weight, _)) = self.weights().filter(|_| is_first) {
                self.counters[tenant] += input_weight * num_prompt as u64;
            }
            *budget -= self.plan(index, tokens);
            return true;
        }
        if self.weights().is_none() {
            return false;
        }
        let counter = |index: usize| self.counters[self.requests[index].tenant];
        let limit = counter(index) + self.lead();
        let Some(victim) = self.victim().filter(|&victim| counter(victim) > limit) else {
            return false;
        };
        self.preempt(victim, budget);
        true
    }

    pub fn update(&mut self) -> Vec<RequestId> {
        let mut finished = Vec::new();
        for (id, _, tokens) in std::mem::take(&mut self.planned) {
            let Some(index) = self.requests.iter().position(|request| request.id == id) else {
                continue;
            };
            let output_weight = self.weights().map_or(0, |weights| weights.1);
            let request = &mut self.requests[index];
            request.computed += tokens;
            if request.remaining() == 0 {
                request.num_tokens += 1;
                self.counters[request.tenant] += output_weight;
            }
            if request.num_tokens == request.num_prompt + request.max_tokens {
                finished.push(id);
                self.requests.remove(index);
            }
        }
        finished
    }
}
