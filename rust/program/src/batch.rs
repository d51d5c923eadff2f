//! All that one step needs, as flat arrays that live as long as the scheduler and are refilled each step.
//!
//! `[num_tokens]` rows are the scheduled tokens, sequence after sequence; row `query_start_loc[i]` is the first of
//! sequence `i`. Block tables and slots exist once per KV group.

use std::sync::Arc;

use crate::sampling::SamplingParams;

/// Names a request for as long as the scheduler lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Block tables and slots of one KV group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupBatch {
    /// `[num_tokens]`: `block_id * block_size + offset` where each token's K and V go.
    pub slot_mapping: Vec<i32>,
    /// `[num_seqs + 1]`: where each sequence's blocks begin in `block_tables`.
    pub block_table_start_loc: Vec<i32>,
    /// Block ids in sequence order. Entry `j` of a sequence covers positions `j * block_size ..`. Entries wholly in
    /// front of a sliding window may name a block that is no longer theirs: attention must not visit them.
    pub block_tables: Vec<i32>,
    /// Blocks to copy before the step, `[source, target]` pairs flattened (copy-on-write of partial blocks).
    pub block_copies: Vec<i32>,
}

/// Why a row's logits are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsRow {
    /// Draw the sequence's next token.
    Sample,
    /// Report the log-probability of the prompt's own next token (`prompt_logprobs`).
    Score {
        /// The token that follows.
        target: i32,
    },
}

/// What a row of logits is for, and how to sample it.
#[derive(Clone, Debug)]
pub struct SampledRow {
    /// Sample or score.
    pub kind: LogitsRow,
    /// Index of the sequence in this batch.
    pub sequence: u32,
    /// Whose sequence it is.
    pub request: RequestId,
    /// Resolved parameters of the request, shared by its rows.
    pub params: Arc<SamplingParams>,
    /// Counter-RNG key: `(seed, sequence_index, position)`; `position` is that of the token being drawn.
    pub seed: u64,
    /// Which of the request's `n` sequences.
    pub sequence_index: u32,
    /// Position of the token being drawn.
    pub position: u32,
    /// Output tokens so far (for `min_tokens`).
    pub num_output_tokens: u32,
    /// `history[history_start .. history_start + num_prompt + num_output]` holds prompt and output tokens when
    /// penalties or bad words need them; empty range otherwise.
    pub history_start: u32,
    /// Prompt tokens in the history range.
    pub history_prompt_len: u32,
    /// Output tokens in the history range.
    pub history_output_len: u32,
    /// Mirostat's limit of surprise, in bits, from the sequence's draws so far; 0 without it.
    pub mirostat_mu: f32,
    /// If present, only tokens whose bit is set may be drawn: bit `id % 32` of word `id / 32`. Filled in between
    /// `schedule` and the executor, by whoever knows the sequence's grammar.
    pub mask: Option<Arc<[u32]>>,
    /// The row's logits are handed out (`StepOutput::logits`), and nothing is drawn. Filled in as `mask` is.
    pub wants_logits: bool,
}

/// Rows of a capture point that a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedRows {
    /// Number of the point in the program.
    pub point: u32,
    /// First row: a token's, or a sequence's where the point's rows are sequences.
    pub start: u32,
    /// One past the last row.
    pub end: u32,
}

/// The input of one step.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Increases by one per scheduled step.
    pub step: u64,
    /// `[num_tokens]`.
    pub token_ids: Vec<i32>,
    /// `[num_tokens]`: absolute positions.
    pub positions: Vec<i32>,
    /// `[num_tokens]`: 1 for tokens of a sequence's second text, else 0. Empty if all are 0.
    pub segment_ids: Vec<i32>,
    /// `[num_seqs + 1]`.
    pub query_start_loc: Vec<i32>,
    /// `[num_seqs]`: tokens in the cache after this step (`num_computed_tokens` + scheduled).
    pub seq_lens: Vec<i32>,
    /// `[num_seqs]`: the adapter that each sequence is computed with, 0 for none; empty if nobody has one.
    pub adapters: Vec<u32>,
    /// One per KV group of the program.
    pub groups: Vec<GroupBatch>,
    /// `[num_sampled]`: ascending token rows whose logits are wanted.
    pub logits_indices: Vec<i32>,
    /// `[num_sampled]`.
    pub sampled: Vec<SampledRow>,
    /// Token histories that sampling needs, flattened.
    pub history: Vec<i32>,
    /// What is to be handed out of the forward pass, sequence after sequence.
    pub captures: Vec<CapturedRows>,
}

impl Batch {
    /// Scheduled tokens.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Sequences in this step.
    #[must_use]
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Rows of logits in this step.
    #[must_use]
    pub fn num_sampled(&self) -> usize {
        self.logits_indices.len()
    }
}

/// Log-probabilities of one row: the chosen (or scored) token's, then the best `k`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowLogprobs {
    /// Log-probability of the chosen token.
    pub logprob: f32,
    /// Its rank, 1 for the most likely (ties: lower ids first).
    pub rank: u32,
    /// Ids of the most likely tokens, best first (ties: lower ids first).
    pub top_ids: Vec<i32>,
    /// Their log-probabilities.
    pub top_logprobs: Vec<f32>,
}

/// What became of one row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    /// A token was drawn or scored.
    Ok,
    /// The logits held NaN, or nothing was left to draw from: the request ends with `finish_reason="error"`.
    Failed,
    /// The token drawn must not be appended: it would leave the sequence's grammar no room to end. Never said by an
    /// executor. Nothing of the row counts; the next step computes it again, with that token forbidden.
    Redraw,
}

/// The result of one step, parallel to `Batch::sampled`.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// `[num_sampled]`: drawn token, or the target of a scored row.
    pub token_ids: Vec<i32>,
    /// `[num_sampled]`.
    pub status: Vec<RowStatus>,
    /// `[num_sampled]`: present where the request asked for log-probabilities.
    pub logprobs: Vec<Option<RowLogprobs>>,
    /// Parallel to `Batch::captures`: the rows, one after another.
    pub captures: Vec<Vec<f32>>,
    /// Mirostat's next limits, with their rows, ascending.
    pub mirostat_mu: Vec<(usize, f32)>,
    /// The model's own logits of rows that want them, with their rows, ascending. Their status is `Failed` until somebody
    /// draws from them.
    pub logits: Vec<(usize, Vec<f32>)>,
}
