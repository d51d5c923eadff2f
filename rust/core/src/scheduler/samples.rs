//! A small scheduler's limits and a short request, for the unit tests of its parts.

use super::{BACKGROUND_TOKENS, Policy, SchedulerConfig};
use crate::kv_cache::{GroupConfig, PrefixHash};
use crate::request::NewRequest;
use inferlib_program::SamplingParams;

pub(crate) fn config() -> SchedulerConfig {
    SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: 8,
            window: None,
        }],
        max_num_seqs: 2,
        max_num_batched_tokens: 64,
        max_model_len: 100,
        vocab_size: 50,
        speculation: None,
        draft_model: None,
        rows_per_pass: 6,
        policy: Policy::Fcfs,
        enable_prefix_caching: true,
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    }
}

pub(crate) fn request(token: i32) -> NewRequest {
    let params = SamplingParams {
        max_tokens: 8,
        ..SamplingParams::default()
    };
    NewRequest::new(vec![token; 20], params.into())
}
