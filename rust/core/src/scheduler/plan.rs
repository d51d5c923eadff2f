//! `schedule`: decode rows first, then prefill chunks, then admissions, in order of rank under one token budget; drafts
//! in what is left; then the background.

use super::Scheduler;
use crate::drafting::DraftSource;
use crate::request::WaitReason;
use inferlib_program::Batch;

/// One sequence of the step in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scheduled {
    pub(super) slot: usize,
    /// Differs from the slot's if the sequence ended meanwhile.
    pub(super) generation: u32,
    /// Drafted ones included.
    pub(super) num_tokens: usize,
    /// The last of them, which nobody has drawn yet.
    pub(super) num_drafts: usize,
    /// Who guessed them; `None`: they are certain.
    pub(super) draft_source: Option<DraftSource>,
    /// Where they begin in `Drafts::tokens`.
    pub(super) draft_start: usize,
    /// Rows of logits that score prompt tokens.
    pub(super) num_scored: usize,
    /// Further rows, from which tokens are drawn: the next one, and the one behind each drafted token.
    pub(super) num_sampled: usize,
    /// Its entries in `Batch::captures`.
    pub(super) num_captures: usize,
}

impl Scheduled {
    /// Its rows of logits.
    pub(super) fn num_rows(&self) -> usize {
        self.num_scored + self.num_sampled
    }

    /// Those of the prompt that are handed out if wanted: the scored ones, and the one that the first token is drawn from.
    /// They are the first ones.
    pub(super) fn num_prompt_logits(&self, prompt_done: bool) -> usize {
        if prompt_done {
            return 0; // what is computed again was handed out before
        }
        self.num_scored + self.num_sampled.min(1)
    }
}

impl Scheduler {
    /// Plan a step; `None` when there is nothing to do. A step still in flight is discarded.
    pub fn schedule(&mut self, now: f64) -> Option<&Batch> {
        let mut batch = std::mem::take(&mut self.batch);
        let planned = self.schedule_into(&mut batch, now);
        self.batch = batch;
        planned.then_some(&self.batch)
    }

    /// [`Scheduler::schedule`] into a batch of the caller, which then need not borrow the scheduler while it runs.
    /// The batch is refilled; its buffers are reused.
    pub fn schedule_into(&mut self, batch: &mut Batch, now: f64) -> bool {
        self.drop_step();
        self.end_overdue(now);
        self.kv.clear_announced();
        let mut budget = self.config.max_num_batched_tokens;
        let num_preemptions = self.totals.num_preemptions;
        self.plan_decode_rows(false, &mut budget);
        self.plan_prefill_chunks(false, &mut budget);
        // What was just taken from a victim is not given to somebody else, unless that is whose turn it is.
        let refusal = if num_preemptions == self.totals.num_preemptions || self.tenants.is_some() {
            self.plan_admissions(false, &mut budget, now)
        } else {
            Some(WaitReason::Preemption)
        };
        let kept_back = self.plan_background(&mut budget, now);
        self.note_refusal(refusal, kept_back);
        self.plan_drafts(&mut budget);
        debug_assert!(
            !self.scheduled.is_empty() || !self.has_work(),
            "every step advances a sequence"
        );
        self.fill(batch);
        self.totals.num_scheduled_tokens += batch.num_tokens() as u64;
        if let Some(mut log) = self.log.take() {
            log.schedule(self.planned(), batch, now);
            self.log = Some(log);
        }
        !self.scheduled.is_empty()
    }

    /// The step failed or was interrupted: nothing counts as computed, and the next `schedule` plans it again.
    pub fn discard_step(&mut self) {
        self.drop_step();
        if let Some(log) = &mut self.log {
            log.discard();
        }
    }

    fn drop_step(&mut self) {
        let mut scheduled = std::mem::take(&mut self.scheduled);
        for entry in scheduled.drain(..) {
            if self.sequences.generation[entry.slot] == entry.generation {
                self.drop_draft_blocks(entry.slot);
            }
        }
        self.scheduled = scheduled;
    }

    /// A sequence keeps the blocks of its own tokens only.
    pub(super) fn drop_draft_blocks(&mut self, slot: usize) {
        self.kv.shrink(slot, self.sequences.num_tokens[slot]);
    }

    /// Of the background, or of all others.
    pub(super) fn plan_decode_rows(&mut self, of_background: bool, budget: &mut usize) {
        let mut places = self.places(of_background);
        let mut place = places.start;
        while place < places.end && *budget > 0 {
            let slot = self.running[place];
            let num_running = self.running.len();
            if self.sequences.remaining(slot) == 1 && self.make_room(slot, budget) {
                self.plan(slot, 1, budget);
            }
            place = if self.running.len() == num_running {
                place + 1
            } else {
                places = self.places(of_background);
                self.num_running_up_to(self.sequences.rank[slot]) // victims may have stood in front
            };
        }
    }

    /// As [`Scheduler::plan_decode_rows`].
    pub(super) fn plan_prefill_chunks(&mut self, of_background: bool, budget: &mut usize) {
        for place in self.places(of_background) {
            if *budget == 0 {
                return;
            }
            let slot = self.running[place];
            if self.sequences.remaining(slot) > 1 {
                self.plan_chunk(slot, budget); // has had its blocks since admission
            }
        }
    }

    pub(super) fn plan_chunk(&mut self, slot: usize, budget: &mut usize) {
        let chunk = self.config.max_chunk.filter(|_| !self.config.whole_prompts);
        let most = chunk.unwrap_or(usize::MAX).min(*budget);
        let num_tokens = self.sequences.remaining(slot).min(most);
        // Who runs was let in by one step, which had room for all of them.
        debug_assert!(!self.config.whole_prompts || num_tokens == self.sequences.num_tokens[slot]);
        self.plan(slot, num_tokens, budget);
        if !self.waiting.is_empty() || !self.background.is_empty() {
            let tokens = self.requests[self.sequences.request[slot]]
                .tokens(self.sequences.rank[slot].sequence_index);
            let end = self.sequences.num_computed_tokens[slot] + num_tokens;
            self.kv.announce(slot, tokens, end);
        }
    }

    fn plan(&mut self, slot: usize, num_tokens: usize, budget: &mut usize) {
        *budget -= num_tokens;
        self.scheduled.push(Scheduled {
            slot,
            generation: self.sequences.generation[slot],
            num_tokens,
            num_drafts: 0,
            draft_source: None,
            draft_start: 0,
            num_scored: 0,
            num_sampled: 0,
            num_captures: 0,
        });
    }
}
