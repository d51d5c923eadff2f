//! Drafted tokens in the plan: who drafts, and how the step's free rows are shared.
//!
//! A draft is a guess (prompt lookup, a draft model) or certain: tokens that the sequence's grammar leaves no choice about,
//! which the caller names (`force`). All are verified in the same way, by what is drawn at their rows.
//!
//! The caller runs the draft model: before a step it asks which sequences want tokens of it, and how many
//! (`wanted_drafts`), and tells them (`suggest`). What it cannot draft in time it leaves out.

use super::requests::Request;
use super::told::{MAX_TOLD, Told};
use super::{Scheduler, SchedulerConfig};
use crate::drafting::{DraftSource, Drafter, ModelAcceptance};
use inferlib_program::{BLOCK_SIZE, RequestId};

/// A sequence for which the draft model may draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedDraft {
    /// Whose.
    pub request_id: RequestId,
    /// Which of its sequences.
    pub sequence_index: u32,
    /// Its tokens, prompt and output: the draft follows them.
    pub num_tokens: usize,
    /// Most tokens that the next step has rows for.
    pub num_drafts: usize,
}

/// Drafters by slot, and the drafts of the step being planned or in flight.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    /// Present from a sequence's first draft on, while it has blocks.
    drafters: Vec<Option<Box<Drafter>>>,
    /// Their memory, for the next ones.
    #[expect(clippy::vec_box, reason = "the boxes move between the two lists")]
    spare: Vec<Box<Drafter>>,
    /// Drafted tokens, sequence after sequence.
    pub(super) tokens: Vec<i32>,
    /// Certain tokens behind a sequence's last one.
    forced: Told,
    /// The same that the draft model suggests.
    suggested: Told,
    /// How that fared so far.
    model: ModelAcceptance,
    /// The latest answer of `wanted_drafts`.
    wanted: Vec<WantedDraft>,
    /// By place in the plan: where the draft begins in `tokens`, tokens proposed, rows granted.
    proposals: Vec<Proposal>,
}

#[derive(Clone, Copy, Debug)]
struct Proposal {
    start: usize,
    num_proposed: usize,
    num_granted: usize,
    source: DraftSource,
}

impl Drafts {
    /// A sequence lost its blocks or ended.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(drafter) = self.drafters.get_mut(slot).and_then(Option::take) {
            self.spare.push(drafter);
        }
        self.forget_told(slot);
    }

    /// Who drafts for a request's sequence in `slot`.
    fn drafter(
        &mut self,
        slot: usize,
        config: &SchedulerConfig,
        request: &Request,
    ) -> &mut Drafter {
        if self.drafters.len() <= slot {
            self.drafters.resize_with(slot + 1, || None);
        }
        self.drafters[slot].get_or_insert_with(|| {
            let mut drafter = self.spare.pop().unwrap_or_default();
            let lookup = config
                .speculation
                .as_ref()
                .filter(|_| request.max_drafts.lookup > 0);
            let num_tokens = request.num_prompt_tokens() + request.max_tokens;
            drafter.reset(lookup, &self.model, num_tokens);
            drafter
        })
    }

    /// A token was appended: what follows it must be said again.
    #[inline]
    pub(super) fn forget_told(&mut self, slot: usize) {
        self.forced.forget(slot);
        self.suggested.forget(slot);
    }

    pub(super) fn check_integrity(&self) -> Result<(), String> {
        self.forced.check_integrity()?;
        self.suggested.check_integrity()
    }

    /// Of the `drafted` tokens of a sequence's draft the first `accepted` were drawn.
    pub(super) fn observe(
        &mut self,
        slot: usize,
        source: DraftSource,
        drafted: usize,
        accepted: usize,
    ) {
        if let Some(Some(drafter)) = self.drafters.get_mut(slot) {
            match source {
                DraftSource::PromptLookup => drafter.observe(drafted, accepted),
                DraftSource::Model => drafter.observe_model(drafted, accepted, &mut self.model),
            }
        }
    }
}

impl Scheduler {
    /// Tokens that certainly follow what the sequence has now: rows of its next step, as many as fit. What is drawn at
    /// their rows decides all the same. Forgotten once the sequence goes on, ends or loses its blocks; `false` if it has
    /// ended.
    pub fn force(&mut self, id: RequestId, sequence_index: u32, token_ids: &[i32]) -> bool {
        let slot = self.living_slot(id, sequence_index);
        if let Some(slot) = slot {
            self.drafts.forced.tell(slot, token_ids);
        }
        if let Some(log) = &mut self.log {
            log.force((id, sequence_index), token_ids, slot.is_some());
        }
        slot.is_some()
    }

    /// Tokens that a draft model thinks follow what the sequence has now: as `force`, but guesses, which are rows of its
    /// next step only where those cost nothing. Tokens from the first one on that the model does not have are left out.
    /// `false` if it has ended, or wants no such tokens.
    pub fn suggest(&mut self, id: RequestId, sequence_index: u32, token_ids: &[i32]) -> bool {
        let slot = self.living_slot(id, sequence_index).filter(|&slot| {
            let request = &self.requests[self.sequences.request[slot]];
            request.max_drafts.model > 0
        });
        if let Some(slot) = slot {
            let vocab_size = self.config.vocab_size;
            let known = |&token: &i32| usize::try_from(token).is_ok_and(|id| id < vocab_size);
            let num_known = token_ids.iter().take_while(|token| known(token)).count();
            self.drafts.suggested.tell(slot, &token_ids[..num_known]);
        }
        if let Some(log) = &mut self.log {
            log.suggest((id, sequence_index), token_ids, slot.is_some());
        }
        slot.is_some()
    }

    /// Sequences of the next step for which tokens of the draft model are worth their rows, and how many: those that
    /// decode, while they are few and nobody's prompt comes in between, where prompt lookup finds nothing that is
    /// right as often. To be asked once per step; valid until then.
    pub fn wanted_drafts(&mut self) -> &[WantedDraft] {
        let mut wanted = std::mem::take(&mut self.drafts.wanted);
        wanted.clear();
        let num_running = self.running.len();
        let most = self.config.rows_per_pass;
        let most = most.min(self.config.max_num_batched_tokens);
        let free = most.saturating_sub(num_running);
        // Whoever could not be let in last time hardly can now.
        let is_closed = self.waiting.is_empty() || self.refusal.is_some();
        let is_decode = |&slot: &usize| self.sequences.remaining(slot) == 1;
        if self.config.draft_model.is_some()
            && free > 0
            && is_closed
            && self.running.iter().all(is_decode)
        {
            self.drafts.proposals.clear();
            for place in 0..num_running {
                let num_proposed = self.model_draft_len(self.running[place], free);
                self.drafts.proposals.push(Proposal {
                    start: 0,
                    num_proposed,
                    num_granted: 0,
                    source: DraftSource::Model,
                });
            }
            share(&mut self.drafts.proposals, free);
            let running = self.running.iter().zip(&self.drafts.proposals);
            let granted = running.filter(|(_, proposal)| proposal.num_granted > 0);
            wanted.extend(granted.map(|(&slot, proposal)| {
                WantedDraft {
                    request_id: self.requests[self.sequences.request[slot]]
                        .output
                        .request_id,
                    sequence_index: self.sequences.rank[slot].sequence_index,
                    num_tokens: self.sequences.num_tokens[slot],
                    num_drafts: proposal.num_granted,
                }
            }));
        }
        if let Some(log) = &mut self.log {
            log.wanted(&wanted);
        }
        self.drafts.wanted = wanted;
        &self.drafts.wanted
    }

    /// Tokens of the draft model that the sequence in `slot` wants, at most `most`.
    fn model_draft_len(&mut self, slot: usize, most: usize) -> usize {
        let told = [&self.drafts.forced, &self.drafts.suggested];
        let is_told = told.iter().any(|told| !told.of(slot).is_empty());
        let request = &self.requests[self.sequences.request[slot]];
        let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
        let wanted = request.max_tokens.saturating_sub(tokens.output.len() + 1);
        let most = most.min(wanted).min(request.max_drafts.model).min(MAX_TOLD);
        if most == 0 || is_told {
            return 0;
        }
        self.drafts
            .drafter(slot, &self.config, request)
            .model_draft_len(tokens, most)
    }

    fn living_slot(&self, id: RequestId, sequence_index: u32) -> Option<usize> {
        let slots = &self.requests[self.requests.find(id)?].slots;
        slots.get(sequence_index as usize).copied().flatten()
    }

    /// Give sequences whose next tokens are certain rows for them, beside prefill chunks, too: each would be computed
    /// alone otherwise. The number of rows given.
    fn plan_forced(&mut self, budget: &mut usize) -> usize {
        if self.drafts.forced.is_empty() {
            return 0;
        }
        let mut num_rows = 0;
        for place in 0..self.scheduled.len() {
            let slot = self.scheduled[place].slot;
            let num_forced = self.drafts.forced.of(slot).len();
            if num_forced == 0 {
                continue;
            }
            let request = &self.requests[self.sequences.request[slot]];
            let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
            let wanted = request.max_tokens.saturating_sub(tokens.output.len() + 1);
            let most = num_forced.min(wanted).min(*budget);
            let is_stateful = request.params.mirostat.is_some();
            if most == 0
                || is_stateful
                || self.scheduled[place].num_tokens != self.sequences.remaining(slot)
            {
                continue;
            }
            let num_drafts = self.room_for_drafts(slot, most);
            let entry = &mut self.scheduled[place];
            entry.num_tokens += num_drafts;
            entry.num_drafts = num_drafts;
            entry.draft_start = self.drafts.tokens.len();
            let forced = &self.drafts.forced.of(slot)[..num_drafts];
            self.drafts.tokens.extend_from_slice(forced);
            *budget -= num_drafts;
            num_rows += num_drafts;
        }
        num_rows
    }

    /// Give the sequences of a step of decode rows drafted tokens, as long as the pass stays free of charge: no more
    /// than `rows_per_pass` rows in all. No guesses in a step with a prefill chunk: that is not waiting for memory.
    pub(super) fn plan_drafts(&mut self, budget: &mut usize) {
        self.drafts.tokens.clear();
        let num_forced = self.plan_forced(budget);
        let free = self
            .config
            .rows_per_pass
            .saturating_sub(self.scheduled.len() + num_forced)
            .min(*budget);
        let drafts = self.config.guesses();
        let is_decode = |slot| self.sequences.remaining(slot) == 1;
        if !drafts || free == 0 || !self.scheduled.iter().all(|entry| is_decode(entry.slot)) {
            return;
        }
        self.drafts.proposals.clear();
        for place in 0..self.scheduled.len() {
            let start = self.drafts.tokens.len();
            let (num_proposed, source) = if self.scheduled[place].num_drafts > 0 {
                (0, DraftSource::PromptLookup) // certain ones
            } else {
                self.propose(self.scheduled[place].slot, free)
            };
            self.drafts.proposals.push(Proposal {
                start,
                num_proposed,
                num_granted: 0,
                source,
            });
        }
        share(&mut self.drafts.proposals, free);
        for place in 0..self.scheduled.len() {
            let Proposal {
                start,
                num_granted,
                source,
                ..
            } = self.drafts.proposals[place];
            if num_granted == 0 {
                continue;
            }
            let slot = self.scheduled[place].slot;
            let num_drafts = self.room_for_drafts(slot, num_granted);
            let entry = &mut self.scheduled[place];
            entry.num_tokens += num_drafts;
            entry.num_drafts = num_drafts;
            entry.draft_start = start;
            entry.draft_source = (num_drafts > 0).then_some(source);
            *budget -= num_drafts;
        }
    }

    /// A draft of at most `most` tokens for the sequence in `slot`, appended to `drafts.tokens`; its length, and whose it
    /// is.
    fn propose(&mut self, slot: usize, most: usize) -> (usize, DraftSource) {
        let request = &self.requests[self.sequences.request[slot]];
        let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
        // One token comes without a draft, and none may come behind `max_tokens`.
        let wanted = request.max_tokens.saturating_sub(tokens.output.len() + 1);
        let most = most.min(wanted);
        let suggested = self.drafts.suggested.of(slot);
        if !suggested.is_empty() {
            let length = suggested.len().min(most);
            self.drafts.tokens.extend_from_slice(&suggested[..length]);
            return (length, DraftSource::Model);
        }
        let most = most.min(request.max_drafts.lookup);
        if most == 0 {
            return (0, DraftSource::PromptLookup);
        }
        // A grammar cuts the draft here, in front of the first token that it does not allow; the rows behind an
        // allowed one then carry the mask of the state that it leads to (`fill`).
        let mut drafts = std::mem::take(&mut self.drafts.tokens);
        let drafter = self.drafts.drafter(slot, &self.config, request);
        let length = drafter.propose(tokens, most, &mut drafts);
        self.drafts.tokens = drafts;
        (length, DraftSource::PromptLookup)
    }

    /// Blocks for `num_drafts` drafted tokens of `slot`, or for as many as fit into those that it has: a draft takes
    /// nobody's blocks. They go back in `update` unless a token was accepted into them.
    fn room_for_drafts(&mut self, slot: usize, num_drafts: usize) -> usize {
        let num_tokens = self.sequences.num_tokens[slot];
        if num_drafts == 0 || self.kv.grow(slot, num_tokens + num_drafts) {
            return num_drafts;
        }
        let room = self.kv.table(slot, 0).len() * BLOCK_SIZE - num_tokens;
        num_drafts.min(room)
    }
}

/// Deal `free` rows out, one at a time to each that wants more.
fn share(proposals: &mut [Proposal], free: usize) {
    let mut free = free;
    loop {
        let before = free;
        for proposal in &mut *proposals {
            if free > 0 && proposal.num_granted < proposal.num_proposed {
                proposal.num_granted += 1;
                free -= 1;
            }
        }
        if free == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(wanted: &[usize], free: usize) -> Vec<usize> {
        let proposal = |&num_proposed: &usize| Proposal {
            start: 0,
            num_proposed,
            num_granted: 0,
            source: DraftSource::PromptLookup,
        };
        let mut proposals: Vec<_> = wanted.iter().map(proposal).collect();
        share(&mut proposals, free);
        proposals
            .iter()
            .map(|proposal| proposal.num_granted)
            .collect()
    }

    #[test]
    fn rows_are_shared_evenly_and_what_one_leaves_the_others_take() {
        assert_eq!(shares(&[5], 5), [5]);
        assert_eq!(shares(&[5, 5], 5), [3, 2]);
        assert_eq!(shares(&[1, 5, 0, 5], 6), [1, 3, 0, 2]);
        assert_eq!(shares(&[1, 1], 9), [1, 1]);
        assert_eq!(shares(&[], 3), []);
    }

    #[test]
    fn damage_is_found_in_what_is_certain_and_in_what_is_guessed() {
        let mut drafts = Drafts::default();
        drafts.check_integrity().unwrap();
        drafts.forced.miscount();
        assert!(drafts.check_integrity().is_err());
        let mut drafts = Drafts::default();
        drafts.suggested.miscount();
        assert!(drafts.check_integrity().is_err());
    }

    #[test]
    fn a_result_for_a_sequence_without_a_drafter_counts_nowhere() {
        let mut drafts = Drafts::default();
        drafts.drafters.push(None);
        for slot in 0..2 {
            drafts.observe(slot, DraftSource::PromptLookup, 3, 1);
            drafts.observe(slot, DraftSource::Model, 3, 1);
        }
        assert!(drafts.drafters.iter().all(Option::is_none));
        drafts.check_integrity().unwrap();
    }
}
