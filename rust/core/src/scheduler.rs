//! Decides what runs next: continuous batching under one token budget, chunked prefill, preemption by recompute.
//!
//! One step is `schedule` → the executor runs the batch → `update`. The cost of a step is tens of nanoseconds per
//! running sequence plus the batch's own length; a prefill chunk costs its length, whatever lies before it. After
//! warm-up a step allocates nothing but what results grow by.
//!
//! | file | holds |
//! |---|---|
//! | `scheduler/plan.rs` | `schedule`: who runs, with how many tokens; admission; preemption |
//! | `scheduler/drafts.rs` | drafted tokens in the plan |
//! | `scheduler/fill.rs` | the plan as a [`Batch`] |
//! | `scheduler/update.rs` | `update`: drafts verified, tokens appended, sequences ended, blocks published |
//! | `scheduler/sequences.rs`, `requests.rs` | hot state as parallel arrays; cold state per request |
//! | `scheduler/held.rs` | sequences that outlive their requests: forked, rewound, extended, evicted |
//! | `scheduler/waiting.rs` | why a request waits |
//! | `scheduler/integrity.rs` | the invariants |
//!
//! Progress: the best-ranked running sequence is never preempted for another, and it fits alone (checked at submit),
//! so it finishes, and by induction all do. Results do not depend on any choice made here (DESIGN section 4).

mod drafts;
mod fill;
mod held;
mod integrity;
mod plan;
mod requests;
mod sequences;
mod stats;
mod update;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::batch::Batch;
use crate::drafting::{MAX_LOOKUP, PromptLookup};
use crate::kv_cache::{GroupConfig, KvCache, MAX_BLOCKS, PrefixHash};
use crate::request::{
    FinishReason, NewRequest, PromptLimit, RequestId, RequestOutput, RequestStatus, SubmitError,
    WaitReason,
};
use drafts::Drafts;
pub use held::HeldSequence;
use held::HeldSequences;
use plan::Scheduled;
use requests::{Request, Requests};
use sequences::{Rank, SequenceStatus, Sequences};
pub use stats::Stats;
use stats::Totals;
pub use update::{Events, UpdateError};

/// Most sequences of one request.
pub const MAX_N: u32 = 4096;

/// Rows that a pass carries at about the cost of one, unless the executor knows better.
pub const ROWS_PER_PASS: usize = 6;

/// Limits and memory of a scheduler, fixed for its life.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// KV groups of the program, with the blocks that each may use.
    pub groups: Vec<GroupConfig>,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step. Smaller than `max_num_seqs`, it limits the sequences too: each gets a token.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a sequence, prompt and output.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Draft tokens for sequences that repeat themselves; `None` drafts nothing. No result depends on it.
    pub speculation: Option<PromptLookup>,
    /// Most rows of a step with drafted tokens: those that a pass carries at about the cost of one.
    pub rows_per_pass: usize,
    /// Keep full blocks for requests with an equal prefix.
    pub enable_prefix_caching: bool,
    /// Most tokens of one prefill chunk; `None` leaves it to the budget.
    pub max_chunk: Option<usize>,
    /// Most requests that wait for their first step.
    pub max_waiting: Option<usize>,
    /// Most prompt tokens of the requests that wait for their first step; one request is always let in.
    pub max_waiting_tokens: Option<usize>,
    /// Key of the prefix hash; random per process.
    pub prefix_hash: PrefixHash,
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A model has at least one KV group.
    #[error("there is no KV group")]
    NoGroups,
    /// Slots would not fit an int32, or there is no block at all.
    #[error("KV group {group} has {num_blocks} blocks; it can have 1 to {MAX_BLOCKS}")]
    NumBlocks {
        /// Which group.
        group: usize,
        /// As given.
        num_blocks: u32,
    },
    /// A limit of 0, or one whose numbers would not fit an int32.
    #[error("{field} is {value}; it can be 1 to {}", i32::MAX)]
    Limit {
        /// Name of the limit.
        field: &'static str,
        /// As given.
        value: usize,
    },
    /// The lengths that are looked up are no range.
    #[error("{min} to {max} tokens cannot be looked up; the range lies within 1 to {MAX_LOOKUP}")]
    PromptLookup {
        /// Shortest, as given.
        min: usize,
        /// Longest, as given.
        max: usize,
    },
}

/// Requests, their sequences and the KV cache; see the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: KvCache,
    requests: Requests,
    sequences: Sequences,
    /// Slots of the running sequences, best rank first.
    running: Vec<usize>,
    /// Sequences without blocks that may be admitted, best rank first. A request's further sequences join when its
    /// prompt is computed.
    waiting: BTreeSet<(Rank, usize)>,
    num_arrivals: u64,
    /// Requests that were never scheduled, and their prompt tokens.
    num_waiting_requests: usize,
    num_waiting_tokens: usize,
    /// The step in flight, in the order of the batch; empty when there is none.
    scheduled: Vec<Scheduled>,
    drafts: Drafts,
    held: HeldSequences,
    /// Why the latest step let nobody more in, and how many steps did so for which reason.
    refusal: Option<WaitReason>,
    refusals: [u64; WaitReason::ALL.len()],
    batch: Batch,
    events: Events,
    totals: Totals,
}

impl Scheduler {
    /// An idle scheduler with an empty cache.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        if config.groups.is_empty() {
            return Err(ConfigError::NoGroups);
        }
        for (group, &GroupConfig { num_blocks, .. }) in config.groups.iter().enumerate() {
            if !(1..=MAX_BLOCKS).contains(&num_blocks) {
                return Err(ConfigError::NumBlocks { group, num_blocks });
            }
        }
        for (field, value) in [
            ("max_num_seqs", config.max_num_seqs),
            ("max_num_batched_tokens", config.max_num_batched_tokens),
            ("max_model_len", config.max_model_len),
            ("vocab_size", config.vocab_size),
            ("max_chunk", config.max_chunk.unwrap_or(1)),
            ("rows_per_pass", config.rows_per_pass),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(ConfigError::Limit { field, value });
            }
        }
        if let Some(lookup) = &config.speculation {
            let (min, max) = (lookup.prompt_lookup_min, lookup.prompt_lookup_max);
            if min == 0 || max < min || max > MAX_LOOKUP {
                return Err(ConfigError::PromptLookup { min, max });
            }
        }
        let hash = config.enable_prefix_caching.then_some(config.prefix_hash);
        Ok(Self {
            kv: KvCache::new(&config.groups, hash),
            config,
            requests: Requests::default(),
            sequences: Sequences::default(),
            running: Vec::new(),
            waiting: BTreeSet::new(),
            num_arrivals: 0,
            num_waiting_requests: 0,
            num_waiting_tokens: 0,
            scheduled: Vec::new(),
            drafts: Drafts::default(),
            held: HeldSequences::default(),
            refusal: None,
            refusals: [0; WaitReason::ALL.len()],
            batch: Batch::default(),
            events: Events::default(),
            totals: Totals::default(),
        })
    }

    /// Queue a request, or refuse at once what can never run.
    ///
    /// `max_tokens` is capped where the context or the KV cache ends first; the request then ends with
    /// [`FinishReason::Length`].
    pub fn submit(&mut self, mut new: NewRequest, now: f64) -> Result<RequestId, SubmitError> {
        let max_tokens = self.check(&new)?;
        self.begin_continuation(&mut new)?;
        let num_prompt_tokens = new.prompt.len();
        let arrival = self.num_arrivals;
        self.num_arrivals += 1;
        self.num_waiting_requests += 1;
        self.num_waiting_tokens += num_prompt_tokens;
        self.totals.num_requests += 1;
        let n = new.n;
        let priority = new.priority;
        let speculation = self.config.speculation.as_ref();
        let max_drafts = speculation.map_or(0, |lookup| lookup.num_speculative_tokens);
        let continues = new.continues;
        let id = self
            .requests
            .insert(|id| Request::new(id, new, max_tokens, max_drafts, now));
        self.name_writer(id, continues);
        self.requests[Requests::index(id)].refusals = self.refusals;
        let index = Requests::index(id);
        for sequence_index in 0..n {
            let rank = Rank {
                priority,
                arrival,
                sequence_index,
            };
            let slot = self.sequences.open(index, rank, num_prompt_tokens);
            let salt = self.requests[index].cache_salt.as_deref();
            self.kv.open(slot, salt, num_prompt_tokens + max_tokens);
            self.requests[index].slots.push(Some(slot));
            if sequence_index == 0 {
                self.enqueue(slot, SequenceStatus::Waiting);
            }
        }
        Ok(id)
    }

    /// End every sequence of a request with [`FinishReason::Abort`] and free its blocks, also while a step is in
    /// flight. Says whether it was alive.
    pub fn cancel(&mut self, id: RequestId, now: f64) -> bool {
        let Some(index) = self.requests.find(id) else {
            return false;
        };
        let alive = !self.requests[index].output.is_finished();
        self.end_request(index, FinishReason::Abort, now);
        alive
    }

    /// End one sequence (a stop string was found, or nobody reads it any more), also while a step is in flight. Says
    /// whether it was alive.
    ///
    /// With `num_output_tokens` it ends with that token: a step may have brought further ones, which go, and the
    /// sequence may have ended with one of them, which does not count either. `None` keeps what there is.
    pub fn finish(
        &mut self,
        id: RequestId,
        sequence_index: u32,
        reason: FinishReason,
        num_output_tokens: Option<usize>,
        now: f64,
    ) -> bool {
        let Some(index) = self.requests.find(id) else {
            return false;
        };
        let slots = &self.requests[index].slots;
        let slot = slots.get(sequence_index as usize).copied().flatten();
        if let Some(slot) = slot {
            self.end_sequence(slot, reason, None, now);
        }
        let sequences = &mut self.requests[index].output.sequences;
        if let (Some(kept), Some(sequence)) = (
            num_output_tokens,
            sequences.get_mut(sequence_index as usize),
        ) && kept <= sequence.token_ids.len()
        {
            self.totals.num_output_tokens -= (sequence.token_ids.len() - kept) as u64;
            sequence.token_ids.truncate(kept);
            sequence.logprobs.truncate(kept);
            sequence.finish_reason = Some(reason);
            sequence.stop_token_id = None;
            self.cut_held(index, kept);
        }
        slot.is_some()
    }

    /// Results so far.
    #[must_use]
    pub fn output(&self, id: RequestId) -> Option<&RequestOutput> {
        self.requests
            .find(id)
            .map(|index| &self.requests[index].output)
    }

    /// Remove a finished request.
    pub fn take(&mut self, id: RequestId) -> Option<RequestOutput> {
        self.output(id).filter(|output| output.is_finished())?;
        self.requests.remove(id).map(|request| request.output)
    }

    /// Where a request is.
    #[must_use]
    pub fn status(&self, id: RequestId) -> Option<RequestStatus> {
        let request = &self.requests[self.requests.find(id)?];
        let mut slots = request.slots.iter().flatten();
        Some(if request.output.is_finished() {
            RequestStatus::Finished
        } else if slots.any(|&slot| self.sequences.status[slot] == SequenceStatus::Running) {
            RequestStatus::Running
        } else if request.started {
            RequestStatus::Preempted
        } else {
            RequestStatus::Waiting
        })
    }

    /// Whether `schedule` would give a batch: some request is not finished.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// The limits in force.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Validate a request; its effective `max_tokens`.
    fn check(&self, new: &NewRequest) -> Result<usize, SubmitError> {
        let prompt_tokens = new.prompt.len();
        if prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocab_size = self.config.vocab_size;
        let valid = |token: i32| usize::try_from(token).is_ok_and(|token| token < vocab_size);
        if let Some(index) = new.prompt.iter().position(|&token| !valid(token)) {
            let token = new.prompt[index];
            return Err(SubmitError::TokenOutOfRange {
                index,
                token,
                vocab_size,
            });
        }
        new.params.validate(Some(vocab_size))?;
        if !(1..=MAX_N).contains(&new.n) {
            return Err(SubmitError::InvalidN {
                n: new.n,
                limit: MAX_N,
            });
        }
        // The last generated token's K and V are never needed: a sequence of T tokens computes T - 1.
        let wanted = new.params.max_tokens as usize;
        let context = self.config.max_model_len - wanted.min(1).min(self.config.max_model_len);
        let capacity = self.kv.capacity();
        let (limit, because) = if context <= capacity {
            (context, PromptLimit::Context)
        } else {
            (capacity, PromptLimit::KvCache)
        };
        if prompt_tokens > limit {
            return Err(SubmitError::PromptTooLong {
                prompt_tokens,
                limit,
                because,
            });
        }
        let full = |count: usize, more: usize, limit: Option<usize>| {
            limit.is_some_and(|limit| count + more > limit)
        };
        if full(self.num_waiting_requests, 1, self.config.max_waiting)
            || self.num_waiting_requests > 0
                && full(
                    self.num_waiting_tokens,
                    prompt_tokens,
                    self.config.max_waiting_tokens,
                )
        {
            return Err(SubmitError::Overloaded {
                waiting: self.num_waiting_requests,
                waiting_tokens: self.num_waiting_tokens,
            });
        }
        let room = (self.config.max_model_len - prompt_tokens).min(capacity + 1 - prompt_tokens);
        Ok(wanted.min(room))
    }

    fn enqueue(&mut self, slot: usize, status: SequenceStatus) {
        self.sequences.status[slot] = status;
        self.waiting.insert((self.sequences.rank[slot], slot));
    }

    fn run(&mut self, slot: usize) {
        self.sequences.status[slot] = SequenceStatus::Running;
        let rank = self.sequences.rank[slot];
        let place = self
            .running
            .partition_point(|&other| self.sequences.rank[other] < rank);
        self.running.insert(place, slot);
    }

    fn end_request(&mut self, index: usize, reason: FinishReason, now: f64) {
        for sequence_index in 0..self.requests[index].slots.len() {
            if let Some(slot) = self.requests[index].slots[sequence_index] {
                self.end_sequence(slot, reason, None, now);
            }
        }
    }

    /// End a living sequence and free its blocks and its slot.
    fn end_sequence(
        &mut self,
        slot: usize,
        reason: FinishReason,
        stop_token_id: Option<i32>,
        now: f64,
    ) {
        self.end_continuation(slot, reason);
        let rank = self.sequences.rank[slot];
        match self.sequences.status[slot] {
            SequenceStatus::Running => {
                let ranks = &self.sequences.rank;
                if let Ok(place) = self
                    .running
                    .binary_search_by(|&other| ranks[other].cmp(&rank))
                {
                    self.running.remove(place);
                }
            }
            SequenceStatus::Waiting | SequenceStatus::Preempted => {
                self.waiting.remove(&(rank, slot));
            }
            SequenceStatus::Forking | SequenceStatus::Free => {}
        }
        self.kv.close(slot);
        self.drafts.close(slot);
        let index = self.sequences.request[slot];
        self.sequences.close(slot);

        let request = &mut self.requests[index];
        let sequence_index = rank.sequence_index as usize;
        request.slots[sequence_index] = None;
        let sequence = &mut request.output.sequences[sequence_index];
        sequence.finish_reason = Some(reason);
        sequence.stop_token_id = stop_token_id;
        match request.slots.iter().flatten().next() {
            None => {
                request.output.timestamps.finished = Some(now);
                if !request.started {
                    self.num_waiting_requests -= 1;
                    self.num_waiting_tokens -= request.output.prompt_token_ids.len();
                }
                self.totals.num_finished += 1;
            }
            // The sequence that was to compute the prompt is gone: the next one does it.
            Some(&next) if self.sequences.status[next] == SequenceStatus::Forking => {
                self.enqueue(next, SequenceStatus::Waiting);
            }
            Some(_) => {}
        }
    }

    /// Parameters, shared with the batch's rows.
    fn params(&self, slot: usize) -> &Arc<crate::sampling::SamplingParams> {
        &self.requests[self.sequences.request[slot]].params
    }
}
