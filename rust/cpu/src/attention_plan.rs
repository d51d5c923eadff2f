//! Cuts a batch into attention units. The cut decides who computes what, never a bit of the result.

use inferlib_program::Batch;

use crate::attention::{MAX_QUERIES, Merge, TILE, Unit, first_seen, partial_floats};
use crate::executor::CpuExecutor;
use crate::simd::LANES;
use crate::workspace::Workspace;

/// Units that a worker should find, so that the last one to finish is not late.
const UNITS_PER_WORKER: usize = 3;
/// Most queries of a unit whose tiles may be spread over several: partial results take memory and are read again.
const SPLIT_QUERIES: usize = 32;
/// Fewest queries of a unit of many rows, so that work on a tile is shared by enough of them.
const FEWEST_QUERIES: usize = 24;

/// What the cut needs to know of a KV group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) num_kv_heads: usize,
    /// Query heads per KV head.
    pub(crate) per_head: usize,
    pub(crate) v_head_dim: usize,
    pub(crate) window: Option<usize>,
    /// Whether every row sees its whole sequence, which is in this step.
    pub(crate) bidirectional: bool,
}

/// Cut the batch into attention units per KV group; returns the floats per partial result.
pub(crate) fn plan_attention(
    executor: &CpuExecutor,
    workspace: &mut Workspace,
    batch: &Batch,
) -> usize {
    let (mut stride, mut partials) = (0, 0);
    for (g, group) in executor.program.kv_groups.iter().enumerate() {
        let shape = Shape {
            num_kv_heads: group.num_kv_heads,
            per_head: (executor.num_heads(g) / group.num_kv_heads.max(1)).max(1),
            v_head_dim: group.v_head_dim,
            window: group.window,
            bidirectional: group.bidirectional,
        };
        let tables = &batch.groups[g].block_table_start_loc;
        let workers = workspace.workers.len();
        let (units, merges) = (&mut workspace.units[g], &mut workspace.merges[g]);
        let used = cut(shape, batch, tables, workers, units, merges);
        partials = partials.max(used);
        if used > 0 {
            let padded = shape.v_head_dim.next_multiple_of(LANES);
            stride = stride.max(partial_floats(SPLIT_QUERIES, padded));
        }
    }
    let floats = partials * stride;
    if workspace.partials.len() < floats {
        workspace.partials.resize(floats.next_power_of_two(), 0.0);
    }
    stride
}

/// The units of one KV group, longest first, and the folds that follow them; returns how many partial results there are.
pub(crate) fn cut(
    shape: Shape,
    batch: &Batch,
    tables: &[i32],
    threads: usize,
    units: &mut Vec<Unit>,
    merges: &mut Vec<Merge>,
) -> usize {
    units.clear();
    merges.clear();
    let per_head = shape.per_head;
    let workers = threads * UNITS_PER_WORKER;
    let rows_wanted = (batch.num_tokens() * shape.num_kv_heads).div_ceil(workers);
    let most = (MAX_QUERIES / per_head).max(1);
    let chunk = rows_wanted.clamp((FEWEST_QUERIES / per_head).clamp(1, most), most);
    let position = |row: usize| batch.positions[row].unsigned_abs() as usize;
    let start_of = |i: usize| batch.query_start_loc[i].unsigned_abs() as usize;
    // Rows, the tiles that any of them sees, and the last position.
    let chunks = |sequence: usize| {
        let (start, end) = (start_of(sequence), start_of(sequence + 1));
        let seq_len = batch.seq_lens[sequence].unsigned_abs() as usize;
        (start..end).step_by(chunk).map(move |row| {
            let rows = chunk.min(end - row);
            let first = first_seen(position(row), shape.window) / TILE;
            let last = if shape.bidirectional {
                seq_len - 1
            } else {
                position(row + rows - 1)
            };
            (row, rows, (first, last / TILE + 1), last)
        })
    };
    let total: usize = (0..batch.num_seqs())
        .flat_map(chunks)
        .map(|(_, _, tiles, _)| (tiles.1 - tiles.0) * shape.num_kv_heads)
        .sum();
    let fair = total.div_ceil(workers).max(1);
    let mut used = 0;
    for sequence in 0..batch.num_seqs() {
        let table = tables[sequence].unsigned_abs() as usize;
        for (row, rows, tiles, last) in chunks(sequence) {
            let count = tiles.1 - tiles.0;
            let parts = if rows * per_head <= SPLIT_QUERIES {
                count.div_ceil(fair).min(count)
            } else {
                1
            };
            for head in 0..shape.num_kv_heads {
                let unit = |tiles, partial| Unit {
                    row,
                    rows,
                    table,
                    head,
                    tiles,
                    last,
                    partial,
                };
                if parts == 1 {
                    units.push(unit(tiles, None));
                    continue;
                }
                merges.push(Merge {
                    row,
                    rows,
                    head,
                    partial: used,
                    count,
                });
                for part in 0..parts {
                    let from = count * part / parts;
                    let to = count * (part + 1) / parts;
                    let tiles = (tiles.0 + from, tiles.0 + to);
                    units.push(unit(tiles, Some(used + from)));
                }
                used += count;
            }
        }
    }
    units.sort_unstable_by_key(|unit| {
        std::cmp::Reverse(unit.rows.max(4) * (unit.tiles.1 - unit.tiles.0))
    });
    used
}
