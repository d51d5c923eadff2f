//! How fast is a kernel, as a share of what the machine can do? For `examples/kernels.rs`; not part of the library.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use inferlib_core::program::{Program, WeightDecl};
use inferlib_weights::{Dtype, Tensor};

use crate::activations::{Activations, pack_row};
use crate::arena::Mapping;
use crate::error::CpuError;
use crate::executor::{CpuExecutor, Options, Part, Precision, Weight};
use crate::linear::source::AHEAD;
use crate::linear::{LinearTask, PanelScratch, linear};
use crate::pool::Pool;
use crate::random_weights::{Random, tensor_bytes};
use crate::simd::{Codes, Dot, Isa, Portable};
use crate::tier::Tier;

/// One weight matrix with random contents, as often in memory as it takes to exceed `bytes`, and its inputs.
#[derive(Debug)]
pub struct Linear {
    executor: CpuExecutor,
    precision: Precision,
    rows: usize,
    x: Vec<f32>,
    activations: Activations,
    out: Vec<f32>,
}

impl Linear {
    /// `out_features` by `in_features` in the layout of `dtype`, against `rows` rows, on `threads` threads of `tier`.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`] and [`CpuExecutor::load_matrix`].
    pub fn new(
        dtype: Dtype,
        [out_features, in_features]: [usize; 2],
        rows: usize,
        bytes: usize,
        tier: Tier,
        threads: usize,
        precision: Precision,
    ) -> Result<Self, CpuError> {
        let one = out_features * in_features / dtype.block_size() * dtype.block_bytes();
        let copies = (bytes / one).max(1);
        let program = Program {
            weights: (0..copies)
                .map(|i| WeightDecl {
                    name: i.to_string(),
                    shape: vec![out_features, in_features],
                })
                .collect(),
            vocab_size: 1,
            ..Program::default()
        };
        let options = Options {
            precision,
            threads: Some(threads),
            tier: Some(tier.name().to_owned()),
            max_num_batched_tokens: rows,
            num_blocks: Vec::new(),
        };
        let mut executor = CpuExecutor::new(Arc::new(program), &options)?;
        let mut random = Random::new(1);
        let bytes = tensor_bytes(dtype, out_features * in_features, &mut random);
        for i in 0..copies {
            let tensor = Tensor {
                name: "w",
                dtype,
                shape: &[out_features, in_features],
                bytes: &bytes,
            };
            let part = Part {
                tensor,
                row_order: None,
            };
            executor.load_matrix(&i.to_string(), &[part])?;
        }
        let x: Vec<f32> = (0..rows * in_features).map(|_| random.float()).collect();
        let Some(Weight::Matrix(matrix)) = &executor.weights[0] else {
            return Err(CpuError::Panic {
                message: "no matrix was loaded".to_owned(),
            });
        };
        let activations = Activations::new(rows, in_features, matrix.need(precision));
        Ok(Self {
            executor,
            precision,
            rows,
            x,
            activations,
            out: vec![0.0; rows * out_features],
        })
    }

    /// Packed bytes of all copies.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.executor.weight_bytes()
    }

    /// Multiply-adds of one pass over all copies, times 2.
    #[must_use]
    pub fn operations(&self) -> f64 {
        let matrix = |weight: &Option<Weight>| match weight {
            Some(Weight::Matrix(matrix)) => matrix.in_features * matrix.out_features,
            _ => 0,
        };
        let count: usize = self.executor.weights.iter().map(matrix).sum();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let operations = (2 * count * self.rows) as f64;
        operations
    }

    /// Seconds of each of `repeats` passes over all copies, the quantization of the input not included.
    ///
    /// # Errors
    /// If a worker panics.
    pub fn seconds(&mut self, repeats: usize) -> Result<Vec<f64>, CpuError> {
        let kernels = &self.executor.kernels;
        let view = self.activations.view();
        let matrices: Vec<_> = self
            .executor
            .weights
            .iter()
            .filter_map(|weight| match weight {
                Some(Weight::Matrix(matrix)) => Some(matrix),
                _ => None,
            })
            .collect();
        let width = matrices[0].in_features;
        let need = matrices[0].need(self.precision);
        for row in 0..self.rows {
            // SAFETY: the view has room for `rows` rows.
            unsafe {
                pack_row::<Portable>(
                    self.x[row * width..].as_ptr(),
                    width,
                    row,
                    self.rows,
                    need,
                    view,
                );
            }
        }
        let shared = Shared {
            out: self.out.as_mut_ptr(),
            view,
        };
        let threads = self.executor.threads();
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let start = Instant::now();
            self.executor.pool.run_on_all(&|worker| {
                let shared = &shared;
                let mut scratch = PanelScratch::new(self.rows);
                for matrix in &matrices {
                    let task = LinearTask {
                        matrix,
                        input: shared.view,
                        rows: self.rows,
                        bias: None,
                        out: shared.out,
                        gated: None,
                        precision: self.precision,
                    };
                    let pairs = task.num_pairs();
                    let share = pairs * worker / threads..pairs * (worker + 1) / threads;
                    // SAFETY: shares do not overlap; copies write the same outputs one after the other.
                    unsafe { linear(kernels, &task, share, &mut scratch) };
                }
            })?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

struct Shared {
    out: *mut f32,
    view: crate::activations::ActivationsView,
}

// SAFETY: workers write disjoint panels.
unsafe impl Sync for Shared {}

/// Operations per second of `threads` cores at nothing but int8 dot products of 5-bit codes, the best of a few tries: the
/// ceiling that integer kernels are compared with. `None` on tiers of another architecture.
#[must_use]
pub fn int8_peak(tier: Tier, threads: usize) -> Option<f64> {
    let pool = Pool::new(threads);
    let run: unsafe fn(usize) = match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => dots_of::avx512vnni::run,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => dots_of::avx512::run,
        #[cfg(target_arch = "x86_64")]
        Tier::AvxVnni => dots_of::avxvnni::run,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => dots_of::avx2::run,
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => dots_of::neon::run,
        Tier::Scalar => dots_of::scalar::run,
        // Tiers of another architecture.
        _ => return None,
    };
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        // SAFETY: the tier is available, or the executor would have refused it.
        pool.run_on_all(&|_| unsafe { run(ROUNDS) }).ok()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let operations = (ROUNDS * CHAINS * 128 * threads) as f64;
        best = best.max(operations / start.elapsed().as_secs_f64());
    }
    Some(best)
}

/// Rounds of a measurement.
const ROUNDS: usize = 400_000;
/// Independent dot products in flight: latency times throughput of every core so far, with room.
const CHAINS: usize = 16;

/// Codes of five bits, as most layouts have.
struct FiveBits;

impl Codes for FiveBits {
    const MAX_CODE: u8 = 31;
}

/// One function per tier, with its features.
mod dots_of {
    use super::dots;

    macro_rules! tier {
        ($tier:ident, $isa:ident, $features:literal) => {
            pub(super) mod $tier {
                #[target_feature(enable = $features)]
                pub(in super::super) unsafe fn run(rounds: usize) {
                    // SAFETY: the features are enabled here.
                    unsafe { super::dots::<crate::simd::$isa>(rounds) }
                }
            }
        };
    }
    crate::simd::for_each_tier!(tier);
}

#[inline(always)]
unsafe fn dots<I: Isa>(rounds: usize) {
    // SAFETY: no pointers; the features are the caller's.
    unsafe {
        let codes = [1, 3, 5, 7].map(|x| (I::b_set(black_box(x)), I::b_set(black_box(x + 1))));
        let mut activations = [(0x0102_0304, 0x0506_0708); CHAINS];
        let mut sums = [I::i_set(0); CHAINS];
        // Eight products of 32 columns each, as in the kernels.
        for _ in 0..rounds / 8 {
            black_box(&mut activations);
            for chain in 0..CHAINS {
                let mut dots = I::Dot::start(0);
                for codes in codes {
                    dots = I::Dot::dot8::<FiveBits>(dots, codes, activations[chain]);
                }
                sums[chain] = I::i_add(sums[chain], I::Dot::finish(dots));
            }
        }
        black_box(sums);
    }
}

/// Bytes per second that `threads` cores read together from `bytes` of huge pages, the best of a few tries. With the
/// kernels' prefetch: without it a core reads less than they do.
///
/// # Errors
/// If the memory cannot be had.
pub fn read_bandwidth(bytes: usize, threads: usize) -> Result<f64, CpuError> {
    let memory = Mapping::new(bytes, "a measurement")?;
    let words = bytes / 8 / threads / 8 * 8;
    let base = Base(memory.as_ptr().cast::<u64>());
    let pool = Pool::new(threads);
    pool.run_on_all(&|worker| {
        let base = &base;
        // SAFETY: shares do not overlap and lie within the mapping.
        unsafe { std::slice::from_raw_parts_mut(base.0.add(worker * words), words) }.fill(1);
    })?;
    let mut best = 0.0_f64;
    for _ in 0..7 {
        let start = Instant::now();
        pool.run_on_all(&|worker| {
            let base = &base;
            // SAFETY: as above.
            let share = unsafe { std::slice::from_raw_parts(base.0.add(worker * words), words) };
            let mut sums = [0_u64; 8];
            for chunk in share.chunks_exact(8) {
                prefetch(chunk.as_ptr().wrapping_byte_add(AHEAD).cast());
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*x);
                }
            }
            black_box(sums);
        })?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let read = (words * 8 * threads) as f64;
        best = best.max(read / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Asks for a cache line, where the architecture's baseline can.
fn prefetch(p: *const u8) {
    // SAFETY: a prefetch may name any address; SSE is every x86-64's.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

struct Base(*mut u64);

// SAFETY: workers touch disjoint shares.
unsafe impl Sync for Base {}
