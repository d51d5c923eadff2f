//! What libFuzzer runs, one target per parser: `make fuzz`. Never part of the product.
//!
//! A [`Target`] parses bytes that may be anything, and looks at what it is given: an error is fine; a panic, memory beyond
//! twice the input and a constant, or more than a second is not. Without the feature `libfuzzer` this is an ordinary
//! crate, whose test replays all seeds: `seeds/<target>/` holds a few small files per target, and every input that was
//! once a finding.
//!
//! | file | holds |
//! |---|---|
//! | `targets.rs` | the targets, in one table |
//! | `weights.rs`, `text.rs`, `grammar.rs`, `decision_log.rs` | what each of them does |
//! | `mutate/` | mutations that know what the bytes mean |
//! | `samples.rs` | small valid files, written as seeds by `examples/seeds.rs` |
//! | `memory.rs`, `budget.rs` | memory and time, counted |
//! | `libfuzzer.rs`, `targets/` | the entry points of libFuzzer |

pub mod budget;
mod decision_log;
mod grammar;
#[cfg(feature = "libfuzzer")]
pub mod libfuzzer;
pub mod memory;
pub mod mutate;
mod random;
pub mod samples;
pub mod targets;
mod text;
mod weights;

pub use random::Random;
pub use targets::{TARGETS, Target};
pub use weights::scratch_folder;

/// The product's own file: `inferlib-python`, where it lies, cannot be linked to a program without Python.
#[path = "../../python/src/gguf_vocabulary.rs"]
mod gguf_vocabulary;
/// What the readers' tests are made of.
#[path = "../../weights/tests/readers/samples.rs"]
#[expect(
    clippy::unwrap_used,
    dead_code,
    reason = "written for tests, which unwrap"
)]
mod reader_samples;
#[path = "../../weights/tests/readers/writer.rs"]
#[expect(clippy::unwrap_used, reason = "written for tests, which unwrap")]
mod writer;
