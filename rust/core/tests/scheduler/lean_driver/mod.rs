//! Random operations on a scheduler as fast as they can be checked: submit, step, cancel, finish, and with held sequences
//! open, fork, rewind, close, go on from, save and load; preemption and eviction come by themselves in a tiny cache.
//!
//! After every operation the invariants are verified, and every token drawn is compared with what its sequence would draw
//! alone: K and V are one number per token, a hash of the tokens up to there, written and read through the block tables.
//! A wrong block, a block shared by unequal prefixes, or one that was overwritten changes the next token.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a test: it says what it expects, and its numbers are small"
)]

mod memory;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use inferlib_core::scheduler::BACKGROUND_TOKENS;
use inferlib_core::{
    Continuation, FinishReason, GroupConfig, NewRequest, Policy, PrefixHash, PromptLookup,
    Scheduler, SchedulerConfig, SequenceId,
};
use inferlib_program::{Batch, RequestId, SamplingParams, StepOutput};
use memory::{Memory, chain, draw};

/// What was done, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub submits: u64,
    pub refused_submits: u64,
    pub steps: u64,
    pub discarded_steps: u64,
    pub cancels: u64,
    pub finishes: u64,
    pub opens: u64,
    pub forks: u64,
    pub rewinds: u64,
    pub closes: u64,
    pub continuations: u64,
    pub saves: u64,
    pub loads: u64,
    /// These come by themselves.
    pub preemptions: u64,
    pub evictions: u64,
    pub deadlines: u64,
    pub cached_tokens: u64,
    pub checked_tokens: u64,
}

impl Counts {
    pub fn add(&mut self, more: &Self) {
        self.submits += more.submits;
        self.refused_submits += more.refused_submits;
        self.steps += more.steps;
        self.discarded_steps += more.discarded_steps;
        self.cancels += more.cancels;
        self.finishes += more.finishes;
        self.opens += more.opens;
        self.forks += more.forks;
        self.rewinds += more.rewinds;
        self.closes += more.closes;
        self.continuations += more.continuations;
        self.saves += more.saves;
        self.loads += more.loads;
        self.preemptions += more.preemptions;
        self.evictions += more.evictions;
        self.deadlines += more.deadlines;
        self.cached_tokens += more.cached_tokens;
        self.checked_tokens += more.checked_tokens;
    }

    pub fn operations(&self) -> u64 {
        self.fields()[..13].iter().map(|&(_, count)| count).sum()
    }

    pub fn fields(&self) -> [(&'static str, u64); 18] {
        [
            ("submits", self.submits),
            ("refused_submits", self.refused_submits),
            ("steps", self.steps),
            ("discarded_steps", self.discarded_steps),
            ("cancels", self.cancels),
            ("finishes", self.finishes),
            ("opens", self.opens),
            ("forks", self.forks),
            ("rewinds", self.rewinds),
            ("closes", self.closes),
            ("continuations", self.continuations),
            ("saves", self.saves),
            ("loads", self.loads),
            ("preemptions", self.preemptions),
            ("evictions", self.evictions),
            ("deadlines", self.deadlines),
            ("cached_tokens", self.cached_tokens),
            ("checked_tokens", self.checked_tokens),
        ]
    }
}

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(memory::mix(seed, 0x5eed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        memory::mix(self.0, 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Few texts, so that prefixes are shared.
    fn tokens(&mut self, longest: usize) -> Vec<i32> {
        let (text, length) = (self.below(3) as u64, 1 + self.below(longest));
        let mut tokens: Vec<_> = (0..length as u64)
            .map(|position| (memory::mix(text, position) % VOCAB_SIZE) as i32)
            .collect();
        if self.one_in(2) {
            let tail = self.below(length + 1).min(20);
            let other = 100 + self.below(3) as u64;
            for (offset, token) in tokens[length - tail..].iter_mut().enumerate() {
                *token = (memory::mix(other, offset as u64) % VOCAB_SIZE) as i32;
            }
        }
        tokens
    }
}

const VOCAB_SIZE: u64 = 24;
const MAX_HELD: usize = 8;
const MAX_LIVING: usize = 12;

/// A request as it goes on, sequence by sequence.
struct Living {
    id: RequestId,
    seed: u64,
    prompt: Vec<i32>,
    continues: Option<Continuation>,
    sequences: Vec<Expected>,
}

/// What a sequence has drawn, and the hash that its next token comes from.
struct Expected {
    tokens: Vec<i32>,
    state: u64,
}

pub struct Driver {
    scheduler: Scheduler,
    memory: Memory,
    random: Random,
    living: Vec<Living>,
    /// Their places in `living`.
    places: HashMap<RequestId, usize>,
    held: BTreeMap<SequenceId, Vec<i32>>,
    batch: Batch,
    output: StepOutput,
    now: f64,
    pub counts: Counts,
}

impl Driver {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let config = arbitrary_config(&mut random);
        Self {
            memory: Memory::new(&config.groups),
            scheduler: Scheduler::new(config).unwrap(),
            random,
            living: Vec::new(),
            places: HashMap::new(),
            held: BTreeMap::new(),
            batch: Batch::default(),
            output: StepOutput::default(),
            now: 0.0,
            counts: Counts::default(),
        }
    }

    /// Carry out `count` operations, then end everything and verify that nothing is left.
    pub fn run(&mut self, count: usize) {
        for _ in 0..count {
            self.operate();
            self.scheduler.check_integrity().unwrap();
        }
        while let Some(living) = self.living.last() {
            let id = living.id;
            self.scheduler.cancel(id, self.now);
            self.take(id);
        }
        for id in std::mem::take(&mut self.held).into_keys() {
            assert!(self.scheduler.close_sequence(id));
        }
        self.scheduler.check_integrity().unwrap();
        let stats = self.scheduler.stats();
        assert!(!self.scheduler.has_work());
        for group in &stats.groups {
            assert_eq!(group.num_free, group.num_blocks, "blocks leaked");
        }
        self.counts.preemptions += stats.num_preemptions;
        self.counts.evictions += stats.num_evictions;
        self.counts.cached_tokens += stats.num_cached_tokens;
    }

    fn operate(&mut self) {
        match self.random.below(100) {
            0..54 => self.step(),
            54..70 => self.submit_new(),
            70..74 => self.cancel(),
            74..77 => self.finish(),
            77..80 => self.open(),
            80..85 => self.fork(),
            85..88 => self.rewind(),
            88..91 => self.close(),
            91..96 => self.go_on(),
            96..98 => self.save(),
            _ => self.load(),
        }
    }

    // Requests

    fn submit_new(&mut self) {
        let prompt = self.random.tokens(70);
        self.submit(prompt, None);
    }

    fn submit(&mut self, prompt: Vec<i32>, continues: Option<Continuation>) {
        if self.living.len() >= MAX_LIVING {
            return self.step();
        }
        let random = &mut self.random;
        let several = random.one_in(4) && !continues.is_some_and(|each| each.keep);
        let params = SamplingParams {
            max_tokens: 1 + random.below(40) as u32,
            eos_token_ids: if random.one_in(2) {
                vec![3]
            } else {
                Vec::new()
            },
            ..SamplingParams::default()
        };
        let new = NewRequest {
            n: if several {
                2 + random.below(3) as u32
            } else {
                1
            },
            seed: random.next(),
            cache_salt: random.one_in(4).then(|| "a".to_owned()),
            priority: random.below(3) as i32,
            background: random.one_in(4),
            tenant: [None, Some("a"), Some("b")][random.below(3)].map(str::to_owned),
            deadline: random.one_in(6).then(|| self.now + random.below(40) as f64),
            speculation: true,
            continues,
            ..NewRequest::new(prompt, Arc::new(params))
        };
        let (seed, prompt, n) = (new.seed, new.prompt.clone(), new.n);
        let Ok(id) = self.scheduler.submit(new, self.now) else {
            self.counts.refused_submits += 1;
            return;
        };
        let state = chain(0, &prompt, 0);
        let sequence = || Expected {
            tokens: Vec::new(),
            state,
        };
        self.places.insert(id, self.living.len());
        self.living.push(Living {
            id,
            seed,
            prompt,
            continues,
            sequences: (0..n).map(|_| sequence()).collect(),
        });
        match continues {
            Some(_) => self.counts.continuations += 1,
            None => self.counts.submits += 1,
        }
    }

    fn cancel(&mut self) {
        let Some(id) = self.any_living() else {
            return self.step();
        };
        assert!(self.scheduler.cancel(id, self.now));
        self.take(id);
        self.counts.cancels += 1;
    }

    fn finish(&mut self) {
        let Some(id) = self.any_living() else {
            return self.step();
        };
        let sequence = self.random.below(3) as u32;
        let (reason, now) = (FinishReason::Stop, self.now);
        self.scheduler.finish(id, sequence, reason, None, now);
        if self.scheduler.output(id).unwrap().is_finished() {
            self.take(id);
        }
        self.counts.finishes += 1;
    }

    fn any_living(&mut self) -> Option<RequestId> {
        let count = self.living.len();
        (count > 0).then(|| self.living[self.random.below(count)].id)
    }

    fn step(&mut self) {
        self.now += 1.0;
        let planned = self.scheduler.schedule_into(&mut self.batch, self.now);
        if !planned {
            let late = self.scheduler.overdue().finished_requests.clone();
            assert!(!self.scheduler.has_work(), "stuck");
            self.take_all(&late);
            self.counts.steps += 1;
            return;
        }
        let limits = self.scheduler.config();
        assert!(self.batch.num_tokens() <= limits.max_num_batched_tokens);
        assert!(self.batch.num_seqs() <= limits.max_num_seqs);
        self.memory.run(&self.batch, &mut self.output);
        self.scheduler.check_integrity().unwrap();
        if self.random.one_in(30) {
            self.scheduler.discard_step();
            self.take_late();
            self.counts.discarded_steps += 1;
            return;
        }
        let events = self.scheduler.update(&self.output, self.now).unwrap();
        for index in 0..events.token_ids.len() {
            let living = &mut self.living[self.places[&events.request_ids[index]]];
            let sequence_index = events.sequence_indices[index];
            let position = living.prompt.len();
            let sequence = &mut living.sequences[sequence_index as usize];
            let position = position + sequence.tokens.len();
            let token = draw(sequence.state, living.seed, sequence_index, position);
            assert_eq!(events.token_ids[index], token, "another token than alone");
            assert_eq!(events.token_indices[index] as usize, sequence.tokens.len());
            sequence.state = chain(sequence.state, &[token], position);
            sequence.tokens.push(token);
        }
        self.counts.checked_tokens += events.token_ids.len() as u64;
        self.counts.steps += 1;
        let finished = events.finished_requests.clone();
        self.take_all(&finished);
    }

    /// Some ended at their deadline in a step that was discarded; the next events tell of them again.
    fn take_late(&mut self) {
        let is_late = |id: &RequestId| self.scheduler.output(*id).unwrap().is_finished();
        let ids = self.living.iter().map(|living| living.id);
        let late: Vec<_> = ids.filter(is_late).collect();
        self.take_all(&late);
    }

    fn take_all(&mut self, ids: &[RequestId]) {
        for &id in ids {
            if self.places.contains_key(&id) {
                self.take(id);
            }
        }
    }

    /// A request ended: it has what was told, and leaves it to the sequence that it was to change.
    fn take(&mut self, id: RequestId) {
        let output = self.scheduler.take(id).unwrap();
        let place = self.places.remove(&id).unwrap();
        let living = self.living.swap_remove(place);
        if let Some(moved) = self.living.get(place) {
            self.places.insert(moved.id, place);
        }
        for (found, expected) in output.sequences.iter().zip(&living.sequences) {
            assert_eq!(found.token_ids, expected.tokens);
            self.counts.deadlines += u64::from(found.finish_reason == Some(FinishReason::Deadline));
        }
        let reason = output.sequences[0].finish_reason.unwrap();
        let is_kept = matches!(
            reason,
            FinishReason::Stop
                | FinishReason::Length
                | FinishReason::Deadline
                | FinishReason::Abstain
        );
        if let Some(Continuation {
            sequence,
            keep: true,
        }) = living.continues
            && let Some(tokens) = self.held.get_mut(&sequence)
            && is_kept
        {
            *tokens = living.prompt;
            tokens.extend(&living.sequences[0].tokens);
        }
    }

    // Held sequences

    fn any_held(&mut self) -> Option<SequenceId> {
        let count = self.held.len();
        (count > 0).then(|| *self.held.keys().nth(self.random.below(count)).unwrap())
    }

    fn is_busy(&self, id: SequenceId) -> bool {
        let sequence = self.scheduler.sequence(id).unwrap();
        if !sequence.is_busy() {
            assert_eq!(sequence.tokens(), self.held[&id]);
        }
        sequence.is_busy()
    }

    fn open(&mut self) {
        if self.held.len() >= MAX_HELD {
            return self.close();
        }
        let salt = self.random.one_in(4).then(|| "a".to_owned());
        let id = self.scheduler.open_sequence(salt);
        self.held.insert(id, Vec::new());
        self.counts.opens += 1;
    }

    fn fork(&mut self) {
        let Some(id) = self.any_held() else {
            return self.open();
        };
        if self.held.len() >= MAX_HELD {
            return self.close();
        }
        self.is_busy(id);
        let fork = self.scheduler.fork_sequence(id).unwrap();
        let tokens = self.held[&id].clone();
        self.held.insert(fork, tokens);
        self.counts.forks += 1;
    }

    fn rewind(&mut self) {
        let Some(id) = self.any_held() else {
            return self.open();
        };
        let length = self.held[&id].len();
        let count = self.random.below(30).min(length);
        let is_busy = self.is_busy(id);
        let result = self.scheduler.rewind_sequence(id, count);
        assert_eq!(result.is_err(), is_busy);
        if !is_busy {
            self.held.get_mut(&id).unwrap().truncate(length - count);
        }
        self.counts.rewinds += 1;
    }

    fn close(&mut self) {
        let Some(id) = self.any_held() else {
            return self.open();
        };
        assert!(self.scheduler.close_sequence(id));
        self.held.remove(&id);
        self.counts.closes += 1;
    }

    fn go_on(&mut self) {
        let Some(sequence) = self.any_held() else {
            return self.open();
        };
        let mut prompt = self.held[&sequence].clone();
        prompt.extend(self.random.tokens(30));
        prompt.truncate(85);
        let keep = !self.random.one_in(3);
        self.submit(prompt, Some(Continuation { sequence, keep }));
    }

    /// What a file would hold: K and V of the tokens that it has some of.
    fn save(&mut self) {
        let Some(id) = self.any_held() else {
            return self.open();
        };
        self.is_busy(id);
        let sequence = self.scheduler.sequence(id).unwrap();
        let computed = &sequence.tokens()[..sequence.num_computed_tokens()];
        self.memory.check(computed, |group| sequence.table(group));
        self.counts.saves += 1;
    }

    fn load(&mut self) {
        let Some(id) = self.any_held() else {
            return self.open();
        };
        let tokens = self.random.tokens(70);
        let num_computed = self.random.below(tokens.len() + 1);
        let is_busy = self.is_busy(id);
        let result = self
            .scheduler
            .restore_sequence(id, tokens.clone(), num_computed);
        assert_eq!(result.is_err(), is_busy);
        if result == Ok(true) {
            let sequence = self.scheduler.sequence(id).unwrap();
            let computed = &tokens[..sequence.num_computed_tokens()];
            self.memory.write(computed, |group| sequence.table(group));
        }
        if !is_busy {
            self.held.insert(id, tokens);
        }
        self.counts.loads += 1;
    }
}

fn arbitrary_config(random: &mut Random) -> SchedulerConfig {
    let num_groups = if random.one_in(4) { 2 } else { 1 };
    let group = |num_blocks| GroupConfig {
        num_blocks,
        window: None,
    };
    let groups = (0..num_groups).map(|_| group(6 + random.below(18) as u32));
    SchedulerConfig {
        groups: groups.collect(),
        max_num_seqs: 1 + random.below(8),
        max_num_batched_tokens: 1 + random.below(64),
        max_model_len: 110,
        vocab_size: VOCAB_SIZE as usize,
        speculation: random.one_in(3).then(PromptLookup::default),
        draft_model: None,
        rows_per_pass: 1 + random.below(12),
        policy: Policy::from_name(Policy::NAMES[random.below(4)]).unwrap(),
        enable_prefix_caching: !random.one_in(5),
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        max_chunk: random.one_in(3).then(|| 1 + random.below(20)),
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash {
            bits: [128, 128, 4, 1][random.below(4)],
            ..PrefixHash::default()
        },
    }
}
