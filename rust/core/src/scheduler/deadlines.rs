//! Deadlines: a request that is not done in time ends with what it has.
//!
//! No clock is read here: a request's deadline and the present are moments of the caller's clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::policy::microseconds;
use super::sequences::SequenceStatus;
use super::{Events, Scheduler};
use crate::request::{CLOSING_SECONDS, FinishReason};
use inferlib_program::RequestId;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Deadlines in microseconds, also of requests that ended.
    due: BinaryHeap<Reverse<(i64, RequestId)>>,
    /// Requests that ended at their deadline, and of which no events told yet.
    overdue: Vec<RequestId>,
}

impl Scheduler {
    /// A request with a deadline was submitted.
    pub(super) fn note_deadline(&mut self, id: RequestId, deadline: f64) {
        // Twice as many as are alive: those that ended go. Amortised O(1), and bounded.
        let num_alive = self.totals.num_requests - self.totals.num_finished;
        if self.deadlines.due.len() as u64 > 2 * num_alive + 64 {
            let requests = &self.requests;
            let is_alive = |id| {
                let index = requests.find(id);
                index.is_some_and(|index| !requests[index].output.is_finished())
            };
            self.deadlines.due.retain(|&Reverse((_, id))| is_alive(id));
        }
        let due = Reverse((microseconds(deadline), id));
        self.deadlines.due.push(due);
    }

    /// End what is not done in time.
    pub(super) fn end_overdue(&mut self, now: f64) {
        let now_microseconds = microseconds(now);
        while let Some(&Reverse((due, id))) = self.deadlines.due.peek()
            && due <= now_microseconds
        {
            self.deadlines.due.pop();
            if let Some(index) = self.requests.find(id)
                && !self.requests[index].output.is_finished()
            {
                if self.requests[index].closes {
                    self.requests[index].closes = false;
                    self.let_close(index, now);
                } else {
                    self.end_request(index, FinishReason::Deadline, now);
                }
                if self.requests[index].output.is_finished() {
                    self.deadlines.overdue.push(id);
                } else {
                    let due = now_microseconds + microseconds(CLOSING_SECONDS);
                    self.deadlines.due.push(Reverse((due, id)));
                }
            }
        }
    }

    /// A request that closes is overdue: those of its sequences that run and have output have a moment more.
    fn let_close(&mut self, index: usize, now: f64) {
        for sequence_index in 0..self.requests[index].slots.len() {
            if let Some(slot) = self.requests[index].slots[sequence_index] {
                let sequence = &self.requests[index].output.sequences[sequence_index];
                let runs = self.sequences.status[slot] == SequenceStatus::Running;
                if !runs || sequence.token_ids.is_empty() {
                    self.end_sequence(slot, FinishReason::Deadline, None, now);
                }
            }
        }
    }

    /// Tell of those that ended at their deadline.
    pub(super) fn tell_overdue(&mut self) {
        let overdue = self.deadlines.overdue.drain(..);
        self.events.finished_requests.extend(overdue);
    }

    /// What happened without a step: requests that ended at their deadline when [`Scheduler::schedule`] had nothing else
    /// to do. Otherwise the events of the next [`Scheduler::update`] tell of them.
    pub fn overdue(&mut self) -> &Events {
        self.events.clear();
        self.tell_overdue();
        if let Some(log) = &mut self.log {
            log.overdue(&self.events);
        }
        &self.events
    }
}
