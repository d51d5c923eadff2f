//! Products of weights, straight from the executor's kernels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inferlib_program::program::{Program, WeightDecl};
use inferlib_weights::{Dtype, Tensor};

use crate::activations::{Activations, ActivationsView, pack_row};
use crate::buffer_plan::row_stride;
use crate::error::CpuError;
use crate::executor::{CpuExecutor, Options, Weight};
use crate::linear::{LinearTask, PanelScratch, linear};
use crate::matrix::Matrix;
use crate::packed_image::{MatrixSource, Part};
use crate::precision::Precision;
use crate::random_weights::{Random, bytes_of_row_scales, tensor_bytes};
use crate::simd::Portable;
use crate::tier::Tier;

/// Most operations of a pass: with many rows it is arithmetic that counts, and fewer copies of the weights do.
const MAX_OPERATIONS: usize = 16_000_000_000;
/// Fewest passes.
const MIN_PASSES: usize = 3;

/// One weight matrix with random contents, as often in memory as it takes to reach `bytes`.
#[derive(Debug)]
pub struct Linear {
    executor: CpuExecutor,
    precision: Precision,
}

/// What a matrix is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// That of a tensor type.
    Of(Dtype),
    /// That of `Q8_0` whose rows have one scale each.
    RowScales,
}

impl Layout {
    /// Its tensor type.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Of(dtype) => dtype,
            Self::RowScales => Dtype::Q8_0,
        }
    }
}

/// Seconds of passes over some copies of the weights.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Of each pass, ascending.
    pub seconds: Vec<f64>,
    /// Packed bytes that a pass reads.
    pub bytes: usize,
    /// Multiply-adds of a pass, times 2.
    pub operations: usize,
}

impl Linear {
    /// `out_features` by `in_features` in a layout, on `threads` threads of `tier`.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`] and [`CpuExecutor::load_matrix`].
    pub fn new(
        layout: Layout,
        [out_features, in_features]: [usize; 2],
        bytes: usize,
        tier: Tier,
        threads: usize,
        precision: Precision,
    ) -> Result<Self, CpuError> {
        let dtype = layout.dtype();
        let one = out_features * in_features / dtype.block_size() * dtype.block_bytes();
        let copies = bytes.div_ceil(one).max(1);
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
            kv_cache_dtype: None,
            threads: Some(threads),
            tier: Some(tier.name().to_owned()),
            max_num_batched_tokens: 1,
            num_blocks: Vec::new(),
        };
        let mut executor = CpuExecutor::new(Arc::new(program), &options)?;
        let mut random = Random::new(1);
        let bytes = match layout {
            Layout::Of(dtype) => tensor_bytes(dtype, out_features * in_features, &mut random),
            Layout::RowScales => bytes_of_row_scales(out_features, in_features, &mut random),
        };
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
            executor.load_source(MatrixSource {
                name: &i.to_string(),
                parts: vec![part],
                row_scales: layout == Layout::RowScales,
            })?;
        }
        Ok(Self {
            executor,
            precision,
        })
    }

    /// Passes over the copies with `rows` rows of input, the quantization of the input not included: until there are
    /// `repeats`, or three and `time` is over.
    ///
    /// # Errors
    /// If a worker panics.
    pub fn passes(&self, rows: usize, repeats: usize, time: Duration) -> Result<Pass, CpuError> {
        let mut matrices: Vec<&Matrix> = self
            .executor
            .weights
            .iter()
            .filter_map(|weight| match weight {
                Some(Weight::Matrix(matrix)) => Some(matrix),
                _ => None,
            })
            .collect();
        let [first, ..] = matrices[..] else {
            return Err(CpuError::Panic {
                message: "no matrix was loaded".to_owned(),
            });
        };
        let (width, outputs) = (first.in_features, first.out_features);
        let operations = 2 * width * outputs * rows;
        matrices.truncate((MAX_OPERATIONS / operations).max(1));
        let (kernels, need) = (&self.executor.kernels, first.need(self.precision));
        let mut random = Random::new(2);
        let x: Vec<f32> = (0..rows * width).map(|_| random.float()).collect();
        let mut activations = Activations::new(rows, width, need);
        let view = activations.view();
        for row in 0..rows {
            // SAFETY: the view has room for `rows` rows.
            unsafe {
                pack_row::<Portable>(x[row * width..].as_ptr(), width, row, rows, need, view);
            };
        }
        let stride = row_stride(outputs);
        let mut out = vec![0.0; rows * stride];
        let shared = Shared {
            out: out.as_mut_ptr(),
            view,
        };
        let threads = self.executor.threads();
        let mut seconds = Vec::with_capacity(repeats);
        let begin = Instant::now();
        while seconds.len() < repeats.max(1)
            && (seconds.len() < MIN_PASSES || begin.elapsed() < time)
        {
            let start = Instant::now();
            self.executor.pool.run_on_all(&|worker| {
                let shared = &shared;
                let mut scratch = PanelScratch::new(rows);
                for matrix in &matrices {
                    let task = LinearTask {
                        matrix,
                        input: shared.view,
                        rows,
                        bias: None,
                        out: shared.out,
                        out_stride: stride,
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
        seconds.sort_by(f64::total_cmp);
        Ok(Pass {
            seconds,
            bytes: matrices.iter().map(|matrix| matrix.bytes()).sum(),
            operations: operations * matrices.len(),
        })
    }
}

struct Shared {
    out: *mut f32,
    view: ActivationsView,
}

// SAFETY: workers write disjoint panels.
unsafe impl Sync for Shared {}
