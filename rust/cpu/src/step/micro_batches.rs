//! Micro-batches: whole sequences that have nothing to do with each other, each set of them computed by one worker from
//! the first op to the last. Workers agree on nothing in between, and what one made of its rows it finds in its own caches.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use inferlib_program::program::Rows;
use inferlib_program::{Batch, CapturedRows, GroupBatch};

use crate::error::CpuError;
use crate::executor::CpuExecutor;
use crate::step::{PART_ROWS, run_alone};
use crate::workspace::Workspace;

/// Most rows of a micro-batch whose matrices stay in a core's caches with them, as far as sequences allow.
const MOST_ROWS: usize = 512;
/// A cut that keeps a worker busy for longer than this share of what all could do together is none.
const MOST_UNEVEN: (usize, usize) = (23, 20);

/// Sequences of a batch, ascending, and what they give.
struct MicroBatch {
    batch: Batch,
    /// Which of the whole batch's captures its own are.
    captures: Vec<usize>,
    /// The rows of its captures; `None` until it ran.
    captured: Mutex<Option<Vec<Vec<f32>>>>,
}

/// Run `batch` in micro-batches on `workspaces`, one per worker, if it can be cut evenly; what was captured, or `None` if
/// all workers have to run it together.
pub(super) fn run_apart(
    executor: &CpuExecutor,
    workspaces: &[Mutex<Workspace>],
    batch: &Batch,
) -> Result<Option<Vec<Vec<f32>>>, CpuError> {
    let micro_batches = cut(executor, workspaces.len(), batch);
    if micro_batches.is_empty() {
        return Ok(None);
    }
    let next = AtomicUsize::new(0);
    let aborted = AtomicBool::new(false);
    executor.pool.run(&|worker| {
        let workspace = &mut *workspaces[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some(micro_batch) = micro_batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let batch = &micro_batch.batch;
            let Some(captured) = run_alone(executor, workspace, batch, &aborted) else {
                return;
            };
            *micro_batch
                .captured
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(captured);
        }
    })?;
    if aborted.load(Ordering::Acquire) {
        return Err(CpuError::Aborted);
    }
    let mut captures = vec![Vec::new(); batch.captures.len()];
    for micro_batch in micro_batches {
        let rows = micro_batch
            .captured
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(rows) = rows else {
            let message = "a micro-batch was not run".to_owned();
            return Err(CpuError::Panic { message });
        };
        for (i, capture) in micro_batch.captures.into_iter().zip(rows) {
            captures[i] = capture;
        }
    }
    Ok(Some(captures))
}

/// The micro-batches of `batch`, longest first; none if it has to be run as a whole.
fn cut(executor: &CpuExecutor, workers: usize, batch: &Batch) -> Vec<MicroBatch> {
    let copies = batch
        .groups
        .iter()
        .any(|group| !group.block_copies.is_empty());
    if workers < 2 || copies || batch.num_sampled() > 0 {
        return Vec::new();
    }
    let lens: Vec<usize> = (0..batch.num_seqs())
        .map(|sequence| rows_of(batch, sequence).len())
        .collect();
    let bins = share_out(&lens, workers);
    if bins.is_empty() {
        return Vec::new();
    }
    let kinds: Vec<Rows> = executor
        .program
        .captures()
        .map(|(_, x)| executor.program.buffers[x.0 as usize].rows)
        .collect();
    let mut by_sequence = vec![Vec::new(); batch.num_seqs()];
    for (i, rows) in batch.captures.iter().enumerate() {
        let (first, last) = match kinds.get(rows.point as usize) {
            Some(Rows::Tokens) => (
                sequence_of(batch, rows.start),
                sequence_of(batch, rows.end - 1),
            ),
            Some(Rows::Sequences) => (rows.start as usize, rows.end as usize - 1),
            _ => return Vec::new(),
        };
        if first != last {
            return Vec::new();
        }
        by_sequence[first].push((i, kinds[rows.point as usize]));
    }
    bins.iter()
        .map(|bin| select(batch, bin, &by_sequence))
        .collect()
}

/// Sequences of about as many rows for every worker, or for a multiple of the workers; each set ascending, those of most
/// rows first. Nothing if rows are too few, or sequences too uneven.
fn share_out(lens: &[usize], workers: usize) -> Vec<Vec<usize>> {
    let rows: usize = lens.iter().sum();
    let count = workers * rows.div_ceil(workers * MOST_ROWS);
    if rows < count * PART_ROWS {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|&sequence| Reverse(lens[sequence]));
    let mut bins = vec![(0, Vec::new()); count];
    for sequence in order {
        // The first of the least.
        if let Some((sum, bin)) = bins.iter_mut().min_by_key(|(sum, _)| *sum) {
            *sum += lens[sequence];
            bin.push(sequence);
        }
    }
    bins.sort_by_key(|(sum, _)| Reverse(*sum));
    let most = bins.first().map_or(0, |(sum, _)| *sum);
    if most * count * MOST_UNEVEN.1 > rows * MOST_UNEVEN.0 {
        return Vec::new();
    }
    let sorted = |(_, mut bin): (usize, Vec<usize>)| {
        bin.sort_unstable();
        bin
    };
    bins.into_iter()
        .map(sorted)
        .filter(|bin| !bin.is_empty())
        .collect()
}

fn rows_of(batch: &Batch, sequence: usize) -> Range<usize> {
    let at = |i: usize| batch.query_start_loc[i].unsigned_abs() as usize;
    at(sequence)..at(sequence + 1)
}

/// The sequence of a token row.
fn sequence_of(batch: &Batch, row: u32) -> usize {
    let before = |&start: &i32| start.unsigned_abs() <= row;
    batch.query_start_loc.partition_point(before) - 1
}

/// A batch of some of the sequences.
fn select(batch: &Batch, sequences: &[usize], captures: &[Vec<(usize, Rows)>]) -> MicroBatch {
    let mut part = Batch {
        step: batch.step,
        query_start_loc: vec![0],
        groups: vec![
            GroupBatch {
                block_table_start_loc: vec![0],
                ..GroupBatch::default()
            };
            batch.groups.len()
        ],
        ..Batch::default()
    };
    let mut indices = Vec::new();
    for (own, &sequence) in sequences.iter().enumerate() {
        let rows = rows_of(batch, sequence);
        let first = part.num_tokens();
        for &(i, kind) in &captures[sequence] {
            let given = batch.captures[i];
            let (from, to) = if kind == Rows::Tokens {
                (rows.start, first)
            } else {
                (sequence, own)
            };
            let moved = |row: u32| as_u32(row as usize - from + to);
            part.captures.push(CapturedRows {
                start: moved(given.start),
                end: moved(given.end),
                ..given
            });
            indices.push(i);
        }
        part.token_ids
            .extend_from_slice(&batch.token_ids[rows.clone()]);
        part.positions
            .extend_from_slice(&batch.positions[rows.clone()]);
        part.segment_ids
            .extend(batch.segment_ids.get(rows.clone()).unwrap_or(&[]));
        part.query_start_loc.push(as_i32(part.num_tokens()));
        part.seq_lens.push(batch.seq_lens[sequence]);
        part.adapters.extend(batch.adapters.get(sequence));
        for (group, whole) in part.groups.iter_mut().zip(&batch.groups) {
            group
                .slot_mapping
                .extend_from_slice(&whole.slot_mapping[rows.clone()]);
            let at = |i: usize| whole.block_table_start_loc[i].unsigned_abs() as usize;
            group
                .block_tables
                .extend_from_slice(&whole.block_tables[at(sequence)..at(sequence + 1)]);
            group
                .block_table_start_loc
                .push(as_i32(group.block_tables.len()));
        }
    }
    MicroBatch {
        batch: part,
        captures: indices,
        captured: Mutex::new(None),
    }
}

/// Rows and blocks of a batch, whose own offsets are as wide.
fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn as_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_in_one_set_and_no_set_is_much_longer_than_others() {
        for workers in [2, 3, 4, 7] {
            for count in [2, 8, 33, 200] {
                let lens: Vec<usize> = (0..count).map(|i| 40 + i * 37 % 61).collect();
                let bins = share_out(&lens, workers);
                let rows: usize = lens.iter().sum();
                if rows < workers * PART_ROWS {
                    assert!(
                        bins.is_empty(),
                        "too few rows to read the weights twice for"
                    );
                    continue;
                }
                let mut seen: Vec<usize> = bins.concat();
                seen.sort_unstable();
                if !bins.is_empty() {
                    assert_eq!(seen, (0..count).collect::<Vec<_>>());
                    assert_eq!(bins.len() % workers, 0);
                }
                for bin in &bins {
                    assert!(bin.is_sorted());
                    let own: usize = bin.iter().map(|&i| lens[i]).sum();
                    assert!(
                        own * bins.len() * 20 <= rows * 23,
                        "{own} of {rows} in {} sets",
                        bins.len()
                    );
                }
            }
        }
    }

    #[test]
    fn sequences_that_nobody_can_share_evenly_are_left_together() {
        assert!(share_out(&[500], 2).is_empty());
        assert!(share_out(&[400, 100, 100], 2).is_empty());
        assert!(share_out(&[64, 64], 2).is_empty(), "too few rows");
        assert_eq!(share_out(&[100, 300, 200], 2), [vec![1], vec![0, 2]]);
        assert!(share_out(&[], 2).is_empty());
    }

    #[test]
    fn a_selection_is_a_batch_of_its_sequences() {
        let batch = Batch {
            token_ids: (10..18).collect(),
            positions: vec![0, 1, 0, 1, 2, 0, 1, 2],
            segment_ids: vec![0, 1, 0, 0, 1, 0, 1, 1],
            query_start_loc: vec![0, 2, 5, 8],
            seq_lens: vec![2, 3, 3],
            adapters: vec![0, 7, 8],
            groups: vec![GroupBatch {
                slot_mapping: (20..28).collect(),
                block_table_start_loc: vec![0, 1, 3, 4],
                block_tables: vec![4, 5, 6, 7],
                block_copies: vec![],
            }],
            captures: vec![
                CapturedRows {
                    point: 0,
                    start: 0,
                    end: 2,
                },
                CapturedRows {
                    point: 0,
                    start: 3,
                    end: 5,
                },
                CapturedRows {
                    point: 0,
                    start: 5,
                    end: 8,
                },
                CapturedRows {
                    point: 1,
                    start: 2,
                    end: 3,
                },
            ],
            ..Batch::default()
        };
        let tokens = |i| (i, Rows::Tokens);
        let by_sequence = [
            vec![tokens(0)],
            vec![tokens(1)],
            vec![tokens(2), (3, Rows::Sequences)],
        ];
        let selected = select(&batch, &[0, 2], &by_sequence);
        assert_eq!(selected.captures, [0, 2, 3]);
        let part = selected.batch;
        assert_eq!(part.token_ids, [10, 11, 15, 16, 17]);
        assert_eq!(part.positions, [0, 1, 0, 1, 2]);
        assert_eq!(part.segment_ids, [0, 1, 0, 1, 1]);
        assert_eq!(part.query_start_loc, [0, 2, 5]);
        assert_eq!(part.seq_lens, [2, 3]);
        assert_eq!(part.adapters, [0, 8]);
        assert_eq!(part.groups[0].slot_mapping, [20, 21, 25, 26, 27]);
        assert_eq!(part.groups[0].block_table_start_loc, [0, 1, 2]);
        assert_eq!(part.groups[0].block_tables, [4, 7]);
        let spans = part
            .captures
            .iter()
            .map(|rows| (rows.point, rows.start, rows.end));
        assert_eq!(spans.collect::<Vec<_>>(), [(0, 0, 2), (0, 2, 5), (1, 1, 2)]);
        assert_eq!(
            (
                sequence_of(&batch, 1),
                sequence_of(&batch, 2),
                sequence_of(&batch, 7)
            ),
            (0, 1, 2)
        );
    }
}
