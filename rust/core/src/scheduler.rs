//! Decides what runs next: continuous batching under one token budget, chunked prefill, preemption by recompute.
//!
//! One step is `schedule` → the executor runs the batch → `update`. The cost of a step is tens of nanoseconds per
//! running sequence plus the batch's own length; a prefill chunk costs its length, whatever lies before it. After
//! warm-up a step allocates nothing but what results grow by.
//!
//! | file | holds |
//! |---|---|
//! | `scheduler/config.rs`, `submit.rs` | limits; what is refused at once |
//! | `scheduler/policy.rs`, `fair.rs`, `deadlines.rs` | who comes first; how much each tenant was served; who is out of time |
//! | `scheduler/queue.rs` | who waits, in order |
//! | `scheduler/plan.rs`, `admission.rs`, `preemption.rs` | `schedule`: who runs, with how many tokens; who is let in; who loses blocks |
//! | `scheduler/background.rs` | work that only runs where nobody else wants to |
//! | `scheduler/drafts.rs`, `told.rs` | drafted tokens in the plan; those that the caller tells |
//! | `scheduler/fill.rs` | the plan as a [`Batch`] |
//! | `scheduler/update.rs` | `update`: drafts verified, tokens appended, sequences ended, blocks published |
//! | `scheduler/sequences.rs`, `requests.rs` | hot state as parallel arrays; cold state per request |
//! | `scheduler/held.rs` | sequences that outlive their requests: forked, rewound, extended, evicted |
//! | `scheduler/waiting.rs`, `decisions.rs` | why a request waits; the decision log |
//! | `scheduler/integrity.rs` | the invariants |
//!
//! Progress: the best-ranked running sequence is never preempted for another that runs, and it fits alone (checked at
//! submit), so it finishes, and by induction all do. (Under fair share the order changes while they run, but only by what
//! was generated, and that is never lost.) Results do not depend on any choice made here (DESIGN section 4).

mod admission;
mod background;
mod config;
mod deadlines;
mod decisions;
mod drafts;
mod fair;
mod fill;
mod held;
mod integrity;
mod plan;
mod policy;
mod preemption;
mod queue;
mod requests;
#[cfg(test)]
pub(crate) mod samples;
mod sequences;
mod stats;
mod submit;
mod told;
mod update;
mod waiting;

use std::sync::Arc;

use crate::decision_log::DecisionLog;
use crate::kv_cache::KvCache;
use crate::request::{FinishReason, RequestOutput, RequestStatus, WaitReason};
use background::NeverScheduled;
pub use config::{ConfigError, SchedulerConfig};
use deadlines::Deadlines;
use drafts::Drafts;
pub use drafts::WantedDraft;
pub use fair::TenantStats;
use fair::{TenantIndex, Tenants};
pub use held::HeldSequence;
use held::HeldSequences;
use inferlib_program::Batch;
use inferlib_program::RequestId;
use plan::Scheduled;
pub use policy::Policy;
use queue::Queue;
use requests::Requests;
use sequences::{SequenceStatus, Sequences};
pub use stats::Stats;
use stats::Totals;
pub use update::{Events, UpdateError};

/// Most sequences of one request.
pub const MAX_N: u32 = 4096;

/// Rows that a pass carries at about the cost of one, unless the executor knows better.
pub const ROWS_PER_PASS: usize = 6;

/// Tokens of a step for requests in the background, unless somebody says otherwise: a step of a few milliseconds.
pub const BACKGROUND_TOKENS: usize = 16;

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
    waiting: Queue,
    /// Those of requests in the background.
    background: Queue,
    /// Under fair share. Work in the background is nobody's there.
    tenants: Option<Tenants>,
    deadlines: Deadlines,
    num_arrivals: u64,
    /// Requests that were never scheduled: those in the background are the second.
    num_waiting: [NeverScheduled; 2],
    /// The step in flight, in the order of the batch; empty when there is none.
    scheduled: Vec<Scheduled>,
    /// Whether some row of it asks for log-probabilities.
    wants_logprobs: bool,
    drafts: Drafts,
    held: HeldSequences,
    /// Why the latest step let nobody more in, and how many steps did so for which reason.
    refusal: Option<WaitReason>,
    refusals: [u64; WaitReason::ALL.len()],
    batch: Batch,
    events: Events,
    totals: Totals,
    log: Option<DecisionLog>,
}

impl Scheduler {
    /// An idle scheduler with an empty cache.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let caches = config.enable_prefix_caching && !config.whole_prompts;
        let hash = caches.then_some(config.prefix_hash);
        let kv = KvCache::new(&config.groups, hash);
        let tenants = config.tenants(kv.capacity());
        Ok(Self {
            kv,
            config,
            requests: Requests::default(),
            sequences: Sequences::default(),
            running: Vec::new(),
            waiting: Queue::default(),
            background: Queue::default(),
            tenants,
            deadlines: Deadlines::default(),
            num_arrivals: 0,
            num_waiting: [NeverScheduled::default(); 2],
            scheduled: Vec::new(),
            wants_logprobs: false,
            drafts: Drafts::default(),
            held: HeldSequences::default(),
            refusal: None,
            refusals: [0; WaitReason::ALL.len()],
            batch: Batch::default(),
            events: Events::default(),
            totals: Totals::default(),
            log: None,
        })
    }

    /// End every sequence of a request with [`FinishReason::Abort`] and free its blocks, also while a step is in
    /// flight. Says whether it was alive.
    pub fn cancel(&mut self, id: RequestId, now: f64) -> bool {
        let index = self.requests.find(id);
        let alive = index.is_some_and(|index| !self.requests[index].output.is_finished());
        if let Some(index) = index {
            self.end_request(index, FinishReason::Abort, now);
        }
        if let Some(log) = &mut self.log {
            log.cancel(id, now, alive);
        }
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
        let found = self.requests.find(id);
        let alive = found.is_some_and(|index| {
            self.finish_sequence(index, sequence_index, reason, num_output_tokens, now)
        });
        if let Some(log) = &mut self.log {
            let whose = (id, sequence_index);
            log.finish(whose, reason, num_output_tokens, now, alive);
        }
        alive
    }

    fn finish_sequence(
        &mut self,
        index: usize,
        sequence_index: u32,
        reason: FinishReason,
        num_output_tokens: Option<usize>,
        now: f64,
    ) -> bool {
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
        let is_finished = self.output(id).is_some_and(RequestOutput::is_finished);
        if let Some(log) = &mut self.log {
            log.take(id, is_finished);
        }
        is_finished
            .then(|| self.requests.remove(id))
            .flatten()
            .map(|request| request.output)
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
        !self.running.is_empty() || !self.waiting.is_empty() || !self.background.is_empty()
    }

    /// The limits in force.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    fn enqueue(&mut self, slot: usize, status: SequenceStatus) {
        self.sequences.status[slot] = status;
        let place = self.sequences.place(slot);
        self.queue(place.rank.is_background).insert(place);
        if let Some((tenants, tenant)) = self.tenant_of(slot) {
            tenants.enqueue(tenant);
        }
    }

    fn dequeue(&mut self, slot: usize) {
        let place = self.sequences.place(slot);
        self.queue(place.rank.is_background).remove(place);
        if let Some((tenants, tenant)) = self.tenant_of(slot) {
            tenants.dequeue(tenant);
        }
    }

    fn queue(&mut self, of_background: bool) -> &mut Queue {
        if of_background {
            &mut self.background
        } else {
            &mut self.waiting
        }
    }

    /// Whose a sequence is, where tenants count. Asked for every token: almost always there are none.
    #[inline]
    fn tenant_of(&mut self, slot: usize) -> Option<(&mut Tenants, TenantIndex)> {
        let tenants = self.tenants.as_mut()?;
        let is_background = self.sequences.rank[slot].is_background;
        (!is_background).then(|| (tenants, self.sequences.tenant[slot]))
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
                self.dequeue(slot);
            }
            SequenceStatus::Forking | SequenceStatus::Free => {}
        }
        self.kv.close(slot);
        self.drafts.close(slot);
        let index = self.sequences.request[slot];
        if let Some((tenants, tenant)) = self.tenant_of(slot) {
            tenants.close(tenant);
        }
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
                    let num_tokens = request.output.prompt_token_ids.len();
                    self.num_waiting[usize::from(rank.is_background)].remove(num_tokens);
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
    fn params(&self, slot: usize) -> &Arc<inferlib_program::SamplingParams> {
        &self.requests[self.sequences.request[slot]].params
    }
}
