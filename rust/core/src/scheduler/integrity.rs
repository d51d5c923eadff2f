//! The scheduler's invariants, as code that runs: tests call it after every step.

use super::Scheduler;
use super::background::NeverScheduled;
use super::plan::Scheduled;
use super::sequences::SequenceStatus;
use inferlib_program::BLOCK_SIZE;

impl Scheduler {
    /// Verify queues, counters, sequences and the KV cache against each other; the first contradiction in words.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.check_queues()?;
        self.check_requests()?;
        let status = &self.sequences.status;
        let num_computed = |slot| match status.get(slot) {
            Some(SequenceStatus::Running) => Some(self.sequences.num_computed_tokens[slot]),
            _ => None,
        };
        let held: Vec<_> = self.held.blocks().collect();
        self.kv.check_integrity(num_computed, &held)?;
        if let Some(tenants) = &self.tenants {
            let slots = status.iter().enumerate();
            let alive = slots.filter(|&(slot, &status)| {
                status != SequenceStatus::Free && !self.sequences.rank[slot].is_background
            });
            let seqs =
                alive.map(|(slot, status)| (self.sequences.tenant[slot], status.is_queued()));
            tenants.check_integrity(seqs)?;
        }
        self.drafts.check_integrity()?;
        self.check_held()
    }

    fn check_queues(&self) -> Result<(), String> {
        let ranks = &self.sequences.rank;
        if !self.running.is_sorted_by(|&a, &b| ranks[a] < ranks[b]) {
            return Err("running sequences are not in order of rank".to_owned());
        }
        if self.running.len() > self.config.max_num_seqs {
            return Err("more sequences run than max_num_seqs".to_owned());
        }
        let (mut num_running, mut num_queued) = (0, 0);
        for (slot, &status) in self.sequences.status.iter().enumerate() {
            num_running += usize::from(status == SequenceStatus::Running);
            num_queued += usize::from(status.is_queued());
            if status.is_queued() && !self.is_queued(slot) {
                return Err(format!("slot {slot} waits but is not in the queue"));
            }
            if status == SequenceStatus::Running && !self.running.contains(&slot) {
                return Err(format!("slot {slot} runs but is not in the running list"));
            }
        }
        if num_running != self.running.len()
            || num_queued != self.waiting.len() + self.background.len()
        {
            return Err("a queue holds a slot twice, or one that is not its own".to_owned());
        }
        for &slot in &self.running {
            let (computed, tokens) = (
                self.sequences.num_computed_tokens[slot],
                self.sequences.num_tokens[slot],
            );
            let in_flight = self.scheduled.iter().find(|entry| entry.slot == slot);
            let drafts = in_flight.map_or(0, |entry| entry.num_drafts);
            let blocks = self.kv.table(slot, 0).len();
            if blocks > (tokens + drafts).div_ceil(BLOCK_SIZE) {
                return Err(format!(
                    "slot {slot}: {blocks} blocks for {tokens} tokens and {drafts} drafts"
                ));
            }
            if self.config.whole_prompts && computed > 0 {
                return Err(format!("slot {slot}: a part of a whole prompt is computed"));
            }
            if computed >= tokens {
                return Err(format!(
                    "slot {slot}: {computed} of {tokens} tokens computed, none left"
                ));
            }
        }
        let budget = self
            .scheduled
            .iter()
            .map(|entry| entry.num_tokens)
            .sum::<usize>();
        // Certain tokens may be more.
        let is_guess = |entry: &Scheduled| entry.draft_source.is_some();
        if self.scheduled.iter().any(is_guess) && budget > self.config.rows_per_pass {
            return Err(format!(
                "a step with guesses has {budget} rows, above rows_per_pass"
            ));
        }
        if budget > self.config.max_num_batched_tokens {
            return Err(format!("the step has {budget} tokens, above the budget"));
        }
        Ok(())
    }

    fn is_queued(&self, slot: usize) -> bool {
        let place = self.sequences.place(slot);
        let queue = if place.rank.is_background {
            &self.background
        } else {
            &self.waiting
        };
        queue.contains(place)
    }

    fn check_requests(&self) -> Result<(), String> {
        let mut waiting = [NeverScheduled::default(); 2];
        let mut alive = 0;
        for (index, request) in self.requests.iter() {
            let finished = request.slots.iter().all(Option::is_none);
            if finished != request.output.is_finished() {
                return Err(format!("request {index}: finished and not finished"));
            }
            if !finished && !request.started {
                waiting[usize::from(request.background)].add(request.num_prompt_tokens());
            }
            for (sequence_index, (&slot, sequence)) in request
                .slots
                .iter()
                .zip(&request.output.sequences)
                .enumerate()
            {
                let Some(slot) = slot else {
                    if sequence.finish_reason.is_none() {
                        return Err(format!("request {index}: a sequence is lost"));
                    }
                    continue;
                };
                alive += 1;
                let tokens = request.num_prompt_tokens() + sequence.token_ids.len();
                let status = self.sequences.status[slot];
                if self.sequences.request[slot] != index
                    || self.sequences.rank[slot].sequence_index as usize != sequence_index
                    || self.sequences.rank[slot].is_background != request.background
                    || self.sequences.num_tokens[slot] != tokens
                    || status == SequenceStatus::Free
                    || sequence.finish_reason.is_some()
                {
                    return Err(format!("request {index}: slot {slot} is not its own"));
                }
                if (tokens - 1).div_ceil(BLOCK_SIZE) * BLOCK_SIZE > self.kv.capacity() {
                    return Err(format!("request {index} outgrew the KV cache"));
                }
                if status == SequenceStatus::Forking && request.prompt_done {
                    return Err(format!("request {index}: slot {slot} was never released"));
                }
            }
        }
        if waiting != self.num_waiting {
            return Err("the counters of waiting requests are wrong".to_owned());
        }
        if alive + self.sequences.num_free() != self.sequences.len() {
            return Err("a sequence slot belongs to nobody".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::DraftSource;
    use crate::request::{FinishReason, NewRequest};
    use crate::scheduler::queue::Queue;
    use crate::scheduler::samples::{config, request};
    use crate::scheduler::{Policy, SchedulerConfig};
    use inferlib_program::{RowStatus, StepOutput};

    /// Two requests in their second step (slots 0 and 1), and one of two sequences that waits (slots 2 and 3).
    fn scheduler(config: SchedulerConfig) -> Scheduler {
        let mut scheduler = Scheduler::new(config).unwrap();
        for (token, n) in [(1, 1), (2, 1), (3, 2)] {
            let new = NewRequest {
                n,
                ..request(token)
            };
            scheduler.submit(new, 0.0).unwrap();
        }
        let rows = scheduler.schedule(1.0).unwrap().num_sampled();
        let output = StepOutput {
            token_ids: vec![7; rows],
            status: vec![RowStatus::Ok; rows],
            logprobs: vec![None; rows],
            ..StepOutput::default()
        };
        scheduler.update(&output, 1.0).unwrap();
        scheduler.schedule(2.0).unwrap();
        scheduler.check_integrity().unwrap();
        assert_eq!(scheduler.running, [0, 1]);
        scheduler
    }

    fn found(damage: fn(&mut Scheduler)) -> String {
        let mut scheduler = scheduler(config());
        damage(&mut scheduler);
        scheduler.check_integrity().unwrap_err()
    }

    #[test]
    fn a_list_that_is_not_that_of_its_sequences_is_found() {
        assert_eq!(
            found(|all| all.running.swap(0, 1)),
            "running sequences are not in order of rank"
        );
        assert_eq!(
            found(|all| all.config.max_num_seqs = 1),
            "more sequences run than max_num_seqs"
        );
        assert_eq!(
            found(|all| all.waiting = Queue::default()),
            "slot 2 waits but is not in the queue"
        );
        assert_eq!(
            found(|all| all.running.truncate(1)),
            "slot 1 runs but is not in the running list"
        );
        assert_eq!(
            found(|all| all.sequences.status[2] = SequenceStatus::Forking),
            "a queue holds a slot twice, or one that is not its own"
        );
        assert_eq!(
            found(|all| all.background.insert(all.sequences.place(2))),
            "a queue holds a slot twice, or one that is not its own"
        );
    }

    #[test]
    fn a_running_sequence_with_wrong_counts_is_found() {
        assert_eq!(
            found(|all| all.sequences.num_tokens[0] = 16),
            "slot 0: 2 blocks for 16 tokens and 0 drafts"
        );
        assert_eq!(
            found(|all| all.config.whole_prompts = true),
            "slot 0: a part of a whole prompt is computed"
        );
        assert_eq!(
            found(|all| all.sequences.num_computed_tokens[1] = 21),
            "slot 1: 21 of 21 tokens computed, none left"
        );
    }

    #[test]
    fn a_step_above_its_limits_is_found() {
        assert_eq!(
            found(|all| all.config.max_num_batched_tokens = 1),
            "the step has 2 tokens, above the budget"
        );
        let guess = |all: &mut Scheduler| {
            all.config.rows_per_pass = 1;
            all.check_integrity().unwrap(); // without guesses they are no limit
            all.scheduled[0].draft_source = Some(DraftSource::PromptLookup);
        };
        assert_eq!(
            found(guess),
            "a step with guesses has 2 rows, above rows_per_pass"
        );
    }

    #[test]
    fn a_request_that_contradicts_its_sequences_is_found() {
        assert_eq!(
            found(|all| all.requests[0].output.timestamps.finished = Some(1.0)),
            "request 0: finished and not finished"
        );
        assert_eq!(
            found(|all| all.requests[2].slots[1] = None),
            "request 2: a sequence is lost"
        );
        let not_its_own: [fn(&mut Scheduler); 5] = [
            |all| all.sequences.request[2] = 0,
            |all| all.requests[2].slots.swap(0, 1),
            |all| all.requests[2].background = true,
            |all| all.sequences.num_tokens[2] = 19,
            |all| all.requests[2].output.sequences[0].finish_reason = Some(FinishReason::Stop),
        ];
        for damage in not_its_own {
            let error = found(damage);
            assert!(
                error.starts_with("request 2: slot") && error.ends_with("is not its own"),
                "{error}"
            );
        }
        let grow = |all: &mut Scheduler| {
            all.requests[2].output.prompt_token_ids.resize(200, 3);
            all.sequences.num_tokens[2..4].fill(200);
        };
        assert_eq!(found(grow), "request 2 outgrew the KV cache");
        assert_eq!(
            found(|all| all.requests[2].prompt_done = true),
            "request 2: slot 3 was never released"
        );
    }

    #[test]
    fn a_wrong_count_of_requests_or_slots_is_found() {
        assert_eq!(
            found(|all| all.num_waiting[1].add(20)),
            "the counters of waiting requests are wrong"
        );
        let lose = |all: &mut Scheduler| {
            let id = all.requests[0].output.request_id;
            all.requests.remove(id);
        };
        assert_eq!(found(lose), "a sequence slot belongs to nobody");
    }

    #[test]
    fn damage_to_a_part_is_found_by_the_whole() {
        assert_eq!(
            found(|all| all.kv.release(0)),
            "group 0: slot 0 has fewer blocks than K and V"
        );
        let policy = Policy::FairShare {
            input_weight: 1,
            output_weight: 2,
        };
        let mut fair = scheduler(SchedulerConfig { policy, ..config() });
        fair.tenants.as_mut().unwrap().open(0);
        assert_eq!(
            fair.check_integrity().unwrap_err(),
            "tenant 0: its sequences are miscounted"
        );
    }
}
