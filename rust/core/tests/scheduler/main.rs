//! The scheduler from outside. One program: what the files share is compiled once, and linked once.
//!
//! | file | holds |
//! |---|---|
//! | `behaviour.rs`, `refusals.rs` | what a request sees, and what is refused |
//! | `policies.rs`, `policy_properties.rs` | who comes first, and who waits how long at most |
//! | `prefix_cache.rs`, `held_sequences.rs`, `captures.rs` | what is shared, what outlives a request, what is kept of logits |
//! | `drafts.rs`, `suggested.rs`, `forced.rs` | tokens that are proposed, by whom ever |
//! | `background.rs` | work for which nobody waits |
//! | `model.rs`, `kv_cache_model.rs` | the policies and the KV cache beside naive twins |
//! | `properties.rs`, `random_operations.rs`, `decision_log.rs` | whatever is done, in random order |
//! | `step_time.rs` | a measurement, for people |
//! | `pretended_executor`, `naive_scheduler`, `random_runs`, `lean_driver` | what they are made of |
#![allow(
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a test that unwraps says what it expects"
)]

mod background;
mod behaviour;
mod captures;
mod decision_log;
mod drafts;
mod forced;
mod held_sequences;
mod kv_cache_model;
mod lean_driver;
mod model;
mod naive_scheduler;
mod policies;
mod policy_properties;
mod prefix_cache;
mod pretended_executor;
mod properties;
mod random_operations;
mod random_runs;
mod refusals;
mod step_time;
mod suggested;
