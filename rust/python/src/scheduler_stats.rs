//! `_core.SchedulerStats`: counters, for people and for tests.

use inferlib_core::Stats;
use pyo3::prelude::*;

/// The scheduler at one moment, and sums since it was made.
#[pyclass(frozen, module = "inferlib._core", name = "SchedulerStats", get_all)]
pub(crate) struct PySchedulerStats {
    /// Sequences with blocks.
    num_running_seqs: usize,
    /// Living sequences without blocks.
    num_waiting_seqs: usize,
    /// Of these, preempted.
    num_preempted_seqs: usize,
    /// Requests never scheduled yet.
    num_waiting_requests: usize,
    /// Their prompt tokens.
    num_waiting_tokens: usize,
    /// Steps planned.
    num_steps: u64,
    /// Requests accepted.
    num_requests: u64,
    /// Requests finished, for whatever reason.
    num_finished: u64,
    /// Tokens planned, discarded steps included.
    num_scheduled_tokens: u64,
    /// Prompt tokens of all requests that ever ran.
    num_prompt_tokens: u64,
    /// Of these, found in the prefix cache.
    num_cached_tokens: u64,
    /// Tokens generated.
    num_output_tokens: u64,
    /// Tokens drafted, as far as the model verified them.
    num_drafted_tokens: u64,
    /// Of these, tokens that were drawn.
    num_accepted_tokens: u64,
    /// Of the drafted tokens, those of the draft model.
    num_model_drafted_tokens: u64,
    /// Of these, tokens that were drawn.
    num_model_accepted_tokens: u64,
    /// Sequences that lost their blocks while their request ran.
    num_preemptions: u64,
    /// Held sequences.
    num_held_seqs: usize,
    /// References to blocks that they hold; forks share.
    num_held_blocks: usize,
    /// Held sequences that lost their blocks.
    num_evictions: u64,
    /// Blocks of each KV group: all, used, free, cached (used or free).
    groups: Vec<(usize, usize, usize, usize)>,
}

impl PySchedulerStats {
    pub(crate) fn new(stats: &Stats) -> Self {
        Self {
            num_running_seqs: stats.num_running_seqs,
            num_waiting_seqs: stats.num_waiting_seqs,
            num_preempted_seqs: stats.num_preempted_seqs,
            num_waiting_requests: stats.num_waiting_requests,
            num_waiting_tokens: stats.num_waiting_tokens,
            num_steps: stats.num_steps,
            num_requests: stats.num_requests,
            num_finished: stats.num_finished,
            num_scheduled_tokens: stats.num_scheduled_tokens,
            num_prompt_tokens: stats.num_prompt_tokens,
            num_cached_tokens: stats.num_cached_tokens,
            num_output_tokens: stats.num_output_tokens,
            num_drafted_tokens: stats.num_drafted_tokens,
            num_accepted_tokens: stats.num_accepted_tokens,
            num_model_drafted_tokens: stats.num_model_drafted_tokens,
            num_model_accepted_tokens: stats.num_model_accepted_tokens,
            num_preemptions: stats.num_preemptions,
            num_held_seqs: stats.num_held_seqs,
            num_held_blocks: stats.num_held_blocks,
            num_evictions: stats.num_evictions,
            groups: stats
                .groups
                .iter()
                .map(|group| {
                    (
                        group.num_blocks,
                        group.num_used,
                        group.num_free,
                        group.num_cached,
                    )
                })
                .collect(),
        }
    }
}
