//! What a request brought: tokens, why they ended, when, and how it was run.

use inferlib_program::{RequestId, RowLogprobs};

use super::WaitReason;

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
    /// Parallel to the points of [`super::NewRequest::captures`]: their rows, one after another.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_reasons_are_one_to_one() {
        let names = ["stop", "length", "abort", "error", "deadline", "abstain"];
        for name in names {
            assert_eq!(FinishReason::from_name(name).unwrap().as_str(), name);
        }
        assert_eq!(FinishReason::from_name("Stop"), None);
        assert_eq!(FinishReason::from_name(""), None);
    }
}
