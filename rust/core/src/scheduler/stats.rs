//! Counters, for people and for tests.

use super::Scheduler;
use super::fair::TenantStats;
use super::sequences::SequenceStatus;
use crate::kv_cache::GroupStats;

/// Sums since construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are counts, as in `Stats`")]
pub(super) struct Totals {
    pub(super) num_steps: u64,
    pub(super) num_requests: u64,
    pub(super) num_finished: u64,
    pub(super) num_scheduled_tokens: u64,
    pub(super) num_prompt_tokens: u64,
    pub(super) num_cached_tokens: u64,
    pub(super) num_output_tokens: u64,
    pub(super) num_drafted_tokens: u64,
    pub(super) num_accepted_tokens: u64,
    pub(super) num_model_drafted_tokens: u64,
    pub(super) num_model_accepted_tokens: u64,
    pub(super) num_forced_tokens: u64,
    pub(super) num_preemptions: u64,
    pub(super) num_evictions: u64,
}

/// The scheduler at one moment, and sums since construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences with blocks.
    pub num_running_seqs: usize,
    /// Living sequences without blocks: never scheduled, preempted, or waiting for their request's prompt.
    pub num_waiting_seqs: usize,
    /// Of these, preempted.
    pub num_preempted_seqs: usize,
    /// Requests never scheduled yet.
    pub num_waiting_requests: usize,
    /// Their prompt tokens.
    pub num_waiting_tokens: usize,
    /// Steps planned.
    pub num_steps: u64,
    /// Requests accepted.
    pub num_requests: u64,
    /// Requests finished, for whatever reason.
    pub num_finished: u64,
    /// Tokens planned, discarded steps included.
    pub num_scheduled_tokens: u64,
    /// Prompt tokens of all requests that ever ran.
    pub num_prompt_tokens: u64,
    /// Of these, found in the prefix cache.
    pub num_cached_tokens: u64,
    /// Tokens generated.
    pub num_output_tokens: u64,
    /// Tokens drafted, as far as the model verified them.
    pub num_drafted_tokens: u64,
    /// Of these, tokens that were drawn.
    pub num_accepted_tokens: u64,
    /// Of the drafted tokens, those of the draft model.
    pub num_model_drafted_tokens: u64,
    /// Of these, tokens that were drawn.
    pub num_model_accepted_tokens: u64,
    /// Tokens that were known before their rows were computed.
    pub num_forced_tokens: u64,
    /// Sequences that lost their blocks while their request ran.
    pub num_preemptions: u64,
    /// Held sequences.
    pub num_held_seqs: usize,
    /// References to blocks that they hold; forks share.
    pub num_held_blocks: usize,
    /// Held sequences that lost their blocks; they are computed again when they are used.
    pub num_evictions: u64,
    /// One per KV group.
    pub groups: Vec<GroupStats>,
}

impl Scheduler {
    /// Tenants that are remembered, under fair share, in no order: those with a sequence that is not finished, and those
    /// that were served more than the others.
    pub fn tenants(&self) -> impl Iterator<Item = TenantStats> {
        self.tenants.iter().flat_map(super::Tenants::stats)
    }

    /// Counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let statuses = &self.sequences.status;
        let preempted = statuses.iter().filter(|&&s| s == SequenceStatus::Preempted);
        let num_alive = self.sequences.len() - self.sequences.num_free();
        Stats {
            num_running_seqs: self.running.len(),
            num_waiting_seqs: num_alive - self.running.len(),
            num_preempted_seqs: preempted.count(),
            num_waiting_requests: self
                .num_waiting
                .iter()
                .map(|waiting| waiting.requests)
                .sum(),
            num_waiting_tokens: self.num_waiting.iter().map(|waiting| waiting.tokens).sum(),
            num_steps: self.totals.num_steps,
            num_requests: self.totals.num_requests,
            num_finished: self.totals.num_finished,
            num_scheduled_tokens: self.totals.num_scheduled_tokens,
            num_prompt_tokens: self.totals.num_prompt_tokens,
            num_cached_tokens: self.totals.num_cached_tokens,
            num_output_tokens: self.totals.num_output_tokens,
            num_drafted_tokens: self.totals.num_drafted_tokens,
            num_accepted_tokens: self.totals.num_accepted_tokens,
            num_model_drafted_tokens: self.totals.num_model_drafted_tokens,
            num_model_accepted_tokens: self.totals.num_model_accepted_tokens,
            num_forced_tokens: self.totals.num_forced_tokens,
            num_preemptions: self.totals.num_preemptions,
            num_held_seqs: self.held.len(),
            num_held_blocks: self.held.num_blocks(),
            num_evictions: self.totals.num_evictions,
            groups: self.kv.stats().collect(),
        }
    }
}
