//! How fast is attention over blocks, as a share of what the machine can do? For `examples/attention.rs`; not part of
//! the library.

use std::sync::Arc;
use std::time::Instant;

use inferlib_program::program::{Buffer, BufferId, KvGroup, KvLayer, Op, Program, Rows};
use inferlib_program::{BLOCK_SIZE, Batch, GroupBatch};

use crate::error::CpuError;
use crate::executor::{CpuExecutor, Options};
use crate::kv_cache::KvDtype;
use crate::precision::Precision;

/// Layers of nothing but attention over a cache with arbitrary contents.
#[derive(Debug)]
pub struct Attention {
    executor: CpuExecutor,
    batch: Batch,
    num_heads: usize,
    group: KvGroup,
}

/// Heads, widths and layers of the attention measured.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads.
    pub num_heads: usize,
    /// KV heads.
    pub num_kv_heads: usize,
    /// Width of a K and of a V head.
    pub head_dim: usize,
    /// Layers, each with its own K and V.
    pub num_layers: usize,
    /// Tokens that a query may see.
    pub window: Option<usize>,
}

impl Attention {
    /// `num_seqs` sequences of `context` tokens each, the last `rows` of them in this step.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`].
    pub fn new(
        shape: Shape,
        [num_seqs, rows, context]: [usize; 3],
        tier: &str,
        threads: usize,
        dtype: KvDtype,
    ) -> Result<Self, CpuError> {
        let (q_width, width) = (
            shape.num_heads * shape.head_dim,
            shape.num_heads * shape.head_dim,
        );
        let group = KvGroup {
            num_layers: shape.num_layers,
            num_kv_heads: shape.num_kv_heads,
            k_head_dim: shape.head_dim,
            v_head_dim: shape.head_dim,
            window: shape.window,
            bidirectional: false,
        };
        let buffer = |name: &str, width| Buffer {
            name: name.to_owned(),
            rows: Rows::Tokens,
            width,
        };
        let program = Program {
            buffers: vec![buffer("q", q_width), buffer("out", width)],
            kv_groups: vec![group.clone()],
            ops: (0..shape.num_layers)
                .map(|layer| Op::Attention {
                    q: BufferId(0),
                    q_start: 0,
                    num_heads: shape.num_heads,
                    kv: KvLayer { group: 0, layer },
                    #[expect(clippy::cast_precision_loss, reason = "small")]
                    scale: 1.0 / (shape.head_dim as f32).sqrt(),
                    softcap: None,
                    sinks: None,
                    out: BufferId(1),
                })
                .collect(),
            vocab_size: 1,
            ..Program::default()
        };
        let blocks = context.div_ceil(BLOCK_SIZE);
        let options = Options {
            precision: Precision::Fast,
            kv_cache_dtype: Some(dtype),
            threads: Some(threads),
            tier: Some(tier.to_owned()),
            max_num_batched_tokens: num_seqs * rows,
            num_blocks: vec![blocks * num_seqs],
        };
        let mut executor = CpuExecutor::new(Arc::new(program), &options)?;
        executor.seal()?;
        // Bytes that are ordinary numbers in every type of the cache.
        executor.caches[0].fill(0x2c);
        let mut batch = Batch {
            query_start_loc: vec![0],
            ..Batch::default()
        };
        let mut tables = GroupBatch {
            block_table_start_loc: vec![0],
            ..GroupBatch::default()
        };
        let id = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        for sequence in 0..num_seqs {
            for position in context - rows..context {
                batch.token_ids.push(0);
                batch.positions.push(id(position));
                let block = sequence * blocks + position / BLOCK_SIZE;
                tables
                    .slot_mapping
                    .push(id(block * BLOCK_SIZE + position % BLOCK_SIZE));
            }
            tables
                .block_tables
                .extend((sequence * blocks..(sequence + 1) * blocks).map(id));
            batch.query_start_loc.push(id(batch.token_ids.len()));
            tables
                .block_table_start_loc
                .push(id(tables.block_tables.len()));
            batch.seq_lens.push(id(context));
        }
        batch.groups.push(tables);
        Ok(Self {
            executor,
            batch,
            num_heads: shape.num_heads,
            group,
        })
    }

    /// Multiply-adds of all layers, times 2.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub fn operations(&self) -> f64 {
        let seen: usize = self
            .batch
            .positions
            .iter()
            .map(|&p| (p.unsigned_abs() as usize + 1).min(self.group.window.unwrap_or(usize::MAX)))
            .sum();
        let per_pair = 2 * (self.group.k_head_dim + self.group.v_head_dim) * self.num_heads;
        (seen * per_pair * self.group.num_layers) as f64
    }

    /// Bytes of K and V that a step must read, all layers: each position once per sequence.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub fn bytes(&self) -> f64 {
        let block = CpuExecutor::bytes_per_block(&self.executor.program, self.executor.kv_dtype())
            [0] as f64;
        let window = self.group.window.unwrap_or(usize::MAX);
        let rows = self.batch.num_tokens() / self.batch.num_seqs();
        self.batch
            .seq_lens
            .iter()
            .map(|&len| (len.unsigned_abs() as usize).min(window.saturating_add(rows)) as f64)
            .sum::<f64>()
            * block
            / BLOCK_SIZE as f64
    }

    /// Seconds of each of `repeats` steps: of the processor with one thread, so that other processes disturb little,
    /// else of the wall's clock.
    ///
    /// # Errors
    /// If a worker panics.
    pub fn seconds(&mut self, repeats: usize) -> Result<Vec<f64>, CpuError> {
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let (start, processor) = (Instant::now(), processor_seconds());
            self.executor.run(&self.batch)?;
            seconds.push(if self.executor.threads() == 1 {
                processor_seconds() - processor
            } else {
                start.elapsed().as_secs_f64()
            });
        }
        Ok(seconds)
    }
}

/// Processor time of this thread.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock writes the struct that we own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    seconds
}
