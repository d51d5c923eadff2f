//! Cold per-request state: read when a request is admitted, appended to when a token was drawn.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::SchedulerConfig;
use crate::kv_cache::TokenView;
use crate::request::{
    Captures, Continuation, NewRequest, RequestOutput, RunRecord, SequenceOutput, Timestamps,
    WaitReason,
};
use inferlib_program::RequestId;
use inferlib_program::SamplingParams;
use inferlib_program::program::Rows;

/// Most drafted tokens of a sequence of a request in one step, by who drafts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaxDrafts {
    /// By prompt lookup.
    pub(super) lookup: usize,
    /// By the draft model.
    pub(super) model: usize,
}

impl MaxDrafts {
    /// A sequence's last row is that of its last token, not of a guess; what mirostat keeps depends on what was drawn before.
    pub(super) fn of(config: &SchedulerConfig, new: &NewRequest) -> Self {
        let of_last = [Rows::Sequences, Rows::Sampled]
            .iter()
            .any(|&rows| captures(&new.captures, rows));
        if of_last || new.params.mirostat.is_some() {
            return Self::default();
        }
        let lookup = config.speculation.filter(|_| new.speculation);
        let model = config.draft_model.filter(|_| new.draft_model);
        Self {
            lookup: lookup.map_or(0, |lookup| lookup.num_speculative_tokens),
            model: model.map_or(0, |model| model.num_speculative_tokens),
        }
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Request {
    pub(super) params: Arc<SamplingParams>,
    pub(super) seed: u64,
    pub(super) cache_salt: Option<String>,
    pub(super) priority: i32,
    pub(super) background: bool,
    pub(super) deadline: Option<f64>,
    /// Its running sequences outlive the deadline for a moment.
    pub(super) closes: bool,
    /// The held sequence that it goes on from.
    pub(super) continues: Option<Continuation>,
    /// What it is computed with; 0 is the model alone.
    pub(super) adapter: u32,
    /// Effective: capped by context and KV cache.
    pub(super) max_tokens: usize,
    /// Slots of the living sequences, `[n]`.
    pub(super) slots: Vec<Option<usize>>,
    /// Was scheduled at least once.
    pub(super) started: bool,
    /// Some sequence computed the whole prompt: the others may run.
    pub(super) prompt_done: bool,
    /// Position of the next prompt token whose log-probability is wanted; the prompt's length when there is none.
    pub(super) next_scored: usize,
    /// What is handed out of the forward pass over the prompt.
    pub(super) captures: Captures,
    /// Position of the next prompt token whose rows are handed out; the prompt's length when there is none.
    pub(super) next_captured: usize,
    /// Position at which the second of two texts begins; the prompt's length when there is none.
    pub(super) second_segment: usize,
    pub(super) max_drafts: MaxDrafts,
    /// The scheduler's counts of steps that let nobody in, by reason, when it was submitted.
    pub(super) refusals: [u64; WaitReason::ALL.len()],
    /// Sampling reads the tokens so far.
    pub(super) needs_history: bool,
    /// Mirostat's limits, `[n]`; empty without it.
    pub(super) mirostat_mu: Vec<f32>,
    pub(super) output: RequestOutput,
}

impl Request {
    pub(super) fn new(
        id: RequestId,
        new: NewRequest,
        max_tokens: usize,
        max_drafts: MaxDrafts,
        now: f64,
    ) -> Self {
        let params = new.params;
        let scored = params.prompt_logprobs.is_some();
        let start = (params.prompt_logprobs_start as usize)
            .max(1)
            .min(new.prompt.len());
        let sequence = || SequenceOutput {
            token_ids: Vec::with_capacity(max_tokens.min(4096)),
            ..SequenceOutput::default()
        };
        Self {
            seed: new.seed,
            cache_salt: new.cache_salt,
            priority: new.priority,
            background: new.background,
            deadline: new.deadline,
            closes: new.closes,
            continues: new.continues,
            adapter: new.adapter,
            max_tokens,
            slots: Vec::with_capacity(new.n as usize),
            started: false,
            prompt_done: false,
            next_scored: if scored { start } else { new.prompt.len() },
            next_captured: if captures(&new.captures, Rows::Tokens) {
                new.captures.start
            } else {
                new.prompt.len()
            },
            second_segment: new.second_segment.unwrap_or(new.prompt.len()),
            max_drafts,
            refusals: [0; WaitReason::ALL.len()],
            needs_history: params.needs_history(),
            mirostat_mu: params.mirostat.map_or_else(Vec::new, |mirostat| {
                vec![mirostat.first_mu(); new.n as usize]
            }),
            output: RequestOutput {
                request_id: id,
                sequences: (0..new.n).map(|_| sequence()).collect(),
                prompt_logprobs: scored.then(|| Vec::with_capacity(new.prompt.len() - start)),
                prompt_logprobs_start: start,
                captures: vec![Vec::new(); new.captures.points.len()],
                prompt_token_ids: new.prompt,
                num_cached_tokens: 0,
                num_preemptions: 0,
                num_drafted_tokens: 0,
                num_accepted_tokens: 0,
                num_model_drafted_tokens: 0,
                num_model_accepted_tokens: 0,
                num_forced_tokens: 0,
                timestamps: Timestamps {
                    arrival: now,
                    ..Timestamps::default()
                },
                run: RunRecord::default(),
            },
            captures: new.captures,
            params,
        }
    }

    pub(super) fn mirostat_mu(&self, sequence_index: u32) -> f32 {
        let mu = self.mirostat_mu.get(sequence_index as usize);
        mu.copied().unwrap_or(0.0)
    }

    pub(super) fn num_prompt_tokens(&self) -> usize {
        self.output.prompt_token_ids.len()
    }

    pub(super) fn tokens(&self, sequence_index: u32) -> TokenView<'_> {
        TokenView {
            prompt: &self.output.prompt_token_ids,
            output: &self.output.sequences[sequence_index as usize].token_ids,
        }
    }

    /// Most tokens that may come from the prefix cache when a sequence of `num_tokens` is admitted: the last one is
    /// computed for its logits, and so is every position whose successor's log-probability is wanted, or whose rows are.
    pub(super) fn max_cached_tokens(&self, num_tokens: usize) -> usize {
        let unscored = if self.next_scored < self.num_prompt_tokens() {
            self.next_scored - 1
        } else {
            num_tokens - 1
        };
        if self.next_captured < self.num_prompt_tokens() {
            unscored.min(self.next_captured)
        } else {
            unscored
        }
    }
}

/// Whether such rows are wanted.
fn captures(captures: &Captures, rows: Rows) -> bool {
    captures.points.iter().any(|point| point.rows == rows)
}

/// Requests by index; an id is the index and a generation.
#[derive(Debug, Default)]
pub(super) struct Requests {
    entries: Vec<Option<Request>>,
    generations: Vec<u32>,
    free: Vec<usize>,
}

impl Requests {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    pub(super) fn index(id: RequestId) -> usize {
        id.0 as u32 as usize
    }

    pub(super) fn insert(&mut self, make: impl FnOnce(RequestId) -> Request) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.generations.push(0);
            self.entries.len() - 1
        });
        let id = RequestId(u64::from(self.generations[index]) << 32 | index as u64);
        self.entries[index] = Some(make(id));
        id
    }

    /// The index of a request that was not removed.
    pub(super) fn find(&self, id: RequestId) -> Option<usize> {
        let index = Self::index(id);
        let current = u64::from(*self.generations.get(index)?) == id.0 >> 32;
        (current && self.entries[index].is_some()).then_some(index)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let index = self.find(id)?;
        let request = self.entries[index].take();
        // An index whose 31 bits of generations are used up retires (ids stay positive as int64).
        if self.generations[index] < u32::MAX >> 1 {
            self.generations[index] += 1;
            self.free.push(index);
        }
        request
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Request)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| entry.as_ref().map(|request| (index, request)))
    }
}

impl Index<usize> for Requests {
    type Output = Request;

    fn index(&self, index: usize) -> &Request {
        self.entries[index]
            .as_ref()
            .expect("a living sequence's request is kept")
    }
}

impl IndexMut<usize> for Requests {
    fn index_mut(&mut self, index: usize) -> &mut Request {
        self.entries[index]
            .as_mut()
            .expect("a living sequence's request is kept")
    }
}
