//! Where K and V lie. A block holds 16 tokens of every layer of its group; within it each layer and KV head has K
//! transposed, `[k_head_dim][16]`, so that 16 scores are one register, and then V row-major, `[16][v_head_dim]`
//! (padded to 16 columns). f16, or f32 in exact precision. Reserved address space; touched blocks take memory.

use inferlib_core::BLOCK_SIZE;
use inferlib_core::program::KvGroup;

use crate::arena::Mapping;
use crate::error::CpuError;
use crate::simd::{Isa, LANES};

/// Element type of the cache.
pub(crate) trait KvElement: Copy + 'static {
    /// Bytes per element.
    const BYTES: usize;
    /// 16 elements as floats.
    unsafe fn load<I: Isa>(p: *const u8) -> I::F;
    /// 16 floats as elements.
    unsafe fn store<I: Isa>(p: *mut u8, x: I::F);
}

/// Half floats, the default. Values beyond the range of f16 are clamped to its largest.
#[derive(Clone, Copy)]
pub(crate) struct Half;

impl KvElement for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 elements.
        unsafe { I::load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<I: Isa>(p: *mut u8, x: I::F) {
        // SAFETY: the caller's 16 elements. `max(limit, x)` returns x where it is NaN, so NaN survives.
        unsafe {
            let x = I::max(I::set(-65504.0), I::min(I::set(65504.0), x));
            I::store_f16(p.cast(), x);
        }
    }
}

/// Floats, for exact precision.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl KvElement for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 elements.
        unsafe { I::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<I: Isa>(p: *mut u8, x: I::F) {
        // SAFETY: the caller's 16 elements.
        unsafe { I::store(p.cast(), x) }
    }
}

/// The blocks of one KV group.
#[derive(Debug)]
pub(crate) struct GroupCache {
    memory: Mapping,
    pub(crate) group: KvGroup,
    pub(crate) num_blocks: usize,
    element_bytes: usize,
}

impl GroupCache {
    pub(crate) fn new(group: &KvGroup, num_blocks: usize, exact: bool) -> Result<Self, CpuError> {
        let element_bytes = if exact { Single::BYTES } else { Half::BYTES };
        let bytes = Self::block_bytes_of(group, element_bytes) * num_blocks;
        Ok(Self {
            memory: Mapping::new(bytes, "the KV cache")?,
            group: group.clone(),
            num_blocks,
            element_bytes,
        })
    }

    /// Bytes of a block of `group`, all its layers.
    pub(crate) fn bytes_per_block(group: &KvGroup, exact: bool) -> usize {
        Self::block_bytes_of(group, if exact { Single::BYTES } else { Half::BYTES })
    }

    fn block_bytes_of(group: &KvGroup, element_bytes: usize) -> usize {
        let per_head = BLOCK_SIZE
            * (group.k_head_dim + group.v_head_dim.next_multiple_of(LANES))
            * element_bytes;
        group.num_layers * group.num_kv_heads * per_head
    }

    /// Bytes reserved.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.memory.len()
    }

    /// Copy a whole block, all layers.
    pub(crate) fn copy_block(&self, source: usize, target: usize) {
        let bytes = Self::block_bytes_of(&self.group, self.element_bytes);
        // SAFETY: the executor checked both ids against `num_blocks`; they differ; no step runs meanwhile.
        unsafe {
            let base = self.memory.as_ptr();
            std::ptr::copy(base.add(source * bytes), base.add(target * bytes), bytes);
        }
    }

    /// K and V of one layer, as kernels address them.
    pub(crate) fn layer(&self, layer: usize) -> LayerCache {
        let k_bytes = BLOCK_SIZE * self.group.k_head_dim * self.element_bytes;
        let v_stride = self.group.v_head_dim.next_multiple_of(LANES);
        let head_bytes = k_bytes + BLOCK_SIZE * v_stride * self.element_bytes;
        LayerCache {
            base: self
                .memory
                .as_ptr()
                .wrapping_add(layer * self.group.num_kv_heads * head_bytes),
            block_bytes: Self::block_bytes_of(&self.group, self.element_bytes),
            head_bytes,
            k_bytes,
            v_stride,
            num_kv_heads: self.group.num_kv_heads,
            k_head_dim: self.group.k_head_dim,
            v_head_dim: self.group.v_head_dim,
        }
    }
}

/// Addresses of one layer's K and V.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerCache {
    base: *mut u8,
    block_bytes: usize,
    head_bytes: usize,
    k_bytes: usize,
    /// Elements of a V row.
    pub(crate) v_stride: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) k_head_dim: usize,
    pub(crate) v_head_dim: usize,
}

impl LayerCache {
    /// K of a block and head: `[k_head_dim][16]`.
    pub(crate) fn k(&self, block: usize, head: usize) -> *mut u8 {
        self.base
            .wrapping_add(block * self.block_bytes + head * self.head_bytes)
    }

    /// V of a block and head: `[16][v_stride]`.
    pub(crate) fn v(&self, block: usize, head: usize) -> *mut u8 {
        self.k(block, head).wrapping_add(self.k_bytes)
    }
}

/// Write one token's K and V heads at `slot`.
///
/// # Safety
/// `slot` is within the pool and written by nobody else; `k` and `v` hold all KV heads; features of `I`.
#[inline(always)]
pub(crate) unsafe fn store_kv<I: Isa, E: KvElement>(
    cache: &LayerCache,
    slot: usize,
    k: *const f32,
    v: *const f32,
) {
    let (block, offset) = (slot / BLOCK_SIZE, slot % BLOCK_SIZE);
    for head in 0..cache.num_kv_heads {
        // SAFETY: addresses lie within the block.
        unsafe {
            let to = cache.k(block, head);
            let from = k.add(head * cache.k_head_dim);
            let mut d = 0;
            while d < cache.k_head_dim {
                let count = LANES.min(cache.k_head_dim - d);
                let x = if count == LANES {
                    I::load(from.add(d))
                } else {
                    I::load_first(from.add(d), count)
                };
                let mut row = [0_u8; 4 * LANES];
                E::store::<I>(row.as_mut_ptr(), x);
                for j in 0..count {
                    let at = to.add(((d + j) * BLOCK_SIZE + offset) * E::BYTES);
                    std::ptr::copy_nonoverlapping(row.as_ptr().add(j * E::BYTES), at, E::BYTES);
                }
                d += LANES;
            }
            let to = cache.v(block, head).add(offset * cache.v_stride * E::BYTES);
            let from = v.add(head * cache.v_head_dim);
            let mut d = 0;
            while d + LANES <= cache.v_head_dim {
                E::store::<I>(to.add(d * E::BYTES), I::load(from.add(d)));
                d += LANES;
            }
            if d < cache.v_head_dim {
                // The row is padded to 16 columns; the padding stays zero.
                E::store::<I>(
                    to.add(d * E::BYTES),
                    I::load_first(from.add(d), cache.v_head_dim - d),
                );
            }
        }
    }
}
