//! `schedule`: decode rows first, then prefill chunks, then admissions, in order of rank under one token budget; drafts
//! in what is left.

use std::ops::Bound::{Excluded, Unbounded};

use super::Scheduler;
use super::requests::Request;
use super::sequences::SequenceStatus;
use crate::batch::Batch;
use crate::request::WaitReason;

/// Most sequences of a step that are left waiting for a prefix which somebody else computes; bounds the time spent on
/// looking past them.
const MAX_DEFERRED: usize = 16;

/// What became of a sequence that wanted blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Admitted,
    /// Its next block is being computed in this step by another sequence: in the next step it is a cache hit.
    Deferred,
    /// There is no room.
    Refused,
}

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
    /// Where they begin in `Drafts::tokens`.
    pub(super) draft_start: usize,
    /// Rows of logits that score prompt tokens.
    pub(super) num_scored: usize,
    /// Further rows, from which tokens are drawn: the next one, and the one behind each drafted token.
    pub(super) num_sampled: usize,
}

impl Scheduled {
    /// Its rows of logits.
    pub(super) fn num_rows(&self) -> usize {
        self.num_scored + self.num_sampled
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
        self.discard_step();
        self.kv.clear_announced();
        let mut budget = self.config.max_num_batched_tokens;
        let num_preemptions = self.totals.num_preemptions;
        self.plan_decode_rows(&mut budget);
        self.plan_prefill_chunks(&mut budget);
        // What was just taken from a victim is not given to somebody else.
        let refusal = if num_preemptions == self.totals.num_preemptions {
            self.plan_admissions(&mut budget, now)
        } else {
            Some(WaitReason::Preemption)
        };
        self.note_refusal(refusal);
        self.plan_drafts(&mut budget);
        debug_assert!(
            !self.scheduled.is_empty() || !self.has_work(),
            "every step advances a sequence"
        );
        self.fill(batch);
        self.totals.num_scheduled_tokens += batch.num_tokens() as u64;
        !self.scheduled.is_empty()
    }

    /// The step failed or was interrupted: nothing counts as computed, and the next `schedule` plans it again.
    pub fn discard_step(&mut self) {
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

    fn plan_decode_rows(&mut self, budget: &mut usize) {
        let mut place = 0;
        // Victims come from the end of `running` and are not planned yet, since places are planned in order.
        while place < self.running.len() && *budget > 0 {
            let slot = self.running[place];
            if self.sequences.remaining(slot) == 1 && self.make_room(slot) {
                self.plan(slot, 1, budget);
            }
            place += 1;
        }
    }

    fn plan_prefill_chunks(&mut self, budget: &mut usize) {
        for place in 0..self.running.len() {
            if *budget == 0 {
                return;
            }
            let slot = self.running[place];
            if self.sequences.remaining(slot) > 1 {
                self.plan_chunk(slot, budget); // has had its blocks since admission
            }
        }
    }

    /// Let waiting sequences in as long as they fit; why no more of them were let in.
    fn plan_admissions(&mut self, budget: &mut usize, now: f64) -> Option<WaitReason> {
        // Each running sequence must be able to get its one token in every step.
        let max_num_seqs = self
            .config
            .max_num_seqs
            .min(self.config.max_num_batched_tokens);
        let mut after = Unbounded;
        let mut num_deferred = 0;
        while *budget > 0 && self.running.len() < max_num_seqs && num_deferred < MAX_DEFERRED {
            let &next = self.waiting.range((after, Unbounded)).next()?;
            match self.admit_or_evict(next.1) {
                Admission::Admitted => {
                    self.waiting.remove(&next);
                    self.start(next.1, now);
                    self.plan_chunk(next.1, budget);
                }
                Admission::Deferred => {
                    let request = self.sequences.request[next.1];
                    self.requests[request].output.run.num_deferrals += 1;
                    num_deferred += 1;
                    after = Excluded(next);
                }
                Admission::Refused => return Some(WaitReason::Blocks),
            }
        }
        if *budget == 0 {
            Some(WaitReason::TokenBudget)
        } else if self.running.len() >= max_num_seqs {
            Some(WaitReason::MaxNumSeqs)
        } else {
            None
        }
    }

    fn plan_chunk(&mut self, slot: usize, budget: &mut usize) {
        let most = self.config.max_chunk.unwrap_or(usize::MAX).min(*budget);
        let num_tokens = self.sequences.remaining(slot).min(most);
        self.plan(slot, num_tokens, budget);
        if !self.waiting.is_empty() {
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
            draft_start: 0,
            num_scored: 0,
            num_sampled: 0,
        });
    }

    /// Blocks for the next token of `slot`: from held sequences, then from victims, of which the worst-ranked loses its
    /// blocks first. `false` if it was the victim itself.
    fn make_room(&mut self, slot: usize) -> bool {
        while !self.kv.grow(slot, self.sequences.num_tokens[slot]) {
            if self.evict_held(None) {
                continue;
            }
            let victim = self.running.pop().expect("`slot` itself is running");
            self.preempt(victim);
            if victim == slot {
                return false;
            }
        }
        true
    }

    fn preempt(&mut self, victim: usize) {
        self.kv.release(victim);
        self.drafts.close(victim);
        self.sequences.num_computed_tokens[victim] = 0;
        self.enqueue(victim, SequenceStatus::Preempted);
        self.requests[self.sequences.request[victim]]
            .output
            .num_preemptions += 1;
        self.totals.num_preemptions += 1;
    }

    /// [`Scheduler::admit`]; held sequences lose their blocks, the one that it goes on from last, where that can help.
    fn admit_or_evict(&mut self, slot: usize) -> Admission {
        loop {
            let admission = self.admit(slot);
            let spare = self.running.len();
            let needed = self.sequences.num_tokens[slot].div_ceil(crate::BLOCK_SIZE) + spare;
            if admission != Admission::Refused || !self.can_evict(needed) {
                return admission;
            }
            let request = &self.requests[self.sequences.request[slot]];
            self.evict_held(request.continues.map(|continuation| continuation.sequence));
        }
    }

    /// Give a waiting sequence blocks for all its tokens: shared with a sibling or a held sequence, cached, or new. It must fit now, and
    /// leave a spare block for every running sequence, each of which will need one within 16 steps; otherwise it
    /// would be admitted only to thrash.
    fn admit(&mut self, slot: usize) -> Admission {
        let request = &self.requests[self.sequences.request[slot]];
        let num_tokens = self.sequences.num_tokens[slot];
        let spare = self.running.len();
        if let Some(source) = self.fork_source(request, slot) {
            let fits = self.kv.can_grow(1 + spare) && self.fork(source, slot);
            return if fits {
                Admission::Admitted
            } else {
                Admission::Refused
            };
        }
        let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
        let max_cached = request.max_cached_tokens(num_tokens);
        let max_blocks = max_cached / crate::BLOCK_SIZE;
        let found = self.kv.match_prefix(slot, tokens, max_blocks);
        let held = request.continues.map(|continuation| continuation.sequence);
        if let Some((held, num_shared)) = self.held.prefix(held, tokens, max_cached)
            && num_shared > found.num_blocks * crate::BLOCK_SIZE
        {
            let new = num_tokens.div_ceil(crate::BLOCK_SIZE) - num_shared / crate::BLOCK_SIZE;
            if !self.kv.can_grow(new + spare) {
                return Admission::Refused;
            }
            self.kv.adopt(slot, held, num_shared);
            self.sequences.num_computed_tokens[slot] = num_shared;
            self.kv.grow(slot, num_tokens);
            return Admission::Admitted;
        }
        if found.num_blocks < max_blocks && self.kv.is_announced(&found, tokens) {
            return Admission::Deferred;
        }
        if !self.kv.fits(&found, num_tokens, spare) {
            return Admission::Refused;
        }
        self.kv.admit(slot, &found, num_tokens);
        self.sequences.num_computed_tokens[slot] = found.num_blocks * crate::BLOCK_SIZE;
        Admission::Admitted
    }

    /// A running sibling that has computed the prompt up to its last token, for a sequence without output.
    fn fork_source(&self, request: &Request, slot: usize) -> Option<usize> {
        let needed = request.num_prompt_tokens() - 1;
        if !request.prompt_done || self.sequences.num_tokens[slot] > needed + 1 {
            return None;
        }
        request.slots.iter().flatten().copied().find(|&sibling| {
            self.sequences.status[sibling] == SequenceStatus::Running
                && self.sequences.num_computed_tokens[sibling] >= needed
                && !self.kv.has_pending_copies(sibling)
        })
    }

    /// Share the prompt's blocks but compute its last token, whose logits this sequence draws from.
    fn fork(&mut self, source: usize, slot: usize) -> bool {
        let num_tokens = self.sequences.num_tokens[slot];
        self.kv.fork(source, slot, num_tokens - 1);
        self.sequences.num_computed_tokens[slot] = num_tokens - 1;
        self.kv.grow(slot, num_tokens)
    }

    /// The prompt of a request was computed by `source`: its further sequences share it now, as far as there is room,
    /// since `source` may end with its first token.
    pub(super) fn release_siblings(&mut self, index: usize, source: usize) {
        for sequence_index in 0..self.requests[index].slots.len() {
            let Some(slot) = self.requests[index].slots[sequence_index] else {
                continue;
            };
            if self.sequences.status[slot] != SequenceStatus::Forking {
                continue;
            }
            let limit = self
                .config
                .max_num_seqs
                .min(self.config.max_num_batched_tokens);
            let room = self.running.len() < limit && self.kv.can_grow(1 + self.running.len());
            if room && self.fork(source, slot) {
                self.run(slot);
            } else {
                self.enqueue(slot, SequenceStatus::Waiting);
            }
        }
    }

    fn start(&mut self, slot: usize, now: f64) {
        let cached = self.sequences.num_computed_tokens[slot];
        self.run(slot);
        let request = &mut self.requests[self.sequences.request[slot]];
        if !request.started {
            request.started = true;
            request.output.timestamps.first_scheduled = Some(now);
            request.output.num_cached_tokens = cached;
            let waited = request.output.run.waited_for.iter_mut();
            for (waited, (now, before)) in waited.zip(self.refusals.iter().zip(request.refusals)) {
                *waited = now - before;
            }
            self.num_waiting_requests -= 1;
            self.num_waiting_tokens -= request.num_prompt_tokens();
            self.totals.num_prompt_tokens += request.num_prompt_tokens() as u64;
            self.totals.num_cached_tokens += cached as u64;
        }
    }
}
