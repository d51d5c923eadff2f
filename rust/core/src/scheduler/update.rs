//! `update`: account for a step's result.

use super::Scheduler;
use super::plan::Scheduled;
use super::sequences::SequenceStatus;
use crate::batch::{RowStatus, StepOutput};
use crate::request::{FinishReason, RequestId};

/// What a step brought, as parallel arrays that are valid until the next one: no object per request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// `[num_tokens]`: whose token.
    pub request_ids: Vec<RequestId>,
    /// `[num_tokens]`: which of its sequences.
    pub sequence_indices: Vec<u32>,
    /// `[num_tokens]`: the token appended.
    pub token_ids: Vec<i32>,
    /// `[num_tokens]`: whether the sequence ended with it.
    pub finished: Vec<bool>,
    /// Requests whose last sequence ended in this step, also without a token (errors, prompts only scored).
    pub finished_requests: Vec<RequestId>,
}

impl Events {
    fn clear(&mut self) {
        self.request_ids.clear();
        self.sequence_indices.clear();
        self.token_ids.clear();
        self.finished.clear();
        self.finished_requests.clear();
    }
}

/// A step's result that does not belong to the step in flight. Nothing changes; the step stays in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// `update` without `schedule`.
    #[error("no step is in flight")]
    NoStep,
    /// The arrays have the wrong length.
    #[error("the step has {expected} rows of logits but `{array}` holds {found}")]
    Length {
        /// Which array of the output.
        array: &'static str,
        /// Rows of the batch.
        expected: usize,
        /// As given.
        found: usize,
    },
    /// Log-probabilities were asked for and are not there.
    #[error("row {row} asked for log-probabilities and the executor gave none")]
    MissingLogprobs {
        /// Row of the batch.
        row: usize,
    },
}

impl Scheduler {
    /// Append the drawn tokens, end what is to end, publish the blocks that became full.
    pub fn update(&mut self, output: &StepOutput, now: f64) -> Result<&Events, UpdateError> {
        self.check_output(output)?;
        self.events.clear();
        let mut scheduled = std::mem::take(&mut self.scheduled);
        let mut row = 0;
        for entry in scheduled.drain(..) {
            let rows = row..row + entry.num_scored + usize::from(entry.samples);
            row = rows.end;
            if self.sequences.generation[entry.slot] == entry.generation {
                self.advance(entry, output, rows, now);
            }
        }
        self.scheduled = scheduled;
        Ok(&self.events)
    }

    fn check_output(&self, output: &StepOutput) -> Result<(), UpdateError> {
        if self.scheduled.is_empty() {
            return Err(UpdateError::NoStep);
        }
        let rows = |entry: &Scheduled| entry.num_scored + usize::from(entry.samples);
        let expected = self.scheduled.iter().map(rows).sum();
        for (array, found) in [
            ("token_ids", output.token_ids.len()),
            ("status", output.status.len()),
            ("logprobs", output.logprobs.len()),
        ] {
            if found != expected {
                return Err(UpdateError::Length {
                    array,
                    expected,
                    found,
                });
            }
        }
        let mut first = 0;
        for entry in &self.scheduled {
            let sampled = first + entry.num_scored;
            if self.sequences.generation[entry.slot] == entry.generation {
                let wanted = entry.samples && self.params(entry.slot).logprobs.is_some();
                for row in first..sampled + usize::from(wanted) {
                    if output.status[row] == RowStatus::Ok && output.logprobs[row].is_none() {
                        return Err(UpdateError::MissingLogprobs { row });
                    }
                }
            }
            first += rows(entry);
        }
        Ok(())
    }

    fn advance(
        &mut self,
        entry: Scheduled,
        output: &StepOutput,
        rows: std::ops::Range<usize>,
        now: f64,
    ) {
        let slot = entry.slot;
        let index = self.sequences.request[slot];
        if output.status[rows.clone()].contains(&RowStatus::Failed) {
            self.kv.unpublish(slot);
            if self.requests[index].prompt_done {
                self.end_sequence(slot, FinishReason::Error, None, now);
            } else {
                self.end_request(index, FinishReason::Error, now); // its siblings would meet the same
            }
            self.note_finished(index);
            return;
        }

        let computed = self.sequences.num_computed_tokens[slot] + entry.num_tokens;
        self.sequences.num_computed_tokens[slot] = computed;
        let sequence_index = self.sequences.rank[slot].sequence_index;
        self.kv.copies_done(slot);
        self.kv
            .publish(slot, self.requests[index].tokens(sequence_index), computed);

        let request = &mut self.requests[index];
        let scored = &output.logprobs[rows.start..rows.start + entry.num_scored];
        if let Some(prompt_logprobs) = &mut request.output.prompt_logprobs {
            prompt_logprobs.extend(scored.iter().flatten().cloned());
            request.next_scored += scored.len();
        }
        if !request.prompt_done && computed >= request.num_prompt_tokens() {
            request.prompt_done = true;
            request.output.timestamps.prefill_done = Some(now);
            if request.max_tokens == 0 {
                self.end_request(index, FinishReason::Length, now);
                self.note_finished(index);
                return;
            }
            self.release_siblings(index, slot);
        }
        if entry.samples {
            self.append(slot, output, rows.end - 1, now);
        }
    }

    /// Append the token drawn in `row`; end the sequence if it says so.
    fn append(&mut self, slot: usize, output: &StepOutput, row: usize, now: f64) {
        let token = output.token_ids[row];
        let index = self.sequences.request[slot];
        let sequence_index = self.sequences.rank[slot].sequence_index;
        self.sequences.num_tokens[slot] += 1;
        self.totals.num_output_tokens += 1;

        let request = &mut self.requests[index];
        let sequence = &mut request.output.sequences[sequence_index as usize];
        let may_stop = sequence.token_ids.len() >= request.params.min_tokens as usize;
        sequence.token_ids.push(token);
        if request.params.logprobs.is_some() {
            sequence.logprobs.extend(output.logprobs[row].clone());
        }
        request.output.timestamps.first_token.get_or_insert(now);
        request.output.timestamps.last_token = Some(now);

        let params = &request.params;
        let ending = if may_stop && params.eos_token_ids.binary_search(&token).is_ok() {
            Some((FinishReason::Stop, None))
        } else if may_stop && params.stop_token_ids.binary_search(&token).is_ok() {
            Some((FinishReason::Stop, Some(token)))
        } else if sequence.token_ids.len() >= request.max_tokens {
            Some((FinishReason::Length, None))
        } else {
            None
        };
        self.events.request_ids.push(request.output.request_id);
        self.events.sequence_indices.push(sequence_index);
        self.events.token_ids.push(token);
        self.events.finished.push(ending.is_some());
        if let Some((reason, stop_token_id)) = ending {
            self.end_sequence(slot, reason, stop_token_id, now);
            self.note_finished(index);
        }
    }

    fn note_finished(&mut self, index: usize) {
        let output = &self.requests[index].output;
        if output.is_finished() {
            self.events.finished_requests.push(output.request_id);
        }
    }
}

impl SequenceStatus {
    /// Whether the sequence is in the queue.
    pub(super) fn is_queued(self) -> bool {
        matches!(self, Self::Waiting | Self::Preempted)
    }
}
