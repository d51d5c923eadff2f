//! Why a request waits, and how it was run: counted as it happens, at a few additions per sequence and step.

use super::plan::Scheduled;
use super::sequences::Place;
use super::{Policy, Scheduler};
use crate::request::{Standing, WaitReason, Waiting};
use inferlib_program::BLOCK_SIZE;
use inferlib_program::RequestId;

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
        let behind_others = request.background && !self.waiting.is_empty();
        let reason = behind_others.then_some(WaitReason::Foreground);
        Some(Waiting {
            reason: reason.or(self.refusal),
            num_ahead: self.num_ahead(self.sequences.place(first)),
            num_needed_blocks: self.sequences.num_tokens[first].div_ceil(BLOCK_SIZE),
            num_free_blocks: self.kv.stats().map(|group| group.num_free).min()?,
            num_running_seqs: self.running.len(),
            is_preempted: request.started,
            standing: self.standing(self.sequences.place(first)),
        })
    }

    fn num_ahead(&self, place: Place) -> usize {
        if place.rank.is_background {
            let ahead = self.background.iter().filter(|&&other| other < place);
            return self.waiting.len() + ahead.count();
        }
        let turn = |place: Place| {
            let tenants = self.tenants.as_ref();
            (tenants.map(|tenants| tenants.turn(place.tenant)), place)
        };
        let own = turn(place);
        let others = self.waiting.iter().copied();
        others.filter(|&other| turn(other) < own).count()
    }

    /// What its place in the queue comes from.
    fn standing(&self, place: Place) -> Standing {
        let request = &self.requests[self.sequences.request[place.slot]];
        match self.config.policy {
            Policy::FairShare { .. } if request.background => Standing::Arrival {
                priority: request.priority,
            },
            Policy::Fcfs => Standing::Arrival {
                priority: request.priority,
            },
            Policy::Priority { steps_per_class } => {
                let num_steps = i64::try_from(self.totals.num_steps).unwrap_or(i64::MAX / 2);
                let key = place.rank.key - num_steps;
                Standing::Priority {
                    priority: request.priority,
                    effective: key.div_euclid(i64::from(steps_per_class)),
                }
            }
            Policy::FairShare { .. } => {
                let counter = |tenant| self.tenants.as_ref().map_or(0, |all| all.counter(tenant));
                let waiting = self.waiting.iter().map(|other| counter(other.tenant));
                Standing::FairShare {
                    service: counter(place.tenant),
                    least_service: waiting.min().unwrap_or(0),
                }
            }
            Policy::Deadline { .. } => Standing::Deadline {
                #[expect(clippy::cast_precision_loss, reason = "microseconds since the start")]
                due: place.rank.key as f64 / 1e6,
                is_own: request.deadline.is_some(),
            },
        }
    }

    /// A step was planned and let nobody more in for this reason, or nobody more of the background for that one.
    pub(super) fn note_refusal(
        &mut self,
        refusal: Option<WaitReason>,
        of_background: Option<WaitReason>,
    ) {
        let refusal = refusal.filter(|_| !self.waiting.is_empty());
        self.refusal = refusal.or(of_background.filter(|_| !self.background.is_empty()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NewRequest;
    use crate::scheduler::SchedulerConfig;
    use crate::scheduler::samples::{config, request};

    #[test]
    fn under_fair_share_the_background_waits_in_order_of_arrival() {
        let policy = Policy::FairShare {
            input_weight: 1,
            output_weight: 2,
        };
        let mut scheduler = Scheduler::new(SchedulerConfig { policy, ..config() }).unwrap();
        let mut submit = |background| {
            let new = NewRequest {
                background,
                priority: 4,
                ..request(1)
            };
            scheduler.submit(new, 0.0).unwrap()
        };
        let (front, back) = (submit(false), submit(true));
        let of_front = scheduler.why_waiting(front).unwrap();
        let expected = Standing::FairShare {
            service: 0,
            least_service: 0,
        };
        assert_eq!((of_front.standing, of_front.reason), (expected, None));
        let of_back = scheduler.why_waiting(back).unwrap();
        assert_eq!(of_back.standing, Standing::Arrival { priority: 4 });
        assert_eq!(of_back.reason, Some(WaitReason::Foreground));
        assert_eq!((of_front.num_ahead, of_back.num_ahead), (0, 1));
    }
}
