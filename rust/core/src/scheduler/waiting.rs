//! Why a request waits, and how it was run: counted as it happens, at a few additions per sequence and step.

use super::Scheduler;
use super::plan::Scheduled;
use crate::BLOCK_SIZE;
use crate::request::{RequestId, WaitReason, Waiting};

impl Scheduler {
    /// Why a request does not run: `None` if it runs, has ended, or is unknown.
    #[must_use]
    pub fn why_waiting(&self, id: RequestId) -> Option<Waiting> {
        let request = &self.requests[self.requests.find(id)?];
        let runs = |&slot: &usize| {
            self.running
                .binary_search_by(|&other| {
                    self.sequences.rank[other].cmp(&self.sequences.rank[slot])
                })
                .is_ok()
        };
        let mut slots = request.slots.iter().flatten();
        let first = *slots.clone().next()?;
        if slots.any(runs) {
            return None;
        }
        let place = (self.sequences.rank[first], first);
        Some(Waiting {
            reason: self.refusal,
            num_ahead: self.waiting.range(..place).count(),
            num_needed_blocks: self.sequences.num_tokens[first].div_ceil(BLOCK_SIZE),
            num_free_blocks: self.kv.stats().map(|group| group.num_free).min()?,
            num_running_seqs: self.running.len(),
            is_preempted: request.started,
        })
    }

    /// A step was planned and let nobody more in for this reason.
    pub(super) fn note_refusal(&mut self, refusal: Option<WaitReason>) {
        self.refusal = refusal.filter(|_| !self.waiting.is_empty());
        if let Some(reason) = self.refusal {
            self.refusals[reason as usize] += 1;
        }
    }

    /// A sequence's share of a step of `num_seqs` sequences counts.
    pub(super) fn record(&mut self, entry: &Scheduled, num_seqs: u64) {
        let remaining = self.sequences.remaining(entry.slot);
        let run = &mut self.requests[self.sequences.request[entry.slot]].output.run;
        run.num_steps += 1;
        run.sum_batch_seqs += num_seqs;
        run.max_batch_seqs = run.max_batch_seqs.max(num_seqs);
        if remaining > 1 {
            run.num_prefill_steps += 1;
            run.num_prefill_tokens += entry.num_tokens as u64;
        }
    }
}
