//! The plan as flat arrays. All buffers keep their capacity from step to step.

use std::ops::Range;
use std::sync::Arc;

use super::Scheduler;
use super::requests::Request;
use crate::kv_cache::{BlockId, KvCache, TokenView};
use inferlib_program::BLOCK_SIZE;
use inferlib_program::RequestId;
use inferlib_program::SamplingParams;
use inferlib_program::program::Rows as RowKind;
use inferlib_program::{Batch, CapturedRows, GroupBatch, LogitsRow, SampledRow};

/// Counts, positions and slots are limited at construction so that they fit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "see above"
)]
fn int32(value: usize) -> i32 {
    debug_assert!(i32::try_from(value).is_ok());
    value as i32
}

#[expect(clippy::cast_possible_truncation, reason = "see `int32`")]
pub(super) fn uint32(value: usize) -> u32 {
    value as u32
}

impl Scheduler {
    /// Refill `batch` from the plan, and note in the plan which rows of logits belong to whom.
    pub(super) fn fill(&mut self, batch: &mut Batch) {
        clear(batch, self.kv.num_groups());
        batch.step = self.totals.num_steps + 1;
        if !self.scheduled.is_empty() {
            self.totals.num_steps += 1;
        }
        let mut scheduled = std::mem::take(&mut self.scheduled);
        let mut sampled = std::mem::take(&mut batch.sampled);
        self.wants_logprobs = false;
        let mut rows = Rows {
            rows: &mut sampled,
            count: 0,
        };
        for (sequence, entry) in scheduled.iter_mut().enumerate() {
            let slot = entry.slot;
            let start = self.sequences.num_computed_tokens[slot];
            let end = start + entry.num_tokens;
            let index = self.sequences.rank[slot].sequence_index;
            let request = &self.requests[self.sequences.request[slot]];
            let tokens = request.tokens(index);
            let row = Row {
                sequence: uint32(sequence),
                params: &request.params,
                seed: request.seed,
                sequence_index: index,
                request: request.output.request_id,
                mirostat_mu: request.mirostat_mu(index),
            };
            self.wants_logprobs |= request.params.logprobs.is_some();
            let first_row = batch.token_ids.len();
            batch.seq_lens.push(int32(end));
            fill_adapter(batch, sequence, request.adapter);
            // Almost every row of almost every step: the token drawn last, and the next one is to be drawn.
            if let (1, 0, false, Some(&token)) = (
                entry.num_tokens,
                entry.num_drafts,
                request.needs_history,
                tokens.output.last(),
            ) && end == tokens.len()
            {
                (entry.num_scored, entry.num_sampled) = (0, 1);
                if !batch.segment_ids.is_empty() {
                    batch.segment_ids.resize(first_row + 1, 0);
                }
                batch.token_ids.push(token);
                batch.positions.push(int32(start));
                batch.query_start_loc.push(int32(first_row + 1));
                batch.logits_indices.push(int32(first_row));
                for (group, arrays) in batch.groups.iter_mut().enumerate() {
                    fill_group(&self.kv, slot, group, start..end, arrays);
                }
                rows.put(row, LogitsRow::Sample, end, 0..0, tokens);
                continue;
            }
            let drafts = &self.drafts.tokens[entry.draft_start..][..entry.num_drafts];
            tokens.extend_into(start..end - drafts.len(), &mut batch.token_ids);
            batch.token_ids.extend_from_slice(drafts);
            batch.positions.extend((start..end).map(int32));
            batch.query_start_loc.push(int32(batch.token_ids.len()));
            for (group, arrays) in batch.groups.iter_mut().enumerate() {
                fill_group(&self.kv, slot, group, start..end, arrays);
            }
            fill_segments(batch, first_row, start..end, request.second_segment);
            let first_logits = batch.logits_indices.len();
            // The logits of position p - 1 score the prompt token at p.
            let scored = request.next_scored.max(start + 1)
                ..(end + 1).min(request.num_prompt_tokens()).max(start + 1);
            entry.num_scored = scored.len();
            self.wants_logprobs |= entry.num_scored > 0;
            for position in scored {
                batch
                    .logits_indices
                    .push(int32(first_row + position - 1 - start));
                let target = tokens.prompt[position];
                rows.put(row, LogitsRow::Score { target }, position, 0..0, tokens);
            }
            let draws = end - drafts.len() == tokens.len() && request.max_tokens > 0;
            entry.num_sampled = if draws { 1 + drafts.len() } else { 0 };
            let history_start = batch.history.len();
            if draws && request.needs_history {
                tokens.extend_into(0..tokens.len(), &mut batch.history);
                batch.history.extend_from_slice(drafts);
            }
            for draw in 0..entry.num_sampled {
                let position = tokens.len() + draw;
                batch
                    .logits_indices
                    .push(int32(first_row + position - 1 - start));
                // The rows of a draft read more and more of the same tokens.
                let history = if request.needs_history {
                    history_start..history_start + position
                } else {
                    0..0
                };
                rows.put(row, LogitsRow::Sample, position, history, tokens);
            }
            let logits = first_logits..first_logits + entry.num_prompt_logits(request.prompt_done);
            let firsts = (first_row, sequence, logits);
            entry.num_captures = fill_captures(batch, request, firsts, start..end);
        }
        rows.finish();
        batch.sampled = sampled;
        self.scheduled = scheduled;
    }
}

/// What all rows of a sequence have in common.
#[derive(Clone, Copy)]
struct Row<'a> {
    sequence: u32,
    params: &'a Arc<SamplingParams>,
    seed: u64,
    sequence_index: u32,
    request: RequestId,
    mirostat_mu: f32,
}

/// The rows of the step before are overwritten: a sequence that goes on decoding finds its parameters where it needs
/// them, and nobody counts references up and down.
struct Rows<'a> {
    rows: &'a mut Vec<SampledRow>,
    count: usize,
}

impl Rows<'_> {
    /// The next row, whose logits say what comes at `position`; `history` is its range of `Batch::history`.
    #[inline]
    fn put(
        &mut self,
        row: Row<'_>,
        kind: LogitsRow,
        position: usize,
        history: Range<usize>,
        tokens: TokenView<'_>,
    ) {
        if self.count == self.rows.len() {
            self.add(row, kind);
        }
        let num_prompt_tokens = tokens.prompt.len();
        let (history_prompt_len, history_output_len) = match history.len() {
            0 => (0, 0),
            count => (num_prompt_tokens, count - num_prompt_tokens),
        };
        let this = &mut self.rows[self.count];
        if !Arc::ptr_eq(&this.params, row.params) {
            this.params = Arc::clone(row.params);
        }
        this.kind = kind;
        this.sequence = row.sequence;
        this.request = row.request;
        this.mask = None;
        this.wants_logits = false;
        this.seed = row.seed;
        this.mirostat_mu = row.mirostat_mu;
        this.sequence_index = row.sequence_index;
        this.position = uint32(position);
        this.num_output_tokens = uint32(position.saturating_sub(num_prompt_tokens));
        this.history_start = uint32(history.start);
        this.history_prompt_len = uint32(history_prompt_len);
        this.history_output_len = uint32(history_output_len);
        self.count += 1;
    }

    /// More rows than in the steps before: one that `put` overwrites.
    #[cold]
    fn add(&mut self, row: Row<'_>, kind: LogitsRow) {
        self.rows.push(SampledRow {
            kind,
            sequence: row.sequence,
            request: row.request,
            params: Arc::clone(row.params),
            seed: row.seed,
            sequence_index: row.sequence_index,
            position: 0,
            num_output_tokens: 0,
            history_start: 0,
            history_prompt_len: 0,
            history_output_len: 0,
            mirostat_mu: 0.0,
            mask: None,
            wants_logits: false,
        });
    }

    /// There are no more.
    fn finish(self) {
        self.rows.truncate(self.count);
    }
}

/// The adapter of a sequence, once any has one.
#[inline]
fn fill_adapter(batch: &mut Batch, sequence: usize, adapter: u32) {
    if adapter != 0 || !batch.adapters.is_empty() {
        batch.adapters.resize(sequence, 0); // of those before the first that has one
        batch.adapters.push(adapter);
    }
}

/// The segments of the rows from `first_row` on, once any token is of a second text.
fn fill_segments(batch: &mut Batch, first_row: usize, positions: Range<usize>, second: usize) {
    if batch.segment_ids.is_empty() && second >= positions.end {
        return;
    }
    batch.segment_ids.resize(first_row, 0);
    let segment = |position: usize| i32::from(position >= second);
    batch.segment_ids.extend(positions.map(segment));
}

/// What a request wants of the rows of these positions; how many entries that is. Tokens that were generated, or computed
/// again after a preemption, are not handed out.
fn fill_captures(
    batch: &mut Batch,
    request: &Request,
    (first_row, sequence, logits): (usize, usize, Range<usize>),
    positions: Range<usize>,
) -> usize {
    let before = batch.captures.len();
    let prompt_end = positions.end.min(request.num_prompt_tokens());
    let wanted = request.next_captured.max(positions.start)..prompt_end;
    for point in &request.captures.points {
        let rows = match point.rows {
            RowKind::Sequences
                if !request.prompt_done && positions.end == request.num_prompt_tokens() =>
            {
                sequence..sequence + 1
            }
            RowKind::Tokens if !wanted.is_empty() => {
                let row = |position: usize| first_row + position - positions.start;
                row(wanted.start)..row(wanted.end)
            }
            RowKind::Sampled if !logits.is_empty() => logits.clone(),
            _ => continue,
        };
        batch.captures.push(CapturedRows {
            point: point.point,
            start: uint32(rows.start),
            end: uint32(rows.end),
        });
    }
    batch.captures.len() - before
}

fn clear(batch: &mut Batch, num_groups: usize) {
    batch.token_ids.clear();
    batch.segment_ids.clear();
    batch.captures.clear();
    batch.positions.clear();
    batch.query_start_loc.clear();
    batch.query_start_loc.push(0);
    batch.seq_lens.clear();
    batch.adapters.clear();
    batch.logits_indices.clear();
    batch.history.clear();
    batch.groups.resize_with(num_groups, GroupBatch::default);
    for group in &mut batch.groups {
        group.slot_mapping.clear();
        group.block_table_start_loc.clear();
        group.block_table_start_loc.push(0);
        group.block_tables.clear();
        group.block_copies.clear();
    }
}

fn fill_group(
    kv: &KvCache,
    slot: usize,
    group: usize,
    positions: Range<usize>,
    arrays: &mut GroupBatch,
) {
    let table = &kv.table(slot, group)[..positions.end.div_ceil(BLOCK_SIZE)];
    if let Some(source) = kv.copy_source(slot, group) {
        let target = table[positions.start / BLOCK_SIZE];
        arrays
            .block_copies
            .extend([block_id(source), block_id(target)]);
    }
    let slot_of = |position: usize| {
        let block = table[position / BLOCK_SIZE] as usize;
        int32(block * BLOCK_SIZE + position % BLOCK_SIZE)
    };
    if positions.len() == 1 {
        arrays.slot_mapping.push(slot_of(positions.start));
    } else {
        arrays.slot_mapping.extend(positions.map(slot_of));
    }
    arrays
        .block_tables
        .extend(table.iter().copied().map(block_id));
    arrays
        .block_table_start_loc
        .push(int32(arrays.block_tables.len()));
}

#[expect(clippy::cast_possible_wrap, reason = "below MAX_BLOCKS")]
fn block_id(block: BlockId) -> i32 {
    block as i32
}
