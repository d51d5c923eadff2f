//! What a batch must fulfil before raw pointers follow it.

use std::ops::Range;

use inferlib_program::program::{Program, Rows};
use inferlib_program::{BLOCK_SIZE, Batch};

use crate::error::CpuError;
use crate::executor::CpuExecutor;

fn invalid(field: &'static str, why: impl Into<String>) -> CpuError {
    CpuError::Batch {
        field,
        why: why.into(),
    }
}

/// Lengths agree, ids and blocks are in range. Costs a pass over the batch's arrays.
pub(crate) fn check_batch(executor: &CpuExecutor, batch: &Batch) -> Result<(), CpuError> {
    let (tokens, seqs) = (batch.num_tokens(), batch.num_seqs());
    if tokens == 0 || tokens > executor.max_tokens {
        return Err(invalid(
            "token_ids",
            format!(
                "{tokens} tokens; the executor takes 1 to {}",
                executor.max_tokens
            ),
        ));
    }
    if batch.positions.len() != tokens {
        return Err(invalid("positions", "its length differs from token_ids"));
    }
    let vocab_size = executor.program.vocab_size;
    if batch
        .token_ids
        .iter()
        .any(|&id| usize::try_from(id).map_or(true, |id| id >= vocab_size))
    {
        return Err(invalid("token_ids", "an id is outside the vocabulary"));
    }
    check_starts("query_start_loc", &batch.query_start_loc, seqs, tokens)?;
    check_rows(executor, batch)?;
    let known = |&id: &u32| id == 0 || executor.adapters.contains_key(&id);
    if !batch.adapters.is_empty() && batch.adapters.len() != seqs
        || !batch.adapters.iter().all(known)
    {
        return Err(invalid(
            "adapters",
            "one per sequence is needed, each of them loaded",
        ));
    }
    if batch.groups.len() != executor.caches.len() {
        return Err(invalid(
            "groups",
            "one per KV group of the program is needed",
        ));
    }
    for (group, cache) in batch.groups.iter().zip(&executor.caches) {
        let blocks = cache.num_blocks;
        if group.slot_mapping.len() != tokens
            || group
                .slot_mapping
                .iter()
                .any(|&slot| usize::try_from(slot).map_or(true, |slot| slot >= blocks * BLOCK_SIZE))
        {
            return Err(invalid(
                "slot_mapping",
                "its length or a slot is out of range",
            ));
        }
        check_starts(
            "block_table_start_loc",
            &group.block_table_start_loc,
            seqs,
            group.block_tables.len(),
        )?;
        if group
            .block_tables
            .iter()
            .chain(&group.block_copies)
            .any(|&b| usize::try_from(b).map_or(true, |b| b >= blocks))
        {
            return Err(invalid("block_tables", "a block is outside the pool"));
        }
        for sequence in 0..seqs {
            let start = |starts: &[i32], i: usize| starts[i].unsigned_abs() as usize;
            let (first, end) = (
                start(&batch.query_start_loc, sequence),
                start(&batch.query_start_loc, sequence + 1),
            );
            let covered = (start(&group.block_table_start_loc, sequence + 1)
                - start(&group.block_table_start_loc, sequence))
                * BLOCK_SIZE;
            if cache.group.bidirectional {
                check_whole(batch, sequence, first..end)?;
            }
            for &position in &batch.positions[first..end] {
                if usize::try_from(position).map_or(true, |position| position >= covered) {
                    return Err(invalid(
                        "positions",
                        "a position is not covered by its sequence's blocks",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What rows are wanted of, and what is said of tokens, has to be there.
fn check_rows(executor: &CpuExecutor, batch: &Batch) -> Result<(), CpuError> {
    let tokens = batch.num_tokens();
    if batch.sampled.len() != batch.num_sampled() || batch.num_sampled() > tokens {
        return Err(invalid(
            "sampled",
            "its length differs from logits_indices, or exceeds the tokens",
        ));
    }
    if batch
        .logits_indices
        .iter()
        .any(|&row| usize::try_from(row).map_or(true, |row| row >= tokens))
    {
        return Err(invalid("logits_indices", "a row is outside the batch"));
    }
    if batch.num_sampled() > 0 && !executor.program.has_lm_head() {
        return Err(invalid("sampled", "the program has no logits"));
    }
    let segments = &batch.segment_ids;
    if !(segments.is_empty() || segments.len() == tokens)
        || segments.iter().any(|id| !(0..=1).contains(id))
    {
        return Err(invalid("segment_ids", "they must be 0 or 1, one per token"));
    }
    check_captures(&executor.program, batch)?;
    for row in &batch.sampled {
        let end = u64::from(row.history_start)
            + u64::from(row.history_prompt_len)
            + u64::from(row.history_output_len);
        if end > batch.history.len() as u64 {
            return Err(invalid("history", "a row's range is outside it"));
        }
        let words = executor.program.vocab_size.div_ceil(32);
        if row.mask.as_ref().is_some_and(|mask| mask.len() != words) {
            return Err(invalid("mask", "it has not one bit per token"));
        }
    }
    Ok(())
}

/// A sequence of a bidirectional model is in the step from its first token to its last.
fn check_whole(batch: &Batch, sequence: usize, rows: Range<usize>) -> Result<(), CpuError> {
    let whole = (0_i32..).take(rows.len());
    if batch.positions[rows.clone()].iter().copied().eq(whole)
        && batch.seq_lens[sequence].unsigned_abs() as usize == rows.len()
    {
        return Ok(());
    }
    let why = "a sequence of a bidirectional model is not whole";
    Err(invalid("seq_lens", why))
}

/// Every entry names rows that there are, of a point that there is, and no row twice.
fn check_captures(program: &Program, batch: &Batch) -> Result<(), CpuError> {
    let mut ends = Vec::new();
    for rows in &batch.captures {
        if ends.is_empty() {
            let kinds = program
                .captures()
                .map(|(_, x)| program.buffers[x.0 as usize].rows);
            ends.extend(kinds.map(|kind| (kind, 0)));
        }
        let Some((kind, end)) = ends.get_mut(rows.point as usize) else {
            return Err(invalid("captures", "there is no such capture point"));
        };
        let total = match kind {
            Rows::Tokens => batch.num_tokens(),
            Rows::Sequences => batch.num_seqs(),
            Rows::Sampled => batch.num_sampled(),
        };
        if rows.start < *end || rows.end <= rows.start || rows.end as usize > total {
            return Err(invalid("captures", "rows are out of range or overlap"));
        }
        *end = rows.end;
    }
    Ok(())
}

/// `[n + 1]` ascending offsets from 0 to `total`.
fn check_starts(
    field: &'static str,
    starts: &[i32],
    n: usize,
    total: usize,
) -> Result<(), CpuError> {
    let valid = starts.len() == n + 1
        && starts.first() == Some(&0)
        && starts
            .last()
            .is_some_and(|&last| usize::try_from(last) == Ok(total))
        && starts.is_sorted();
    if valid {
        Ok(())
    } else {
        Err(invalid(
            field,
            "it must ascend from 0 to the number of entries, one more than sequences",
        ))
    }
}
