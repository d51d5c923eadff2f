//! Limits, memory and policy of a scheduler.

use super::fair::Tenants;
use super::policy::Policy;
use crate::drafting::{DraftModel, MAX_LOOKUP, PromptLookup};
use crate::kv_cache::{GroupConfig, MAX_BLOCKS, PrefixHash};
use inferlib_program::BLOCK_SIZE;

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
    /// Draft tokens for sequences that repeat themselves; `None` looks nothing up. No result depends on it.
    pub speculation: Option<PromptLookup>,
    /// The caller has a draft model; `None`: [`super::Scheduler::suggest`] does nothing. No result depends on it.
    pub draft_model: Option<DraftModel>,
    /// Most rows of a step with drafted tokens: those that a pass carries at about the cost of one.
    pub rows_per_pass: usize,
    /// Who comes first.
    pub policy: Policy,
    /// Most tokens of a step that requests in the background get, half of them for those who decode.
    pub background_tokens: usize,
    /// Keep full blocks for requests with an equal prefix.
    pub enable_prefix_caching: bool,
    /// Every prompt is one whole step and nothing is kept of it (bidirectional models): no chunks, no prefix cache, no
    /// tokens generated.
    pub whole_prompts: bool,
    /// Most tokens of one prefill chunk; `None` leaves it to the budget. Whole prompts have no chunks.
    pub max_chunk: Option<usize>,
    /// Most requests that wait for their first step.
    pub max_waiting: Option<usize>,
    /// Most prompt tokens of the requests that wait for their first step; one request is always let in.
    pub max_waiting_tokens: Option<usize>,
    /// Key of the prefix hash; random per process.
    pub prefix_hash: PrefixHash,
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
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
    /// A number of the policy that is zero, negative, not finite, or so large that counters would overflow.
    #[error("{field} is {value}; the policy cannot work with it")]
    Policy {
        /// Name of the number.
        field: &'static str,
        /// As given.
        value: f64,
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

impl SchedulerConfig {
    /// Whether a scheduler can work with it.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.groups.is_empty() {
            return Err(ConfigError::NoGroups);
        }
        for (group, &GroupConfig { num_blocks, .. }) in self.groups.iter().enumerate() {
            if !(1..=MAX_BLOCKS).contains(&num_blocks) {
                return Err(ConfigError::NumBlocks { group, num_blocks });
            }
        }
        for (field, value) in [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("vocab_size", self.vocab_size),
            ("max_chunk", self.max_chunk.unwrap_or(1)),
            ("rows_per_pass", self.rows_per_pass),
            ("background_tokens", self.background_tokens),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(ConfigError::Limit { field, value });
            }
        }
        if let Some(lookup) = &self.speculation {
            let (min, max) = (lookup.prompt_lookup_min, lookup.prompt_lookup_max);
            if min == 0 || max < min || max > MAX_LOOKUP {
                return Err(ConfigError::PromptLookup { min, max });
            }
        }
        match self.policy.invalid() {
            Some((field, value)) => Err(ConfigError::Policy { field, value }),
            None => Ok(()),
        }
    }

    /// Most sequences that run at once: each must be able to get its one token in every step.
    pub(super) fn max_running(&self) -> usize {
        self.max_num_seqs.min(self.max_num_batched_tokens)
    }

    /// Whether anybody drafts tokens that are not certain.
    pub(super) fn guesses(&self) -> bool {
        self.speculation.is_some() || self.draft_model.is_some()
    }

    /// The counters of fair share, for a cache of `capacity` tokens.
    pub(super) fn tenants(&self, capacity: usize) -> Option<Tenants> {
        let Policy::FairShare {
            input_weight,
            output_weight,
        } = self.policy
        else {
            return None;
        };
        // Everybody who runs has a block of its own.
        let max_running = self.max_running().min(capacity / BLOCK_SIZE);
        let max_drafts = if self.guesses() {
            self.rows_per_pass
        } else {
            0
        };
        Some(Tenants::new(
            (input_weight, output_weight),
            self.max_model_len.min(capacity),
            capacity,
            max_running + max_drafts,
        ))
    }
}
