//! Why a request, or a call on a held sequence, is refused at once.

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
