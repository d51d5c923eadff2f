//! Digests of what a scheduler decides: a replay that decides the same has the same ones.

use super::codec::Digest;
use crate::scheduler::{Events, WantedDraft};
use inferlib_program::{Batch, LogitsRow};

/// Everything in a batch that the executor acts on, but for how a token is drawn.
pub(super) fn batch_digest(batch: &Batch) -> u64 {
    let mut digest = Digest::new();
    digest.add(batch.step);
    for array in [
        &batch.token_ids,
        &batch.positions,
        &batch.query_start_loc,
        &batch.seq_lens,
        &batch.logits_indices,
        &batch.history,
        &batch.segment_ids,
    ] {
        digest.add_all(array);
    }
    for group in &batch.groups {
        digest.add_all(&group.slot_mapping);
        digest.add_all(&group.block_table_start_loc);
        digest.add_all(&group.block_tables);
        digest.add_all(&group.block_copies);
    }
    for rows in &batch.captures {
        digest.add(u64::from(rows.point));
        digest.add(u64::from(rows.start) << 32 | u64::from(rows.end));
    }
    for row in &batch.sampled {
        digest.add(match row.kind {
            LogitsRow::Sample => 0,
            LogitsRow::Score { target } => 1 | u64::from(target.cast_unsigned()) << 1,
        });
        digest.add(u64::from(row.position) << 32 | u64::from(row.sequence_index));
    }
    digest.value()
}

pub(super) fn events_digest(events: &Events) -> u64 {
    let mut digest = Digest::new();
    digest.add(events.token_ids.len() as u64);
    for index in 0..events.token_ids.len() {
        digest.add(events.request_ids[index].0);
        digest.add(u64::from(events.sequence_indices[index]));
        digest.add(u64::from(events.token_indices[index]) << 1 | u64::from(events.finished[index]));
        digest.add(u64::from(events.token_ids[index].cast_unsigned()));
    }
    for id in &events.finished_requests {
        digest.add(id.0);
    }
    digest.value()
}

pub(super) fn wanted_digest(wanted: &[WantedDraft]) -> u64 {
    let mut digest = Digest::new();
    for draft in wanted {
        digest.add(draft.request_id.0);
        digest.add(u64::from(draft.sequence_index));
        digest.add(draft.num_tokens as u64);
        digest.add(draft.num_drafts as u64);
    }
    digest.value()
}
