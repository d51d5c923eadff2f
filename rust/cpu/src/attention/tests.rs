//! Attention against a plain float64 reference, and against itself: tiers, cuts, chunks, stale slots.

use half::{bf16, f16};
use inferlib_program::program::KvGroup;
use inferlib_program::{BLOCK_SIZE, Batch, GroupBatch};
use proptest::prelude::*;

use super::{AttentionScratch, AttentionTask, TILE, Unit, first_seen, partial_floats};
use crate::attention_plan::{Shape, cut};
use crate::kernels::{Kernels, KvKernels};
use crate::kv_cache::{GroupCache, KvDtype};
use crate::simd::LANES;
use crate::tier::Tier;

/// Heads, widths and masks.
#[derive(Clone, Copy, Debug)]
struct Layout {
    num_heads: usize,
    num_kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
    bidirectional: bool,
}

const fn heads(num_heads: usize, num_kv_heads: usize, k_dim: usize, v_dim: usize) -> Layout {
    Layout {
        num_heads,
        num_kv_heads,
        k_dim,
        v_dim,
        window: None,
        softcap: None,
        sinks: false,
        bidirectional: false,
    }
}

/// Below, among and far above the scores.
const SINKS: [f32; 5] = [0.3, -60.0, 3.0, 30.0, -2.0];

/// Sequences with their K, V and queries: everything that an answer depends on.
struct World {
    heads: Layout,
    dtype: KvDtype,
    cache: GroupCache,
    /// `[sequence][position]` of `num_kv_heads * dim`.
    k: Vec<Vec<Vec<f32>>>,
    v: Vec<Vec<Vec<f32>>>,
    q: Vec<Vec<Vec<f32>>>,
    /// Blocks of each sequence, in no order.
    tables: Vec<Vec<i32>>,
}

struct Random(u64);

impl Random {
    /// Roughly normal.
    fn float(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            #[expect(clippy::cast_precision_loss, reason = "24 bits")]
            let uniform = (self.0 >> 40) as f32 / 16_777_216.0;
            sum += uniform - 0.5;
        }
        sum * 1.7
    }

    fn row(&mut self, width: usize, scale: f32) -> Vec<f32> {
        (0..width).map(|_| self.float() * scale).collect()
    }
}

impl World {
    /// Every slot of the cache holds NaN where no token was stored.
    fn new(heads: Layout, dtype: KvDtype, lengths: &[usize]) -> Self {
        let mut random = Random(7);
        let rows = |random: &mut Random, width: usize, scale: f32| -> Vec<Vec<Vec<f32>>> {
            lengths
                .iter()
                .map(|&length| (0..length).map(|_| random.row(width, scale)).collect())
                .collect()
        };
        let k = rows(&mut random, heads.num_kv_heads * heads.k_dim, 1.5);
        let v = rows(&mut random, heads.num_kv_heads * heads.v_dim, 1.0);
        let q = rows(&mut random, heads.num_heads * heads.k_dim, 1.5);
        let counts: Vec<usize> = lengths.iter().map(|n| n.div_ceil(BLOCK_SIZE)).collect();
        let num_blocks = counts.iter().sum::<usize>() + 3;
        let mut ids: Vec<i32> = (0..i32::try_from(num_blocks).expect("few")).collect();
        for i in (1..ids.len()).rev() {
            random.float();
            let other = usize::try_from(random.0 >> 33).expect("64 bits") % (i + 1);
            ids.swap(i, other);
        }
        let tables = counts
            .iter()
            .map(|&n| ids.split_off(ids.len() - n))
            .collect();
        let group = KvGroup {
            num_layers: 2,
            num_kv_heads: heads.num_kv_heads,
            k_head_dim: heads.k_dim,
            v_head_dim: heads.v_dim,
            window: heads.window,
            bidirectional: heads.bidirectional,
        };
        let cache = GroupCache::new(&group, num_blocks, dtype).expect("memory");
        let world = Self {
            heads,
            dtype,
            cache,
            k,
            v,
            q,
            tables,
        };
        let nan = vec![f32::NAN; heads.num_kv_heads * heads.k_dim.max(heads.v_dim)];
        for slot in 0..num_blocks * BLOCK_SIZE {
            world.store(Tier::Scalar, slot, &nan, &nan);
        }
        world
    }

    fn kernels(&self, tier: Tier) -> KvKernels {
        Kernels::of(tier).of_cache(tier, self.dtype)
    }

    fn store(&self, tier: Tier, slot: usize, k: &[f32], v: &[f32]) {
        let layer = self.cache.layer(1);
        // SAFETY: the slot is within the cache, rows hold all heads, the tier is available.
        unsafe { (self.kernels(tier).store)(&layer, slot, k.as_ptr(), v.as_ptr()) };
    }

    fn slot(&self, sequence: usize, position: usize) -> usize {
        let block = self.tables[sequence][position / BLOCK_SIZE];
        usize::try_from(block).expect("an id") * BLOCK_SIZE + position % BLOCK_SIZE
    }

    /// Run `pieces` of `(sequence, first position, rows)` as one step: store their K and V, then attend.
    /// Returns `[rows]` of `num_heads * v_dim`.
    fn step(&self, tier: Tier, threads: usize, pieces: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
        let id = |n: usize| i32::try_from(n).expect("small");
        let mut batch = Batch {
            query_start_loc: vec![0],
            ..Batch::default()
        };
        let mut group = GroupBatch {
            block_table_start_loc: vec![0],
            ..GroupBatch::default()
        };
        let mut queries: Vec<f32> = Vec::new();
        for &(sequence, first, rows) in pieces {
            for position in first..first + rows {
                let slot = self.slot(sequence, position);
                self.store(
                    tier,
                    slot,
                    &self.k[sequence][position],
                    &self.v[sequence][position],
                );
                batch.token_ids.push(0);
                batch.positions.push(id(position));
                queries.extend(&self.q[sequence][position]);
            }
            let blocks = (first + rows).div_ceil(BLOCK_SIZE);
            group.block_tables.extend(&self.tables[sequence][..blocks]);
            batch.query_start_loc.push(id(batch.token_ids.len()));
            group
                .block_table_start_loc
                .push(id(group.block_tables.len()));
            batch.seq_lens.push(id(first + rows));
        }
        let heads = self.heads;
        let shape = Shape {
            num_kv_heads: heads.num_kv_heads,
            per_head: heads.num_heads / heads.num_kv_heads,
            v_head_dim: heads.v_dim,
            window: heads.window,
            bidirectional: heads.bidirectional,
        };
        let (mut units, mut merges) = (Vec::new(), Vec::new());
        let used = cut(
            shape,
            &batch,
            &group.block_table_start_loc,
            threads,
            &mut units,
            &mut merges,
        );
        let stride = partial_floats(32, heads.v_dim.next_multiple_of(LANES));
        let mut partials = vec![f32::NAN; used * stride];
        let width = heads.num_heads * heads.v_dim;
        let mut out = vec![f32::NAN; batch.num_tokens() * width];
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let scale = 1.0 / (heads.k_dim as f32).sqrt();
        let sinks: Vec<f32> = SINKS.into_iter().cycle().take(heads.num_heads).collect();
        let task = AttentionTask {
            q: queries.as_ptr(),
            q_stride: heads.num_heads * heads.k_dim,
            out: out.as_mut_ptr(),
            out_stride: width,
            num_heads: heads.num_heads,
            scale,
            softcap: heads.softcap,
            sinks: heads.sinks.then_some(&sinks),
            window: heads.window,
            bidirectional: heads.bidirectional,
            cache: self.cache.layer(1),
            positions: &batch.positions,
            block_tables: &group.block_tables,
            partials: partials.as_mut_ptr(),
            partial_stride: stride,
        };
        let mut scratch = AttentionScratch::new(heads.k_dim, heads.v_dim);
        let attention = self.kernels(tier).attention;
        // SAFETY: the task covers the batch, its blocks are the cache's, the tier is available; one thread.
        unsafe {
            for (i, &unit) in units.iter().enumerate() {
                attention(&task, unit, units.get(i + 1).copied(), &mut scratch);
            }
            for &merge in &merges {
                (Kernels::of(tier).attention_merge)(&task, merge, &mut scratch);
            }
        }
        out.chunks(width).map(<[f32]>::to_vec).collect()
    }

    /// What a row of K or V is after storing.
    fn rounded(&self, row: &[f32], dim: usize) -> Vec<f64> {
        row.chunks(dim)
            .flat_map(|head| {
                let largest = head.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
                let scale = f32::from_bits(((largest / 127.0).to_bits() + 0xffff) & 0xffff_0000);
                head.iter().map(move |&x| match self.dtype {
                    KvDtype::F16 => f16::from_f32(x).to_f64(),
                    KvDtype::Bf16 => bf16::from_f32(x).to_f64(),
                    KvDtype::Int8 => {
                        f64::from((x * (1.0 / scale)).round_ties_even()) * f64::from(scale)
                    }
                    KvDtype::F32 => f64::from(x),
                })
            })
            .collect()
    }

    /// Plain attention in float64 of one row, over K and V as they are stored.
    fn reference(&self, sequence: usize, position: usize) -> Vec<f64> {
        let heads = self.heads;
        let scale = 1.0 / f64::from(u32::try_from(heads.k_dim).expect("small")).sqrt();
        let first = first_seen(position, heads.window);
        let last = if heads.bidirectional {
            self.k[sequence].len() - 1
        } else {
            position
        };
        let k: Vec<_> = (first..=last)
            .map(|p| self.rounded(&self.k[sequence][p], heads.k_dim))
            .collect();
        let v: Vec<_> = (first..=last)
            .map(|p| self.rounded(&self.v[sequence][p], heads.v_dim))
            .collect();
        let mut out = Vec::new();
        for head in 0..heads.num_heads {
            let kv_head = head / (heads.num_heads / heads.num_kv_heads);
            let q = &self.q[sequence][position][head * heads.k_dim..][..heads.k_dim];
            let scores: Vec<f64> = k
                .iter()
                .map(|k| {
                    let k = &k[kv_head * heads.k_dim..][..heads.k_dim];
                    let dot: f64 = k.iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum();
                    match heads.softcap.map(f64::from) {
                        Some(cap) => cap * (dot * scale / cap).tanh(),
                        None => dot * scale,
                    }
                })
                .collect();
            let sink = heads.sinks.then_some(f64::from(SINKS[head % SINKS.len()]));
            let largest = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - largest).exp());
            for d in 0..heads.v_dim {
                let at = kv_head * heads.v_dim + d;
                let dot: f64 = weights.iter().zip(&v).map(|(w, v)| w * v[at]).sum();
                out.push(dot / sum);
            }
        }
        out
    }

    /// Largest error of rows that follow `first` in `sequence`.
    fn error(&self, sequence: usize, first: usize, rows: &[Vec<f32>]) -> f64 {
        let mut worst = 0.0_f64;
        for (r, row) in rows.iter().enumerate() {
            let want = self.reference(sequence, first + r);
            for (&x, want) in row.iter().zip(want) {
                let error = (f64::from(x) - want).abs();
                worst = if error.is_nan() {
                    f64::INFINITY
                } else {
                    worst.max(error)
                };
            }
        }
        worst
    }

    /// Fill the cache with `0..count` of every sequence.
    fn store_all(&self, count: impl Fn(usize) -> usize) {
        for sequence in 0..self.tables.len() {
            for position in 0..count(sequence) {
                let (k, v) = (&self.k[sequence][position], &self.v[sequence][position]);
                self.store(Tier::Scalar, self.slot(sequence, position), k, v);
            }
        }
    }
}

/// Values are around 1. With f32 products the error is that of f32 sums; bf16 rounds queries and weights to 8 bits.
fn tolerance(dtype: KvDtype) -> f64 {
    match dtype {
        KvDtype::Bf16 => 2e-2,
        KvDtype::F16 | KvDtype::Int8 | KvDtype::F32 => 5e-6,
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| row.iter().map(|x| x.to_bits()).collect())
        .collect()
}

const SHAPES: [Layout; 14] = [
    heads(9, 3, 64, 64),
    heads(4, 1, 256, 256),
    heads(2, 2, 16, 16),
    heads(5, 1, 48, 32),
    heads(8, 1, 128, 128),
    heads(7, 7, 20, 20),
    heads(3, 1, 33, 17),
    heads(2, 1, 80, 112),
    Layout {
        window: Some(37),
        ..heads(4, 2, 32, 32)
    },
    Layout {
        window: Some(130),
        softcap: Some(3.0),
        ..heads(6, 2, 64, 80)
    },
    Layout {
        softcap: Some(5.0),
        ..heads(14, 2, 24, 24)
    },
    Layout {
        window: Some(1),
        ..heads(3, 3, 16, 16)
    },
    Layout {
        sinks: true,
        ..heads(10, 2, 32, 32)
    },
    Layout {
        window: Some(37),
        sinks: true,
        ..heads(7, 1, 16, 24)
    },
];

/// First position and rows of what is compared.
const PLACES: [(usize, usize); 12] = [
    (0, 1),
    (0, 2),
    (0, 19),
    (15, 1),
    (16, 1),
    (31, 3),
    (100, 33),
    (127, 1),
    (128, 1),
    (250, 40),
    (600, 5),
    (1099, 1),
];

#[test]
fn every_type_equals_plain_attention() {
    let tier = Tier::available()[0];
    for dtype in KvDtype::ALL {
        for heads in SHAPES {
            let world = World::new(heads, dtype, &[1100]);
            for (first, rows) in PLACES {
                world.store_all(|_| first);
                let out = world.step(tier, 2, &[(0, first, rows)]);
                let error = world.error(0, first, &out);
                assert!(
                    error < tolerance(dtype),
                    "{dtype:?} {heads:?} {rows} rows at {first}: {error}"
                );
            }
        }
    }
}

#[test]
fn every_tier_gives_the_bits_of_the_scalar_one() {
    for dtype in KvDtype::ALL {
        for heads in SHAPES {
            let world = World::new(heads, dtype, &[290, 1100]);
            for (first, rows) in [(0, 1), (0, 7), (120, 30), (250, 40), (1000, 3)] {
                let pieces = if first + rows <= 290 {
                    vec![(0, first, rows), (1, 17, 1)]
                } else {
                    vec![(0, 3, 1), (1, first, rows)]
                };
                world.store_all(|s| pieces[s].1);
                let want = bits(&world.step(Tier::Scalar, 2, &pieces));
                for tier in Tier::available() {
                    assert!(
                        bits(&world.step(tier, 2, &pieces)) == want,
                        "{dtype:?} {heads:?} {rows} rows at {first}: {tier:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn chunks_batches_and_cuts_do_not_matter() {
    let tier = Tier::available()[0];
    let lengths = [300, 41, 530];
    for dtype in KvDtype::ALL {
        for heads in SHAPES {
            let whole = World::new(heads, dtype, &lengths);
            let want: Vec<_> = (0..3)
                .map(|s| bits(&whole.step(tier, 2, &[(s, 0, lengths[s])])))
                .collect();
            for (threads, sizes) in [(1, [1, 1, 1]), (16, [7, 3, 64]), (2, [31, 40, 129])] {
                let world = World::new(heads, dtype, &lengths);
                let mut done = [0; 3];
                let mut turn = 0;
                while done != lengths {
                    // One sequence at a time, then all of them in one step, in turns.
                    let pieces: Vec<_> = (0..3)
                        .filter(|s| turn % 4 == 3 || turn % 3 == *s)
                        .map(|s| (s, done[s], sizes[s].min(lengths[s] - done[s])))
                        .filter(|piece| piece.2 > 0)
                        .collect();
                    turn += 1;
                    if pieces.is_empty() {
                        continue;
                    }
                    let out = bits(&world.step(tier, threads, &pieces));
                    let mut rows = out.iter();
                    for (s, first, count) in pieces {
                        for position in first..first + count {
                            assert!(
                                rows.next() == Some(&want[s][position]),
                                "{dtype:?} {heads:?} chunks {sizes:?}: position {position} of {s}"
                            );
                        }
                        done[s] += count;
                    }
                }
            }
        }
    }
}

/// Rows that see all of their sequence, also what this very step computes behind them.
#[test]
fn whole_sequences_are_seen_from_every_row_alone_and_in_any_batch() {
    let lengths = [1, 2, 17, 128, 129, 300];
    for dtype in KvDtype::ALL {
        for heads in [
            heads(12, 12, 32, 32),
            heads(4, 2, 64, 64),
            heads(3, 1, 33, 17),
        ] {
            let heads = Layout {
                bidirectional: true,
                ..heads
            };
            let world = World::new(heads, dtype, &lengths);
            let alone: Vec<_> = (0..lengths.len())
                .map(|s| {
                    let out = world.step(Tier::Scalar, 1, &[(s, 0, lengths[s])]);
                    let error = world.error(s, 0, &out);
                    assert!(error < tolerance(dtype), "{dtype:?} {heads:?} {s}: {error}");
                    bits(&out)
                })
                .collect();
            for tier in Tier::available() {
                for (threads, order) in [(1, [0, 1, 2, 3, 4, 5]), (16, [5, 3, 1, 0, 4, 2])] {
                    let pieces = order.map(|s| (s, 0, lengths[s]));
                    let together = bits(&world.step(tier, threads, &pieces));
                    let want: Vec<_> = order.iter().flat_map(|&s| alone[s].clone()).collect();
                    assert!(together == want, "{tier:?} {dtype:?} {heads:?} {threads}");
                }
            }
        }
    }
}

#[test]
fn a_later_tokens_nan_reaches_nobody_before_it_and_everybody_after() {
    for tier in Tier::available() {
        for dtype in KvDtype::ALL {
            for heads in SHAPES {
                let length = 150;
                let mut world = World::new(heads, dtype, &[length]);
                let clean = bits(&world.step(tier, 1, &[(0, 0, length)]));
                for bad in [1, 63, 133] {
                    let (k, v) = (world.k[0][bad].clone(), world.v[0][bad].clone());
                    world.k[0][bad].fill(f32::NAN);
                    world.v[0][bad].fill(f32::NAN);
                    let out = world.step(tier, 1, &[(0, 0, length)]);
                    (world.k[0][bad], world.v[0][bad]) = (k, v);
                    for (position, row) in out.iter().enumerate() {
                        let sees = position >= bad && first_seen(position, heads.window) <= bad;
                        if sees {
                            assert!(
                                row.iter().all(|x| x.is_nan()),
                                "{tier:?} {dtype:?} {heads:?}: NaN of {bad} is lost at {position}"
                            );
                        } else {
                            assert!(
                                bits(std::slice::from_ref(row))[0] == clean[position],
                                "{tier:?} {dtype:?} {heads:?}: NaN of {bad} seen at {position}"
                            );
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_cut_gives_every_tile_of_every_row_to_one_unit(
        pieces in prop::collection::vec((0_usize..3000, 1_usize..300), 1..8),
        per_head in 1_usize..17,
        num_kv_heads in 1_usize..5,
        window in prop::option::of(1_usize..700),
        threads in 1_usize..40,
        bidirectional in any::<bool>(),
    ) {
        let window = window.filter(|_| !bidirectional);
        let id = |n: usize| i32::try_from(n).expect("small");
        let mut batch = Batch { query_start_loc: vec![0], ..Batch::default() };
        let mut tables = vec![0];
        for &(first, rows) in &pieces {
            batch.positions.extend((first..first + rows).map(id));
            batch.token_ids.resize(batch.positions.len(), 0);
            batch.query_start_loc.push(id(batch.positions.len()));
            batch.seq_lens.push(id(first + rows));
            tables.push(tables[tables.len() - 1] + id((first + rows).div_ceil(BLOCK_SIZE)));
        }
        let shape = Shape { num_kv_heads, per_head, v_head_dim: 64, window, bidirectional };
        let (mut units, mut merges) = (Vec::new(), Vec::new());
        let used = cut(shape, &batch, &tables, threads, &mut units, &mut merges);
        let mut partials = vec![0; used];
        let tiles = 3300_usize.div_ceil(TILE);
        let mut done = vec![0; batch.num_tokens() * num_kv_heads * tiles];
        for Unit { row, rows, head, tiles: range, partial, .. } in &units {
            prop_assert!(rows * per_head <= super::MAX_QUERIES);
            prop_assert!(partial.is_none() || rows * per_head <= 32);
            for tile in range.0..range.1 {
                if let Some(first) = partial {
                    partials[first + tile - range.0] += 1;
                }
                for row in *row..row + rows {
                    done[(row * num_kv_heads + head) * tiles + tile] += 1;
                }
            }
        }
        prop_assert!(partials.iter().all(|&n| n == 1));
        prop_assert_eq!(merges.iter().map(|merge| merge.count).sum::<usize>(), used);
        for (row, &position) in batch.positions.iter().enumerate() {
            let position = usize::try_from(position).expect("a position");
            let sequence = batch.query_start_loc.partition_point(|&start| start <= id(row)) - 1;
            let last = if bidirectional {
                usize::try_from(batch.seq_lens[sequence]).expect("a length") - 1
            } else {
                position
            };
            let sees = first_seen(position, window) / TILE..last / TILE + 1;
            for head in 0..num_kv_heads {
                for tile in sees.clone() {
                    prop_assert_eq!(done[(row * num_kv_heads + head) * tiles + tile], 1);
                }
            }
        }
    }
}
