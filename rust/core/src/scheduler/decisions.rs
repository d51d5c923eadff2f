//! The scheduler's side of the decision log.

use std::io::{self, Write};

use super::Scheduler;
use super::fill::uint32;
use crate::decision_log::{DecisionLog, PlannedRow};
use crate::request::NewRequest;

impl Scheduler {
    /// Write everything from now on to `out`: what this scheduler is told, and what it decides.
    ///
    /// # Panics
    /// Something was submitted or opened already: the log would not replay.
    pub fn log_decisions(&mut self, out: Box<dyn Write + Send>) -> io::Result<()> {
        let is_fresh = self.num_arrivals == 0 && self.held.is_fresh();
        assert!(is_fresh, "a log begins with the scheduler");
        self.log = Some(DecisionLog::begin(out, &self.config)?);
        Ok(())
    }

    /// End the log. Why it ended earlier, if it could not be written any more.
    pub fn end_decision_log(&mut self) -> Option<io::Error> {
        self.log.take()?.end()
    }

    /// The step in flight.
    #[must_use]
    pub fn planned(&self) -> impl ExactSizeIterator<Item = PlannedRow> {
        self.scheduled.iter().map(|entry| PlannedRow {
            request_id: self.requests[self.sequences.request[entry.slot]]
                .output
                .request_id,
            sequence_index: self.sequences.rank[entry.slot].sequence_index,
            num_tokens: uint32(entry.num_tokens),
            num_drafts: uint32(entry.num_drafts),
        })
    }

    /// About what a request will take, its output and block tables included.
    pub(crate) fn request_bytes(&self, request: &NewRequest) -> u64 {
        let most = self.kv.capacity().min(self.config.max_model_len);
        let output = most.min(request.params.max_tokens as usize);
        let prompt = request.prompt.len();
        self.sequence_bytes(prompt, output, request.n as usize)
            .saturating_add(4 * prompt as u64)
    }

    /// About what all requests and held sequences take.
    pub(crate) fn estimated_bytes(&self) -> u64 {
        let requests = self.requests.iter().map(|(_, request)| {
            let prompt = request.num_prompt_tokens();
            let num_sequences = request.output.sequences.len();
            self.sequence_bytes(prompt, request.max_tokens, num_sequences)
                .saturating_add(4 * prompt as u64 + 1024)
        });
        let num_groups = self.config.groups.len();
        let held = self.held.sizes().map(|(num_tokens, num_blocks)| {
            (4 * num_tokens + 4 * num_blocks * num_groups + 1024) as u64
        });
        requests.chain(held).sum()
    }

    /// Tokens, log-probabilities, block tables and the index of drafts of a request's sequences.
    fn sequence_bytes(&self, prompt: usize, output: usize, num_sequences: usize) -> u64 {
        let tables =
            (prompt + output).div_ceil(inferlib_program::BLOCK_SIZE) * 4 * self.config.groups.len();
        let drafts = if self.config.guesses() {
            64 * (prompt + output)
        } else {
            0
        };
        let own = 512 + 72 * output + tables + drafts;
        (own as u64).saturating_mul(num_sequences as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::PromptLookup;
    use crate::scheduler::SchedulerConfig;
    use crate::scheduler::samples::{config, request};

    #[test]
    fn a_request_is_estimated_as_it_was_announced_until_it_is_taken() {
        let mut scheduler = Scheduler::new(config()).unwrap();
        assert_eq!(scheduler.estimated_bytes(), 0);
        let new = NewRequest { n: 3, ..request(1) };
        let announced = scheduler.request_bytes(&new) + 1024;
        let id = scheduler.submit(new, 0.0).unwrap();
        assert_eq!(scheduler.estimated_bytes(), announced);
        scheduler.cancel(id, 1.0);
        scheduler.take(id).unwrap();
        assert_eq!(scheduler.estimated_bytes(), 0);
    }

    #[test]
    fn an_estimate_counts_tokens_tables_and_drafts_of_every_sequence() {
        let estimate = |config, n| {
            let new = NewRequest { n, ..request(1) };
            Scheduler::new(config).unwrap().request_bytes(&new)
        };
        // 20 tokens of a prompt and 8 to come fill two blocks.
        let (prompt, own, table) = (4 * 20, 512 + 72 * 8, 2 * 4);
        assert_eq!(estimate(config(), 1), own + table + prompt);
        assert_eq!(estimate(config(), 3), 3 * (own + table) + prompt);
        let mut two_groups = config();
        two_groups.groups.push(two_groups.groups[0]);
        assert_eq!(estimate(two_groups, 1), own + 2 * table + prompt);
        let drafting = SchedulerConfig {
            speculation: Some(PromptLookup::default()),
            ..config()
        };
        assert_eq!(estimate(drafting, 1), own + table + prompt + 64 * (20 + 8));
    }

    #[test]
    fn a_held_sequence_is_estimated_by_its_tokens_and_tables() {
        let mut two_groups = config();
        two_groups.groups.push(two_groups.groups[0]);
        let mut scheduler = Scheduler::new(two_groups).unwrap();
        let id = scheduler.open_sequence(None);
        assert_eq!(scheduler.estimated_bytes(), 1024);
        assert_eq!(scheduler.restore_sequence(id, vec![1; 50], 40), Ok(true));
        // 50 tokens, and three blocks in each of two groups.
        assert_eq!(scheduler.estimated_bytes(), 4 * 50 + 2 * (4 * 3) + 1024);
        assert!(scheduler.close_sequence(id));
        assert_eq!(scheduler.estimated_bytes(), 0);
    }
}
