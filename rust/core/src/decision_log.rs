//! The decision log: everything that a scheduler was told, and what it decided, as one compact file that only grows.
//!
//! A log replays through a fresh scheduler ([`replay`]), which must decide the same, step by step: for bug reports, for
//! questions of the kind "why did my request wait?", and for tests. It holds the prompts and the generated tokens, no
//! texts, and no parameters of sampling that the scheduler does not look at.
//!
//! | file | holds |
//! |---|---|
//! | `decision_log/codec.rs` | numbers, lists, frames with checksums |
//! | `decision_log/config.rs`, `records.rs` | the header; one record per call |
//! | `decision_log/fields.rs`, `digests.rs` | what records consist of; what decisions are compared by |
//! | `decision_log/writer.rs` | what the scheduler calls |
//! | `decision_log/replay.rs` | the reader |
//!
//! A file is the magic number, a version, then frames: length, payload, checksum. The first frame is the configuration,
//! every other one a call. Off, it costs a branch per call; on, a few bytes per row, and a write
//! per call.

#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod codec;
#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod config;
#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod digests;
#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod fields;
#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod records;
#[cfg_attr(not(test), deny(clippy::expect_used, clippy::unwrap_used))]
mod replay;
#[cfg(test)]
mod tests;
mod writer;

pub use codec::Damage;
pub use fields::PlannedRow;
pub use replay::{Replay, ReplayError, replay};
pub(crate) use writer::DecisionLog;

/// The first bytes of a log.
const MAGIC: &[u8; 8] = b"INFLDLOG";

/// Of the format. A reader refuses others.
const VERSION: u8 = 3;

/// Longest payload of a frame: a record of a call with a prompt of 64 M tokens fits.
const MAX_FRAME_BYTES: u64 = 1 << 28;
