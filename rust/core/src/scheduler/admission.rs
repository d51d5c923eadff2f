//! Who is let in: whole prompts only, with a spare block for everybody who runs.

use super::Scheduler;
use super::requests::Request;
use super::sequences::{Place, SequenceStatus};
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

impl Scheduler {
    /// Let waiting sequences in as long as they fit; why no more of them were let in.
    pub(super) fn plan_admissions(
        &mut self,
        of_background: bool,
        budget: &mut usize,
        now: f64,
    ) -> Option<WaitReason> {
        let refusal = self.admit_in_turn(of_background, budget, now);
        self.queue(of_background).clear_deferred();
        if let Some(tenants) = &mut self.tenants {
            tenants.restore();
        }
        refusal
    }

    fn admit_in_turn(
        &mut self,
        of_background: bool,
        budget: &mut usize,
        now: f64,
    ) -> Option<WaitReason> {
        let max_running = self.max_running(of_background);
        while self.queue(of_background).num_deferred() < MAX_DEFERRED {
            let next = self.next_in_turn(of_background)?;
            let refusal = if *budget < self.least_tokens(next.slot) {
                WaitReason::TokenBudget
            } else if self.running.len() >= max_running {
                WaitReason::MaxNumSeqs
            } else {
                match self.admit_or_evict(next.slot) {
                    Admission::Admitted => {
                        self.dequeue(next.slot);
                        self.start(next.slot, now);
                        self.plan_chunk(next.slot, budget);
                        continue;
                    }
                    Admission::Deferred => {
                        let request = self.sequences.request[next.slot];
                        self.requests[request].output.run.num_deferrals += 1;
                        self.queue(of_background).defer(next);
                        continue;
                    }
                    Admission::Refused => WaitReason::Blocks,
                }
            };
            let makes_room = !of_background
                && (refusal != WaitReason::TokenBudget && self.clear_background(budget)
                    || self.reclaim(next.tenant, budget));
            if !makes_room {
                return Some(refusal);
            }
        }
        None
    }

    /// Fewest tokens of a sequence that a step can begin with.
    fn least_tokens(&self, slot: usize) -> usize {
        if self.config.whole_prompts {
            self.sequences.num_tokens[slot]
        } else {
            1
        }
    }

    /// Whose turn it is to be let in.
    fn next_in_turn(&mut self, of_background: bool) -> Option<Place> {
        if of_background {
            return self.background.first(0);
        }
        let Some(tenants) = &mut self.tenants else {
            return self.waiting.first(0);
        };
        loop {
            let tenant = tenants.next()?;
            let Some(place) = self.waiting.first(tenant) else {
                tenants.set_aside(); // whoever it has left was passed over
                continue;
            };
            let request = &self.requests[self.sequences.request[place.slot]];
            let num_tokens = if request.started {
                0
            } else {
                request.num_prompt_tokens()
            };
            let may_pass = self.waiting.num_deferred() == 0 || tenants.may_pass(tenant, num_tokens);
            return may_pass.then_some(place);
        }
    }

    /// [`Scheduler::admit`]; held sequences lose their blocks, the one that it goes on from last, where that can help.
    fn admit_or_evict(&mut self, slot: usize) -> Admission {
        loop {
            let admission = self.admit(slot);
            let spare = self.spare_blocks();
            let needed =
                self.sequences.num_tokens[slot].div_ceil(inferlib_program::BLOCK_SIZE) + spare;
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
        let spare = self.spare_blocks();
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
        let max_blocks = max_cached / inferlib_program::BLOCK_SIZE;
        let found = self.kv.match_prefix(slot, tokens, max_blocks);
        let held = request.continues.map(|continuation| continuation.sequence);
        if let Some((held, num_shared)) = self.held.prefix(held, tokens, max_cached)
            && num_shared > found.num_blocks * inferlib_program::BLOCK_SIZE
        {
            let new = num_tokens.div_ceil(inferlib_program::BLOCK_SIZE)
                - num_shared / inferlib_program::BLOCK_SIZE;
            if !self.kv.can_grow(new + spare) {
                return Admission::Refused;
            }
            self.kv.adopt(slot, held, num_shared);
            self.sequences.num_computed_tokens[slot] = num_shared;
            self.kv.grow(slot, num_tokens);
            return Admission::Admitted;
        }
        if found.num_blocks < max_blocks
            && self.kv.is_announced(&found, tokens)
            && !self.is_far_behind(slot)
        {
            return Admission::Deferred;
        }
        if !self.kv.fits(&found, num_tokens, spare) {
            return Admission::Refused;
        }
        self.kv.admit(slot, &found, num_tokens);
        self.sequences.num_computed_tokens[slot] = found.num_blocks * inferlib_program::BLOCK_SIZE;
        Admission::Admitted
    }

    /// Blocks that stay free for those who run: one each, but for whole prompts, which need no more and end with the step.
    fn spare_blocks(&self) -> usize {
        if self.config.whole_prompts {
            0
        } else {
            self.running.len()
        }
    }

    /// Whether a sequence's tenant may be so far behind somebody who runs that it had better not wait for anything.
    fn is_far_behind(&self, slot: usize) -> bool {
        let tenants = self.tenants.as_ref();
        let tenants = tenants.filter(|_| !self.sequences.rank[slot].is_background);
        tenants.is_some_and(|tenants| {
            let counter = tenants.counter(self.sequences.tenant[slot]);
            tenants.may_exceed(tenants.limit(counter))
        })
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
            let is_background = self.sequences.rank[slot].is_background;
            let room = self.running.len() < self.max_running(is_background)
                && self.kv.can_grow(1 + self.running.len());
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
            self.num_waiting[usize::from(request.background)].remove(request.num_prompt_tokens());
            self.totals.num_prompt_tokens += request.num_prompt_tokens() as u64;
            self.totals.num_cached_tokens += cached as u64;
            let num_new_tokens = request.num_prompt_tokens() - cached;
            if let Some((tenants, tenant)) = self.tenant_of(slot) {
                tenants.charge_input(tenant, num_new_tokens);
            }
        }
    }
}
