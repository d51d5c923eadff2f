//! Drafted tokens in the plan: who drafts, and how the step's free rows are shared.
//!
//! A draft is a guess (prompt lookup) or certain: tokens that the sequence's grammar leaves no choice about, which the
//! caller names (`force`). Both are verified in the same way, by what is drawn at their rows.

use super::Scheduler;
use crate::drafting::Drafter;
use inferlib_program::{BLOCK_SIZE, RequestId};

/// Most certain tokens of a sequence in one step.
const MAX_FORCED: usize = 64;

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
    /// Certain tokens behind a sequence's last one, by slot; empty where nothing is known.
    forced: Vec<Vec<i32>>,
    /// By place in the plan: where the draft begins in `tokens`, tokens proposed, rows granted.
    proposals: Vec<Proposal>,
}

#[derive(Clone, Copy, Debug)]
struct Proposal {
    start: usize,
    num_proposed: usize,
    num_granted: usize,
}

impl Drafts {
    /// A sequence lost its blocks or ended.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(drafter) = self.drafters.get_mut(slot).and_then(Option::take) {
            self.spare.push(drafter);
        }
        self.forget_forced(slot);
    }

    /// A token was appended: what follows it must be said again.
    pub(super) fn forget_forced(&mut self, slot: usize) {
        if let Some(forced) = self.forced.get_mut(slot) {
            forced.clear();
        }
    }

    /// Of the `drafted` tokens of a sequence's draft the first `accepted` were drawn.
    pub(super) fn observe(&mut self, slot: usize, drafted: usize, accepted: usize) {
        if let Some(Some(drafter)) = self.drafters.get_mut(slot) {
            drafter.observe(drafted, accepted);
        }
    }
}

impl Scheduler {
    /// Tokens that certainly follow what the sequence has now: rows of its next step, as many as fit. What is drawn at
    /// their rows decides all the same. Forgotten once the sequence goes on, ends or loses its blocks; `false` if it has
    /// ended.
    pub fn force(&mut self, id: RequestId, sequence_index: u32, token_ids: &[i32]) -> bool {
        let slot = self.requests.find(id).and_then(|index| {
            let slots = &self.requests[index].slots;
            slots.get(sequence_index as usize).copied().flatten()
        });
        if let Some(slot) = slot {
            let forced = &mut self.drafts.forced;
            if forced.len() <= slot {
                forced.resize_with(slot + 1, Vec::new);
            }
            forced[slot].clear();
            forced[slot].extend(token_ids.iter().take(MAX_FORCED));
        }
        if let Some(log) = &mut self.log {
            log.force((id, sequence_index), token_ids, slot.is_some());
        }
        slot.is_some()
    }

    /// Give sequences whose next tokens are certain rows for them, beside prefill chunks, too: each would be computed
    /// alone otherwise. The number of rows given.
    fn plan_forced(&mut self, budget: &mut usize) -> usize {
        let mut num_rows = 0;
        for place in 0..self.scheduled.len() {
            let slot = self.scheduled[place].slot;
            let Some(num_forced) = self.drafts.forced.get(slot).map(Vec::len) else {
                continue;
            };
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
            entry.is_forced = true;
            let forced = &self.drafts.forced[slot][..num_drafts];
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
        let drafts = self.config.speculation.is_some();
        let is_decode = |slot| self.sequences.remaining(slot) == 1;
        if !drafts || free == 0 || !self.scheduled.iter().all(|entry| is_decode(entry.slot)) {
            return;
        }
        self.drafts.proposals.clear();
        for place in 0..self.scheduled.len() {
            let start = self.drafts.tokens.len();
            let num_proposed = if self.scheduled[place].is_forced {
                0
            } else {
                self.propose(self.scheduled[place].slot, free)
            };
            self.drafts.proposals.push(Proposal {
                start,
                num_proposed,
                num_granted: 0,
            });
        }
        share(&mut self.drafts.proposals, free);
        for place in 0..self.scheduled.len() {
            let Proposal {
                start, num_granted, ..
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
            *budget -= num_drafts;
        }
    }

    /// A draft of at most `most` tokens for the sequence in `slot`, appended to `drafts.tokens`; its length.
    fn propose(&mut self, slot: usize, most: usize) -> usize {
        let Some(lookup) = &self.config.speculation else {
            return 0;
        };
        let request = &self.requests[self.sequences.request[slot]];
        let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
        // One token comes without a draft, and none may come behind `max_tokens`.
        let wanted = request.max_tokens.saturating_sub(tokens.output.len() + 1);
        let most = most.min(wanted).min(request.max_drafts);
        if most == 0 {
            return 0;
        }
        let Drafts {
            drafters,
            spare,
            tokens: drafts,
            ..
        } = &mut self.drafts;
        if drafters.len() <= slot {
            drafters.resize_with(self.sequences.len(), || None);
        }
        let drafter = drafters[slot].get_or_insert_with(|| {
            let mut drafter = spare.pop().unwrap_or_default();
            drafter.reset(lookup, tokens.prompt.len() + request.max_tokens);
            drafter
        });
        // A grammar cuts the draft here, in front of the first token that it does not allow; the rows behind an
        // allowed one then carry the mask of the state that it leads to (`fill`).
        drafter.propose(tokens, most, drafts)
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
}
