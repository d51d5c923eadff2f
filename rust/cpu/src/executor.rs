//! The executor: packed weights, KV cache, workspaces and threads of one model.

mod loading;
mod planning;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use inferlib_program::program::{Program, WeightId};
use inferlib_program::{Batch, StepOutput};

use crate::adapters::Adapter;
use crate::arena::{Arena, Mapping};
use crate::error::CpuError;
use crate::experts::MoeWeights;
use crate::head_linear::HeadMatrices;
use crate::kernels::{Kernels, KvKernels};
use crate::kv_cache::{GroupCache, KvDtype};
use crate::matrix::Matrix;
use crate::plan::Step;
use crate::pool::{Pool, available_cores};
use crate::precision::Precision;
use crate::residency::WeightMemory;
use crate::step::run_step;
use crate::tier::Tier;
use crate::workspace::Workspaces;

/// How an executor is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numerics.
    pub precision: Precision,
    /// What K and V are stored as; `None` means what the precision says.
    pub kv_cache_dtype: Option<KvDtype>,
    /// Workers, the calling thread included; `None` means the cores that this process may use.
    pub threads: Option<usize>,
    /// A tier's name, or `None` for the best one.
    pub tier: Option<String>,
    /// Most token rows in a batch.
    pub max_num_batched_tokens: usize,
    /// Blocks of each KV group.
    pub num_blocks: Vec<usize>,
}

/// Where a panic is planted for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedPanic {
    /// In every worker that takes part in the step.
    Workers,
    /// On the calling thread, outside of the workers' job.
    Caller,
}

/// A loaded weight.
#[derive(Debug)]
pub(crate) enum Weight {
    Vector(Vec<f32>),
    Matrix(Matrix),
}

/// Runs a program on the CPU.
#[derive(Debug)]
pub struct CpuExecutor {
    pub(crate) program: Arc<Program>,
    pub(crate) precision: Precision,
    pub(crate) tier: Tier,
    pub(crate) kernels: Kernels,
    pub(crate) kv_kernels: KvKernels,
    kv_dtype: KvDtype,
    pub(crate) pool: Pool,
    pub(crate) max_tokens: usize,
    pub(crate) weights: Vec<Option<Weight>>,
    pub(crate) caches: Vec<GroupCache>,
    pub(crate) steps: Vec<Step>,
    /// Of each [`Step::Moe`].
    pub(crate) moes: Vec<MoeWeights>,
    /// Of each [`Step::HeadLinear`].
    pub(crate) head_linears: Vec<HeadMatrices>,
    pub(crate) adapters: HashMap<u32, Adapter>,
    /// Whether the plan is one for adapters.
    adapts: bool,
    pub(crate) abort: Arc<AtomicBool>,
    names: HashMap<String, usize>,
    arena: Arena,
    /// What the loaded matrices lie in.
    images: Vec<Arc<Mapping>>,
    workspaces: Option<Workspaces>,
    planted_panic: Option<PlantedPanic>,
}

impl CpuExecutor {
    /// An executor without weights. Reserves the KV cache; starts no thread.
    ///
    /// # Errors
    /// An unknown or unavailable tier, options out of range, or no address space.
    pub fn new(program: Arc<Program>, options: &Options) -> Result<Self, CpuError> {
        let tier = Tier::choose(options.tier.as_deref())?;
        let kernels = Kernels::of(tier);
        let kv_dtype = options
            .kv_cache_dtype
            .unwrap_or_else(|| options.precision.kv_dtype());
        let threads = options.threads.unwrap_or_else(available_cores);
        if threads == 0 || threads > 1024 {
            return Err(CpuError::Option {
                field: "threads",
                value: threads.to_string(),
                expected: "1 to 1024",
            });
        }
        if options.max_num_batched_tokens == 0 {
            let expected = "at least 1";
            return Err(CpuError::Option {
                field: "max_num_batched_tokens",
                value: "0".to_owned(),
                expected,
            });
        }
        if options.num_blocks.len() != program.kv_groups.len() {
            return Err(CpuError::Option {
                field: "num_blocks",
                value: options.num_blocks.len().to_string(),
                expected: "one number per KV group of the program",
            });
        }
        let caches = program
            .kv_groups
            .iter()
            .zip(&options.num_blocks)
            .map(|(group, &blocks)| GroupCache::new(group, blocks, kv_dtype))
            .collect::<Result<Vec<_>, _>>()?;
        let names = program
            .weights
            .iter()
            .enumerate()
            .map(|(i, weight)| (weight.name.clone(), i))
            .collect();
        Ok(Self {
            weights: program.weights.iter().map(|_| None).collect(),
            precision: options.precision,
            tier,
            kernels,
            kv_kernels: kernels.of_cache(tier, kv_dtype),
            kv_dtype,
            pool: Pool::new(threads),
            max_tokens: options.max_num_batched_tokens,
            caches,
            steps: Vec::new(),
            moes: Vec::new(),
            head_linears: Vec::new(),
            adapters: HashMap::new(),
            adapts: false,
            abort: Arc::new(AtomicBool::new(false)),
            names,
            arena: Arena::default(),
            images: Vec::new(),
            workspaces: None,
            planted_panic: None,
            program,
        })
    }

    /// Bytes of KV cache per block, all groups together.
    #[must_use]
    pub fn bytes_per_block(program: &Program, dtype: KvDtype) -> Vec<usize> {
        program
            .kv_groups
            .iter()
            .map(|group| GroupCache::bytes_per_block(group, dtype))
            .collect()
    }

    pub(crate) fn matrix(&self, weight: WeightId) -> Option<&Matrix> {
        match self.weights.get(weight.0 as usize)?.as_ref()? {
            Weight::Matrix(matrix) => Some(matrix),
            Weight::Vector(_) => None,
        }
    }

    pub(crate) fn vector(&self, weight: WeightId) -> Option<&[f32]> {
        match self.weights.get(weight.0 as usize)?.as_ref()? {
            Weight::Vector(values) => Some(values),
            Weight::Matrix(_) => None,
        }
    }

    /// Run one step: every op of the program over the batch, then sampling.
    ///
    /// # Errors
    /// An invalid batch, a failed kernel, or [`CpuError::Aborted`]; the step has no effect that a rerun would not
    /// overwrite.
    ///
    /// # Panics
    /// If a panic was planted. It and any other leaves the executor as an error does.
    pub fn run(&mut self, batch: &Batch) -> Result<StepOutput, CpuError> {
        let Some(mut workspaces) = self.workspaces.take() else {
            return Err(CpuError::MissingWeights {
                names: "seal() was not called".to_owned(),
            });
        };
        let planted = self.planted_panic.take();
        // A panic outside of the workers must not take the buffers with it: the next step needs them.
        let result = catch_unwind(AssertUnwindSafe(|| {
            match planted {
                Some(PlantedPanic::Workers) => self.pool.run(&|_| panic!("planted in a worker"))?,
                Some(PlantedPanic::Caller) => panic!("planted in the caller"),
                None => {}
            }
            run_step(self, &mut workspaces, batch)
        }));
        self.workspaces = Some(workspaces);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Let the next step panic: tests of what becomes of a bug.
    pub fn plant_panic(&mut self, place: PlantedPanic) {
        self.planted_panic = Some(place);
    }

    /// Raise the flag that ends the running step before its next phase; lowered by the next `run`.
    #[must_use]
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }

    /// Lower the abort flag.
    pub fn clear_abort(&self) {
        self.abort.store(false, Ordering::Release);
    }

    /// What it runs.
    #[must_use]
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The tier in use.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Workers, the calling thread included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.size()
    }

    /// Bytes of packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let matrices = self.weights.iter().flatten().map(|weight| match weight {
            Weight::Matrix(matrix) => matrix.bytes(),
            Weight::Vector(_) => 0,
        });
        matrices.sum()
    }

    /// Where the packed weights lie, for [`WeightMemory::residency`]; gone once the executor is.
    #[must_use]
    pub fn weight_memory(&self) -> WeightMemory {
        WeightMemory::of(&self.images)
    }

    /// What K and V are stored as.
    #[must_use]
    pub fn kv_dtype(&self) -> KvDtype {
        self.kv_dtype
    }

    /// Bytes reserved for the KV cache.
    #[must_use]
    pub fn kv_cache_bytes(&self) -> usize {
        self.caches.iter().map(GroupCache::reserved_bytes).sum()
    }
}
