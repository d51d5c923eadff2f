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
