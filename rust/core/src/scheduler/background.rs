//! Work in the background: it runs where nobody else wants to, and never keeps anybody waiting for longer than a small
//! step.
//!
//! A request in the background is ranked behind all others, loses its blocks first, and makes room at once for one that
//! waits to be let in. It is nobody's under fair share, and has a queue of its own. A step in which somebody else's prompt
//! is read, or waits to be, has nothing of it; every other step at most `background_tokens`: whoever comes while such a
//! step runs waits for its end, and that is all that the background costs. Half of these are left to prompts, so that
//! decoding does not keep further work out.

use std::ops::Range;

use super::Scheduler;
use crate::request::WaitReason;

/// Requests that were never scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NeverScheduled {
    pub(super) requests: usize,
    /// Their prompts'.
    pub(super) tokens: usize,
}

impl NeverScheduled {
    pub(super) fn add(&mut self, num_tokens: usize) {
        self.requests += 1;
        self.tokens += num_tokens;
    }

    pub(super) fn remove(&mut self, num_tokens: usize) {
        self.requests -= 1;
        self.tokens -= num_tokens;
    }
}

impl Scheduler {
    /// Plan what the background gets of a step in which everybody else is planned; why no more of it was let in.
    pub(super) fn plan_background(&mut self, budget: &mut usize, now: f64) -> Option<WaitReason> {
        if self.places(true).is_empty() && self.background.is_empty() {
            return None;
        }
        let mut share = self.background_share(*budget);
        if share == 0 {
            return Some(WaitReason::Foreground);
        }
        let before = share;
        self.plan_decode_rows(true, &mut share);
        self.plan_prefill_chunks(true, &mut share);
        let refusal = self.plan_admissions(true, &mut share, now);
        *budget -= before - share;
        refusal
    }

    /// Where in `running` the background stands, behind all others, or where those do.
    pub(super) fn places(&self, of_background: bool) -> Range<usize> {
        let is_background = |&slot: &usize| self.sequences.rank[slot].is_background;
        let end = self.running.len();
        let first = match self.running.last() {
            Some(last) if is_background(last) => {
                self.running.partition_point(|slot| !is_background(slot))
            }
            _ => end,
        };
        if of_background { first..end } else { 0..first }
    }

    /// Tokens of this step that the background may have.
    fn background_share(&self, budget: usize) -> usize {
        let others = &self.running[self.places(false)];
        let reads_prompt = |&slot: &usize| self.sequences.remaining(slot) > 1;
        if !self.waiting.is_empty() || others.iter().any(reads_prompt) {
            return 0;
        }
        let share = self.config.background_tokens;
        let whole = if self.config.whole_prompts {
            self.whole_prompt_tokens()
        } else {
            0
        };
        budget.min(share.max(whole))
    }

    /// Where prompts are not cut: tokens of those that a step let in which then failed, or else of the next one.
    fn whole_prompt_tokens(&self) -> usize {
        let running = &self.running[self.places(true)];
        let num_tokens = |slot: usize| self.sequences.num_tokens[slot];
        if running.is_empty() {
            self.background
                .first(0)
                .map_or(0, |next| num_tokens(next.slot))
        } else {
            running.iter().map(|&slot| num_tokens(slot)).sum()
        }
    }

    /// Most sequences that run, of those in the background or of all.
    pub(super) fn max_running(&self, of_background: bool) -> usize {
        let most = self.config.max_running();
        if of_background && !self.config.whole_prompts {
            let decoding = self.config.background_tokens.div_ceil(2);
            most.min(self.places(false).end + decoding)
        } else {
            most
        }
    }
}
