//! Cuts a batch into attention units. The cut decides who computes what, never a bit of the result.

use inferlib_core::Batch;

use crate::attention::{MAX_QUERIES, Merge, SEGMENT, Unit, first_seen};
use crate::executor::CpuExecutor;
use crate::simd::LANES;
use crate::workspace::Workspace;

/// Rows that make a sequence short enough to spread its segments over workers.
const SPLIT_ROWS: usize = 4;
/// Query rows per attention unit.
const UNIT_ROWS: usize = 16;

/// Cut the batch into attention units per KV group; returns the floats per partial result.
pub(crate) fn plan_attention(
    executor: &CpuExecutor,
    workspace: &mut Workspace,
    batch: &Batch,
) -> usize {
    let mut stride = 0;
    let mut partials = 0;
    for (g, group) in executor.program.kv_groups.iter().enumerate() {
        let num_heads = executor.num_heads(g);
        let per_head = (num_heads / group.num_kv_heads.max(1)).max(1);
        stride = stride.max(
            SPLIT_ROWS.max(1) * per_head.max(1) * (2 + group.v_head_dim.next_multiple_of(LANES)),
        );
        let (units, merges) = (&mut workspace.units[g], &mut workspace.merges[g]);
        units.clear();
        merges.clear();
        let tables = &batch.groups[g].block_table_start_loc;
        let mut used = 0;
        for sequence in 0..batch.num_seqs() {
            let row_of = |i: usize| batch.query_start_loc[i].unsigned_abs() as usize;
            let (start, end) = (row_of(sequence), row_of(sequence + 1));
            let table = tables[sequence].unsigned_abs() as usize;
            let chunk = UNIT_ROWS.min(MAX_QUERIES / per_head).max(1);
            let mut row = start;
            while row < end {
                let rows = chunk.min(end - row);
                let position = |r: usize| batch.positions[r].unsigned_abs() as usize;
                let first = first_seen(position(row), group.window) / SEGMENT;
                let last = position(row + rows - 1) / SEGMENT + 1;
                let split = end - start <= SPLIT_ROWS && last - first > 1;
                for head in 0..group.num_kv_heads {
                    if split {
                        merges.push(Merge {
                            row,
                            rows,
                            head,
                            partial: used,
                            count: last - first,
                        });
                        for segment in first..last {
                            units.push(Unit {
                                row,
                                rows,
                                table,
                                head,
                                segments: (segment, segment + 1),
                                partial: Some(used),
                            });
                            used += 1;
                        }
                    } else {
                        units.push(Unit {
                            row,
                            rows,
                            table,
                            head,
                            segments: (first, last),
                            partial: None,
                        });
                    }
                }
                row += rows;
            }
        }
        // The longest units first: later chunks of a prompt see more.
        units.sort_by_key(|unit| std::cmp::Reverse(unit.segments.1 - unit.segments.0));
        partials = partials.max(used);
    }
    let floats = partials * stride;
    if workspace.partials.len() < floats {
        workspace.partials.resize(floats.next_power_of_two(), 0.0);
    }
    stride
}
