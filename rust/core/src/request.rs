//! What callers hand in and get back: requests, their results, and why a request is refused.

use std::sync::Arc;

use inferlib_program::program::Rows;
use inferlib_program::{RequestId, RowLogprobs, SamplingParams};

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

/// Which limit a prompt exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptLimit {
    /// `max_model_len`.
    Context,
    /// Blocks of the smallest KV group.
    KvCache,
    /// `max_num_batched_tokens`, where a prompt has to be one step.
    Step,
}

/// Why a request is refused at once. Nothing of it stays behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No token to start from.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// It could never run.
    #[error(
        "this prompt has {prompt_tokens} tokens but {} holds {limit}; {}",
        match because {
            PromptLimit::Context => "the context",
            PromptLimit::KvCache => "the KV cache",
            PromptLimit::Step => "a step",
        },
        match because {
            PromptLimit::Context => "shorten it or raise max_model_len",
            PromptLimit::KvCache => "shorten it or raise kv_cache",
            PromptLimit::Step => "shorten it or raise max_num_batched_tokens",
        }
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Longest prompt that is possible, with room for one generated token if one is wanted.
        limit: usize,
        /// What limits it.
        because: PromptLimit,
    },
    /// A token id that the model does not have.
    #[error("prompt token {index} is {token}; the model's ids are 0 to {}", vocab_size - 1)]
    TokenOutOfRange {
        /// Position in the prompt.
        index: usize,
        /// The id.
        token: i32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// A sampling parameter that is out of range, or names a token that the model does not have.
    #[error(transparent)]
    InvalidParams(#[from] inferlib_program::InvalidParam),
    /// `n` is out of range.
    #[error("n is {n}; it can be 1 to {limit}")]
    InvalidN {
        /// As given.
        n: u32,
        /// Most sequences of a request.
        limit: u32,
    },
    /// A request for tokens, or from a held sequence, where prompts are whole steps and nothing is kept of them.
    #[error("{field} is not possible: this model reads whole texts and generates nothing")]
    WholePrompts {
        /// What was asked for.
        field: &'static str,
    },
    /// What is to be captured is no range of the prompt, or not in order.
    #[error("captures must begin within the prompt and name each point once, in order")]
    InvalidCaptures,
    /// A held sequence's K and V are the model's own.
    #[error("a sequence is the model's own: it cannot go on with an adapter")]
    AdaptedSequence,
    /// A deadline that is no moment.
    #[error("deadline must be a finite number of seconds")]
    InvalidDeadline,
    /// The held sequence that it is to go on from does not allow it.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The queue is full; try again later.
    #[error(
        "{waiting} requests with {waiting_tokens} prompt tokens are waiting already; try again later"
    )]
    Overloaded {
        /// Requests in the queue.
        waiting: usize,
        /// Their prompt tokens.
        waiting_tokens: usize,
    },
}

/// Why an operation on a held sequence is refused. Nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// There is none of this id.
    #[error("the sequence is closed")]
    Closed,
    /// A request that will change it is running.
    #[error("another call is extending this sequence; wait for it, or fork the sequence")]
    Busy,
    /// The prompt of a request that is to change it does not begin with its tokens.
    #[error("another call has changed this sequence meanwhile; try again")]
    Changed,
    /// More tokens than it has.
    #[error("the sequence has {num_tokens} tokens, {wanted} cannot be taken off")]
    TooShort {
        /// Tokens of the sequence.
        num_tokens: usize,
        /// As given.
        wanted: usize,
    },
    /// Its request must have one sequence.
    #[error("a request that extends a sequence has n = 1, not {n}; fork the sequence instead")]
    SeveralSequences {
        /// As given.
        n: u32,
    },
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence token, a stop token or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The caller gave up.
    Abort,
    /// The model's logits were not numbers, or nothing was left to draw from.
    Error,
    /// It was not done in time.
    Deadline,
    /// The caller finds the model too unsure to go on.
    Abstain,
}

impl FinishReason {
    /// As in `Completion.finish_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
            Self::Deadline => "deadline",
            Self::Abstain => "abstain",
        }
    }

    /// The reverse of [`FinishReason::as_str`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Stop,
            Self::Length,
            Self::Abort,
            Self::Error,
            Self::Deadline,
            Self::Abstain,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
    }
}

/// Where a request is. One of several sequences may be elsewhere; this is the one that is furthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestStatus {
    /// Never scheduled.
    Waiting,
    /// At least one sequence has blocks.
    Running,
    /// Scheduled once, but every unfinished sequence lost its blocks and waits.
    Preempted,
    /// Every sequence ended.
    Finished,
}

impl RequestStatus {
    /// In lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Preempted => "preempted",
            Self::Finished => "finished",
        }
    }
}

/// One of a request's `n` sequences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceOutput {
    /// Generated tokens, an end or stop token included.
    pub token_ids: Vec<i32>,
    /// Parallel to `token_ids`; empty unless log-probabilities were asked for.
    pub logprobs: Vec<RowLogprobs>,
    /// `None` while it lives.
    pub finish_reason: Option<FinishReason>,
    /// The stop token that ended it; `None` for an end-of-sequence token and every other reason.
    pub stop_token_id: Option<i32>,
}

/// When things happened, in seconds of the clock that the caller passes as `now`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timestamps {
    /// Submitted.
    pub arrival: f64,
    /// First step that holds a token of it.
    pub first_scheduled: Option<f64>,
    /// The prompt's last token was computed.
    pub prefill_done: Option<f64>,
    /// First generated token.
    pub first_token: Option<f64>,
    /// Latest generated token.
    pub last_token: Option<f64>,
    /// The last sequence ended.
    pub finished: Option<f64>,
}

/// Why those who wait for blocks are not let in by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// Too few free blocks for the first of them, beside a spare one for everybody who runs.
    Blocks,
    /// `max_num_seqs` sequences run.
    MaxNumSeqs,
    /// Those who run use `max_num_batched_tokens` up.
    TokenBudget,
    /// The step had to take somebody's blocks away.
    Preemption,
    /// They are in the background, and others have prompts to read.
    Foreground,
}

impl WaitReason {
    /// All reasons, in the order of [`RunRecord::waited_for`].
    pub const ALL: [Self; 5] = [
        Self::Blocks,
        Self::MaxNumSeqs,
        Self::TokenBudget,
        Self::Preemption,
        Self::Foreground,
    ];

    /// In lower case, words joined by `_`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::MaxNumSeqs => "max_num_seqs",
            Self::TokenBudget => "token_budget",
            Self::Preemption => "preemption",
            Self::Foreground => "foreground",
        }
    }
}

/// How a request was run, in steps: for people. No result depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunRecord {
    /// Steps of its sequences, each counted by itself.
    pub num_steps: u64,
    /// Of these, steps that computed tokens which were there already: the prompt's, or what a preemption lost.
    pub num_prefill_steps: u64,
    /// Tokens that they computed.
    pub num_prefill_tokens: u64,
    /// Most sequences in a step of its own.
    pub max_batch_seqs: u64,
    /// Sum over its steps of the sequences in them.
    pub sum_batch_seqs: u64,
    /// Steps in which it stood back, since another request was computing a prefix that they share.
    pub num_deferrals: u64,
    /// Steps that passed before its first, by why nobody more was let in.
    pub waited_for: [u64; WaitReason::ALL.len()],
}

/// What a waiting request's place comes from, by policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// When it came, among those of its priority.
    Arrival {
        /// As submitted.
        priority: i32,
    },
    /// Its priority, bettered by what it waited.
    Priority {
        /// As submitted.
        priority: i32,
        /// Less a class for every `steps_per_class` steps since, rounded down.
        effective: i64,
    },
    /// What its tenant got so far.
    FairShare {
        /// Its tenant's counter, in weighted tokens.
        service: u64,
        /// The smallest counter of those who wait.
        least_service: u64,
    },
    /// When it must be done.
    Deadline {
        /// On the caller's clock, in seconds.
        due: f64,
        /// Whether that is its own deadline, or what the policy gives those without one.
        is_own: bool,
    },
}

/// Why a request does not run now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// Of the latest step; `None`: no step was planned since, or it let everybody in.
    pub reason: Option<WaitReason>,
    /// Sequences that wait in front of it.
    pub num_ahead: usize,
    /// Blocks for its tokens, if none were shared.
    pub num_needed_blocks: usize,
    /// Free ones of the smallest KV group.
    pub num_free_blocks: usize,
    /// Sequences that run.
    pub num_running_seqs: usize,
    /// Whether it ran before and was preempted.
    pub is_preempted: bool,
    /// What its place in the queue comes from.
    pub standing: Standing,
}

/// Results of a request, growing while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestOutput {
    /// Whose.
    pub request_id: RequestId,
    /// The prompt, as submitted.
    pub prompt_token_ids: Vec<i32>,
    /// `[n]`.
    pub sequences: Vec<SequenceOutput>,
    /// Log-probabilities of the prompt tokens at positions `prompt_logprobs_start ..`, where asked for. Position 0 has
    /// none, since nothing precedes it: the first entry is that of position 1 at the earliest.
    pub prompt_logprobs: Option<Vec<RowLogprobs>>,
    /// Position of the first entry of `prompt_logprobs`.
    pub prompt_logprobs_start: usize,
    /// Parallel to the points of [`NewRequest::captures`]: their rows, one after another.
    pub captures: Vec<Vec<f32>>,
    /// Prompt tokens whose K and V were found in the prefix cache when the request first ran.
    pub num_cached_tokens: usize,
    /// How often a sequence of it lost its blocks.
    pub num_preemptions: u32,
    /// Tokens drafted for it, as far as the model verified them.
    pub num_drafted_tokens: u64,
    /// Of these, tokens that were drawn: steps saved.
    pub num_accepted_tokens: u64,
    /// Of the drafted tokens, those of the draft model.
    pub num_model_drafted_tokens: u64,
    /// Of these, tokens that were drawn.
    pub num_model_accepted_tokens: u64,
    /// Tokens that were known before their rows were computed (a grammar left no other): steps saved.
    pub num_forced_tokens: u64,
    /// When things happened.
    pub timestamps: Timestamps,
    /// How it was run.
    pub run: RunRecord,
}

impl RequestOutput {
    /// Whether every sequence ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.timestamps.finished.is_some()
    }
}
