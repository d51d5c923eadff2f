//! The executor: packed weights, KV cache, workspaces and threads of one model.

use std::collections::HashMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use inferlib_program::program::{Program, WeightId};
use inferlib_program::{Batch, StepOutput};
use inferlib_weights::Tensor;

use crate::activations::{Activations, Need};
use crate::adapters::{Adapter, AdapterPart};
use crate::arena::{Arena, Mapping};
use crate::error::CpuError;
use crate::experts::{MoeWeights, Room};
use crate::head_linear::HeadMatrices;
use crate::kernels::{Kernels, KvKernels};
use crate::kv_cache::{GroupCache, KvDtype};
use crate::loader::LoadedWeights;
use crate::matrix::Matrix;
use crate::packed_image::{MatrixSource, PackedImage};
use crate::plan::{self, Step};
use crate::pool::{Pool, available_cores};
use crate::residency::WeightMemory;
use crate::step::run_step;
use crate::tier::Tier;
use crate::workspace::Workspace;

/// Numerics of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// One int8 plane per 32 activations for quantized weights.
    Fast,
    /// Two int8 planes (about 15 bits) per 32 activations for quantized weights.
    Balanced,
    /// f32 activations.
    Exact,
}

impl Precision {
    /// What K and V are stored as if nothing else is asked for: f32 in exact precision, else f16.
    #[must_use]
    pub fn kv_dtype(self) -> KvDtype {
        match self {
            Self::Fast | Self::Balanced => KvDtype::F16,
            Self::Exact => KvDtype::F32,
        }
    }
}

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

/// One part of a weight: a tensor's rows, stacked below those of the part before.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The checkpoint's tensor.
    pub tensor: Tensor<'a>,
    /// Row `i` of the part is row `row_order[i]` of the tensor; `None` keeps the file's order.
    pub row_order: Option<&'a [i32]>,
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
    workspace: Option<Workspace>,
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
            workspace: None,
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

    fn declared(&self, name: &str) -> Result<usize, CpuError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| CpuError::UnknownWeight {
                name: name.to_owned(),
            })
    }

    /// Give a vector weight.
    ///
    /// # Errors
    /// The name or the length is not the program's.
    pub fn load_vector(&mut self, name: &str, values: Vec<f32>) -> Result<(), CpuError> {
        let index = self.declared(name)?;
        let expected = &self.program.weights[index].shape;
        if expected[..] != [values.len()] {
            return Err(CpuError::WeightShape {
                name: name.to_owned(),
                expected: expected.clone(),
                found: vec![values.len()],
            });
        }
        self.weights[index] = Some(Weight::Vector(values));
        Ok(())
    }

    /// Give a matrix weight: its parts, stacked by rows, each packed in its own tensor type's layout. For matrices that
    /// are made in code; a checkpoint's are loaded by a [`crate::WeightLoader`].
    ///
    /// # Errors
    /// The name or the shape is not the program's, a type has no float values, or memory is refused.
    pub fn load_matrix(&mut self, name: &str, parts: &[Part<'_>]) -> Result<(), CpuError> {
        let matrix = MatrixSource {
            name,
            parts: parts.to_vec(),
        };
        let image = PackedImage::plan(&self.program, &[matrix])?;
        let data = self.arena.take(image.bytes(), "a packed weight")?;
        // SAFETY: the arena handed out exactly these bytes, zeroed, to this matrix alone.
        image.fill(0, unsafe {
            std::slice::from_raw_parts_mut(data, image.bytes())
        })?;
        for (index, matrix) in image.place(data) {
            self.weights[index] = Some(Weight::Matrix(matrix));
        }
        Ok(())
    }

    /// Take the matrices that a [`crate::WeightLoader`] of this executor's program packed or found.
    pub fn adopt(&mut self, loaded: LoadedWeights) {
        for (index, matrix) in loaded.matrices {
            self.weights[index] = Some(Weight::Matrix(matrix));
        }
        self.images.push(loaded.memory);
    }

    /// Every weight is there: build the plan and the workspaces.
    ///
    /// # Errors
    /// Missing weights, or no memory.
    pub fn seal(&mut self) -> Result<(), CpuError> {
        let missing: Vec<&str> = self
            .program
            .weights
            .iter()
            .zip(&self.weights)
            .filter(|(_, loaded)| loaded.is_none())
            .map(|(declared, _)| declared.name.as_str())
            .take(10)
            .collect();
        if !missing.is_empty() {
            return Err(CpuError::MissingWeights {
                names: missing.join(", "),
            });
        }
        self.plan(!self.adapters.is_empty())
    }

    /// Load an adapter under a number, which batches name it by. The first one makes the plan anew: what products read is
    /// kept from then on. After an error all is as it was.
    ///
    /// # Errors
    /// 0, a number in use, a part that fits no matrix of the program, or no memory.
    pub fn load_adapter(&mut self, id: u32, parts: Vec<AdapterPart>) -> Result<(), CpuError> {
        if id == 0 || self.adapters.contains_key(&id) {
            return Err(CpuError::Option {
                field: "adapter",
                value: id.to_string(),
                expected: "a number above 0 that is not in use",
            });
        }
        let adapter = Adapter::new(&self.program, parts)?;
        if !self.adapts && self.workspace.is_some() {
            self.plan(true)?;
        }
        self.adapters.insert(id, adapter);
        Ok(())
    }

    /// Forget an adapter; whether there was one.
    pub fn unload_adapter(&mut self, id: u32) -> bool {
        self.adapters.remove(&id).is_some()
    }

    /// Plan the steps and the room they need. After an error all is as it was.
    fn plan(&mut self, adapts: bool) -> Result<(), CpuError> {
        let steps = plan::build(
            &self.program,
            adapts,
            |weight| self.need(weight),
            |weight| self.matrix(weight).is_some_and(Matrix::halves_alike),
        );
        let former = mem::replace(&mut self.steps, steps);
        match self.room_of_steps() {
            Ok(workspace) => {
                self.workspace = Some(workspace);
                self.adapts = adapts;
                Ok(())
            }
            Err(error) => {
                self.steps = former;
                Err(error)
            }
        }
    }

    /// What the steps work in, and what they read of several matrices at once.
    fn room_of_steps(&mut self) -> Result<Workspace, CpuError> {
        let mut need = Need::default();
        let mut width = 0;
        for weight in &self.weights {
            if let Some(Weight::Matrix(matrix)) = weight {
                need = need.union(matrix.need(self.precision));
                width = width.max(matrix.in_features);
            }
        }
        self.moes = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Moe(moe) => Some(MoeWeights::new(self, moe)),
                _ => None,
            })
            .collect();
        self.head_linears = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::HeadLinear(step) => Some(HeadMatrices::new(self, step)),
                _ => None,
            })
            .collect();
        let grouped = self
            .moes
            .iter()
            .map(|moe| Room::of(moe, self.max_tokens).padded_rows);
        let by_head = self
            .head_linears
            .iter()
            .map(|heads| heads.rows_of_width(self.max_tokens, width));
        let largest = grouped.chain(by_head).max();
        let rows = largest.unwrap_or(0).max(self.max_tokens);
        let activations = Activations::new(rows, width, need);
        Workspace::new(self, activations)
    }

    /// Query heads of the attention ops over a KV group.
    pub(crate) fn num_heads(&self, group: usize) -> usize {
        self.steps
            .iter()
            .filter_map(|step| match step {
                Step::Attention { kv, num_heads, .. } if kv.group == group => Some(*num_heads),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    fn need(&self, weight: WeightId) -> Need {
        self.matrix(weight)
            .map_or_else(Need::default, |matrix| matrix.need(self.precision))
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
        let Some(mut workspace) = self.workspace.take() else {
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
            run_step(self, &mut workspace, batch)
        }));
        self.workspace = Some(workspace);
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
