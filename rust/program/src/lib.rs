//! What executors read, as plain data: the recorded forward pass (`Program`), one step of it (`Batch`), and how tokens
//! are drawn (`SamplingParams`). No Python, no `unsafe`, no behaviour but checks.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::allow_attributes,
        reason = "a test that unwraps says what it expects"
    )
)]

pub mod batch;
mod dataflow;
mod op_shapes;
pub mod program;
mod program_text;
mod record_error;
pub mod recorder;
pub mod sampling;
pub mod validation;

pub use batch::{
    Batch, CapturedRows, GroupBatch, LogitsRow, RequestId, RowLogprobs, RowStatus, SampledRow,
    StepOutput,
};
pub use program::Program;
pub use record_error::RecordError;
pub use recorder::ProgramRecorder;
pub use sampling::{Dry, LogprobsMode, Mirostat, SamplingParams};
pub use validation::InvalidParam;

/// Token slots per KV block, on every executor.
pub const BLOCK_SIZE: usize = 16;
