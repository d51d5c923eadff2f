//! `update`: account for a step's result.

use super::Scheduler;
use super::fill::uint32;
use super::plan::Scheduled;
use super::sequences::SequenceStatus;
use crate::drafting::DraftSource;
use crate::request::FinishReason;
use inferlib_program::RequestId;
use inferlib_program::program::Rows;
use inferlib_program::{RowStatus, StepOutput};

/// What a step brought, as parallel arrays that are valid until the next one: no object per request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// `[num_tokens]`: whose token.
    pub request_ids: Vec<RequestId>,
    /// `[num_tokens]`: which of its sequences.
    pub sequence_indices: Vec<u32>,
    /// `[num_tokens]`: which of the sequence's output tokens. A step may bring several of one sequence, in order.
    pub token_indices: Vec<u32>,
    /// `[num_tokens]`: the token appended.
    pub token_ids: Vec<i32>,
    /// `[num_tokens]`: whether the sequence ended with it.
    pub finished: Vec<bool>,
    /// Requests whose last sequence ended in this step, also without a token (errors, prompts only scored).
    pub finished_requests: Vec<RequestId>,
}

impl Events {
    pub(super) fn clear(&mut self) {
        self.request_ids.clear();
        self.sequence_indices.clear();
        self.token_indices.clear();
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
    #[error("the step needs {expected} entries but `{array}` holds {found}")]
    Length {
        /// Which array of the output.
        array: &'static str,
        /// Rows of logits of the batch, or its captures.
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
        let (mut row, mut capture) = (0, 0);
        let num_seqs = scheduled.len() as u64;
        for entry in scheduled.drain(..) {
            if self.sequences.generation[entry.slot] == entry.generation {
                self.record(&entry, num_seqs);
                self.take_captures(&entry, &output.captures[capture..]);
                self.advance(entry, output, row, now);
            }
            row += entry.num_rows();
            capture += entry.num_captures;
        }
        self.scheduled = scheduled;
        self.end_overdue(now);
        self.tell_overdue();
        if let Some(log) = &mut self.log {
            log.update(output, &self.events, now);
        }
        Ok(&self.events)
    }

    fn check_output(&self, output: &StepOutput) -> Result<(), UpdateError> {
        if self.scheduled.is_empty() {
            return Err(UpdateError::NoStep);
        }
        let expected = self.scheduled.iter().map(Scheduled::num_rows).sum();
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
        let (expected, found) = (
            self.scheduled.iter().map(|entry| entry.num_captures).sum(),
            output.captures.len(),
        );
        if found != expected {
            let array = "captures";
            return Err(UpdateError::Length {
                array,
                expected,
                found,
            });
        }
        if !self.wants_logprobs {
            return Ok(()); // no need to visit every request
        }
        let mut first = 0;
        for entry in &self.scheduled {
            if self.sequences.generation[entry.slot] == entry.generation {
                let wanted = match self.params(entry.slot).logprobs {
                    Some(_) => entry.num_rows(),
                    None => entry.num_scored,
                };
                for row in first..first + wanted {
                    if output.status[row] == RowStatus::Ok && output.logprobs[row].is_none() {
                        return Err(UpdateError::MissingLogprobs { row });
                    }
                }
            }
            first += entry.num_rows();
        }
        Ok(())
    }

    /// Append the rows that were captured for a sequence's request; `rows` begins with its own.
    fn take_captures(&mut self, entry: &Scheduled, rows: &[Vec<f32>]) {
        if entry.num_captures == 0 {
            return;
        }
        let slot = entry.slot;
        let end = self.sequences.num_computed_tokens[slot] + entry.num_tokens;
        let request = &mut self.requests[self.sequences.request[slot]];
        let num_prompt_tokens = request.num_prompt_tokens();
        let mut rows = rows.iter();
        for (point, taken) in request
            .captures
            .points
            .iter()
            .zip(&mut request.output.captures)
        {
            // As `fill_captures` chose them.
            let given = match point.rows {
                Rows::Tokens => request.next_captured < end.min(num_prompt_tokens),
                Rows::Sampled => entry.num_prompt_logits(request.prompt_done) > 0,
                Rows::Sequences => !request.prompt_done && end == num_prompt_tokens,
            };
            if given && let Some(rows) = rows.next() {
                taken.extend_from_slice(rows);
            }
        }
        if request.next_captured < num_prompt_tokens {
            request.next_captured = request.next_captured.max(end.min(num_prompt_tokens));
        }
    }

    /// Account for one sequence of the step; `first_row` is its first row of logits.
    fn advance(&mut self, entry: Scheduled, output: &StepOutput, first_row: usize, now: f64) {
        let slot = entry.slot;
        let index = self.sequences.request[slot];
        let first_draw = first_row + entry.num_scored;
        // What came of a drafted token counts only if that token was drawn.
        let certain = first_row..(first_row + entry.num_rows() - entry.num_drafts);
        if output.status[certain].contains(&RowStatus::Failed) {
            self.fail(slot, now);
            return;
        }
        self.kv.copies_done(slot);
        let draws = entry.num_sampled > 0 && output.status[first_draw] != RowStatus::Redraw;
        // The row of a token that is drawn once more is computed once more.
        let num_again = usize::from(entry.num_sampled > 0 && !draws);
        self.compute(slot, entry.num_tokens - entry.num_drafts - num_again);

        let computed = self.sequences.num_computed_tokens[slot];
        let request = &mut self.requests[index];
        let scored = &output.logprobs[first_row..first_draw];
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
        if draws {
            let alive = self.append(slot, output, first_draw, now);
            if entry.num_drafts > 0 {
                self.verify(entry, output, first_draw, alive, now);
            }
        } else if entry.num_drafts > 0 {
            self.drop_draft_blocks(slot);
        }
    }

    /// Go through a draft as decoding would have: as long as the token drawn is the one drafted, the row behind it was
    /// computed from the right tokens, and its draw counts. The rest is forgotten.
    fn verify(
        &mut self,
        entry: Scheduled,
        output: &StepOutput,
        first_draw: usize,
        mut alive: bool,
        now: f64,
    ) {
        let slot = entry.slot;
        let index = self.sequences.request[slot];
        let mut num_accepted = 0;
        while alive && num_accepted < entry.num_drafts {
            let row = first_draw + num_accepted;
            if output.token_ids[row] != self.drafts.tokens[entry.draft_start + num_accepted] {
                break;
            }
            num_accepted += 1;
            match output.status[row + 1] {
                RowStatus::Ok => {
                    self.compute(slot, 1);
                    alive = self.append(slot, output, row + 1, now);
                }
                RowStatus::Failed => {
                    self.fail(slot, now);
                    alive = false;
                }
                RowStatus::Redraw => break,
            }
        }
        let request = &mut self.requests[index].output;
        let (drafted, accepted) = (entry.num_drafts as u64, num_accepted as u64);
        match entry.draft_source {
            None => {
                self.totals.num_forced_tokens += accepted;
                request.num_forced_tokens += accepted;
            }
            Some(source) => {
                self.totals.num_drafted_tokens += drafted;
                self.totals.num_accepted_tokens += accepted;
                request.num_drafted_tokens += drafted;
                request.num_accepted_tokens += accepted;
                if source == DraftSource::Model {
                    self.totals.num_model_drafted_tokens += drafted;
                    self.totals.num_model_accepted_tokens += accepted;
                    request.num_model_drafted_tokens += drafted;
                    request.num_model_accepted_tokens += accepted;
                }
            }
        }
        if alive {
            if let Some(source) = entry.draft_source {
                self.drafts
                    .observe(slot, source, entry.num_drafts, num_accepted);
            }
            self.drop_draft_blocks(slot);
        }
    }

    /// The next `num_tokens` tokens of a sequence have their K and V: publish the blocks that became full.
    fn compute(&mut self, slot: usize, num_tokens: usize) {
        let computed = self.sequences.num_computed_tokens[slot] + num_tokens;
        self.sequences.num_computed_tokens[slot] = computed;
        if self.kv.has_to_publish(slot, computed) {
            let request = &self.requests[self.sequences.request[slot]];
            let tokens = request.tokens(self.sequences.rank[slot].sequence_index);
            self.kv.publish(slot, tokens, computed);
        }
    }

    /// A row of a sequence's logits was not numbers, or nothing was left to draw from.
    fn fail(&mut self, slot: usize, now: f64) {
        let index = self.sequences.request[slot];
        self.kv.unpublish(slot);
        if self.requests[index].prompt_done {
            self.end_sequence(slot, FinishReason::Error, None, now);
        } else {
            self.end_request(index, FinishReason::Error, now); // its siblings would meet the same
        }
        self.note_finished(index);
    }

    /// Append the token drawn in `row`; end the sequence if it says so. Whether it lives on.
    fn append(&mut self, slot: usize, output: &StepOutput, row: usize, now: f64) -> bool {
        let token = output.token_ids[row];
        let index = self.sequences.request[slot];
        let sequence_index = self.sequences.rank[slot].sequence_index;
        self.sequences.num_tokens[slot] += 1;
        self.drafts.forget_told(slot);
        self.totals.num_output_tokens += 1;
        if let Some((tenants, tenant)) = self.tenant_of(slot) {
            tenants.charge_output(tenant);
        }

        let request = &mut self.requests[index];
        let sequence = &mut request.output.sequences[sequence_index as usize];
        let token_index = sequence.token_ids.len();
        let may_stop = token_index >= request.params.min_tokens as usize;
        sequence.token_ids.push(token);
        if request.params.logprobs.is_some() {
            sequence.logprobs.extend(output.logprobs[row].clone());
        }
        if let Some(mu) = request.mirostat_mu.get_mut(sequence_index as usize)
            && let Ok(found) = output
                .mirostat_mu
                .binary_search_by_key(&row, |&(row, _)| row)
        {
            *mu = output.mirostat_mu[found].1;
        }
        request.output.timestamps.first_token.get_or_insert(now);
        request.output.timestamps.last_token = Some(now);

        let params = &request.params;
        let ending = if may_stop && is_among(&params.eos_token_ids, token) {
            Some((FinishReason::Stop, None))
        } else if may_stop && is_among(&params.stop_token_ids, token) {
            Some((FinishReason::Stop, Some(token)))
        } else if sequence.token_ids.len() >= request.max_tokens {
            Some((FinishReason::Length, None))
        } else {
            None
        };
        self.events.request_ids.push(request.output.request_id);
        self.events.sequence_indices.push(sequence_index);
        self.events.token_indices.push(uint32(token_index));
        self.events.token_ids.push(token);
        self.events.finished.push(ending.is_some());
        if let Some((reason, stop_token_id)) = ending {
            self.end_sequence(slot, reason, stop_token_id, now);
            self.note_finished(index);
        }
        ending.is_none()
    }

    fn note_finished(&mut self, index: usize) {
        let output = &self.requests[index].output;
        if output.is_finished() {
            self.events.finished_requests.push(output.request_id);
        }
    }
}

/// Whether ascending ids hold `token`. End tokens lie close together, most tokens outside of them.
fn is_among(ids: &[i32], token: i32) -> bool {
    let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
        return false;
    };
    (first..=last).contains(&token) && ids.binary_search(&token).is_ok()
}

impl SequenceStatus {
    /// Whether the sequence is in the queue.
    pub(super) fn is_queued(self) -> bool {
        matches!(self, Self::Waiting | Self::Preempted)
    }
}
