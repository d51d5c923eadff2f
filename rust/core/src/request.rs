//! What callers hand in and get back.
//!
//! | file | holds |
//! |---|---|
//! | `request/refusal.rs` | why a request, or a call on a held sequence, is refused |
//! | `request/waiting.rs` | where a request is, and why it does not run |
//! | `request/output.rs` | results |
//! | `request/pooling.rs` | one vector of a text's hidden states |

mod output;
mod pooling;
mod refusal;
mod waiting;

use std::sync::Arc;

use inferlib_program::SamplingParams;
use inferlib_program::program::Rows;

pub use output::{FinishReason, RequestOutput, RunRecord, SequenceOutput, Timestamps};
pub use pooling::{Pooling, normalize};
pub use refusal::{PromptLimit, SequenceError, SubmitError};
pub use waiting::{RequestStatus, Standing, WaitReason, Waiting};

/// How much longer than until its deadline a request may run that closes a structure.
pub const CLOSING_SECONDS: f64 = 1.0;

/// Names a held sequence for as long as the scheduler lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// The held sequence that a request goes on from. Of its K and V the request shares what belongs to tokens that its
/// prompt begins with, too; the rest it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Which.
    pub sequence: SequenceId,
    /// When the request has ended, its prompt and output are the sequence's tokens. Only one such request at a time;
    /// one that is cancelled or fails leaves the sequence as it was.
    pub keep: bool,
}

/// A capture point of the program that a request wants rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturePoint {
    /// Its number in the program.
    pub point: u32,
    /// What its rows count: a row per prompt token; one per sequence, of the step that ends the prompt; or one per row of
    /// logits of the prompt: those that its log-probabilities score, and the one that the first token is drawn from.
    pub rows: Rows,
}

/// Rows of the forward pass over the prompt that are handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    /// Ascending by number.
    pub points: Vec<CapturePoint>,
    /// Position of the first prompt token whose rows are wanted, where rows are tokens. What lies before it may come
    /// from the prefix cache.
    pub start: usize,
}

/// One prompt and what to do with it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct NewRequest {
    /// Token ids, not empty.
    pub prompt: Vec<i32>,
    /// Resolved and validated.
    pub params: Arc<SamplingParams>,
    /// Sequences to generate; they share the prompt's blocks.
    pub n: u32,
    /// Key of the counter-based RNG, with the sequence's index and the token's position.
    pub seed: u64,
    /// Prefixes are shared only between requests of equal salt and adapter.
    pub cache_salt: Option<String>,
    /// Smaller runs first; equal ones in order of arrival. See [`crate::Policy`].
    pub priority: i32,
    /// Runs only where requests that are not in the background leave room, in small steps, and makes room for them at once.
    pub background: bool,
    /// Whom fair share counts it to; those that name none are one tenant.
    pub tenant: Option<String>,
    /// When it ends with what it has, on the clock that the caller passes as `now`.
    pub deadline: Option<f64>,
    /// At its deadline its running sequences have [`CLOSING_SECONDS`] more, in which the caller ends them: a structure is
    /// closed in a step or two.
    pub closes: bool,
    /// Look up tokens to draft for it, where the scheduler does so at all.
    pub speculation: bool,
    /// Ask the draft model, if there is one, to draft for it.
    pub draft_model: bool,
    /// A held sequence that it goes on from, whose salt it then has.
    pub continues: Option<Continuation>,
    /// What is handed out of the forward pass over the prompt.
    pub captures: Captures,
    /// Position at which the second of two texts begins.
    pub second_segment: Option<usize>,
    /// What the executor adapts the model's weights with for it, 0 for nothing. A number means the same weights as long as
    /// the scheduler lives: K and V depend on it.
    pub adapter: u32,
}

impl NewRequest {
    /// One sequence, seed 0, no salt, priority 0, not in the background, no tenant, no deadline, drafts allowed, from the beginning, no adapter.
    #[must_use]
    pub fn new(prompt: Vec<i32>, params: Arc<SamplingParams>) -> Self {
        Self {
            prompt,
            params,
            n: 1,
            seed: 0,
            cache_salt: None,
            priority: 0,
            background: false,
            tenant: None,
            deadline: None,
            closes: false,
            speculation: true,
            draft_model: true,
            continues: None,
            captures: Captures::default(),
            second_segment: None,
            adapter: 0,
        }
    }
}
