//! Where K and V lie. A block holds 16 tokens of every layer of its group. Within it each layer and KV head has K
//! transposed, so that 16 scores are one register, then the scales of types that have them, then V row-major.
//!
//! A *word* is what one multiply-add of a lane takes: an element, or for bf16 a pair (neighbours in `d` for K, in
//! position for V). K is `[k_steps][16]` words, V `[16 or 8][v_stride]` words with `v_stride` padded to 16; scales are
//! `[K, V][16]` bf16. Padding stays zero. Reserved address space; touched blocks take memory.

mod element;
mod store;
#[cfg(test)]
mod tests;
mod transfer;

use inferlib_program::BLOCK_SIZE;
use inferlib_program::program::KvGroup;

use crate::arena::Mapping;
use crate::error::CpuError;
use crate::simd::LANES;

pub(crate) use element::{Bfloat, BfloatNative, Half, Int8, KvElement, Single};
pub(crate) use store::store_kv;
pub use transfer::KvRows;

/// What K and V are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// Half floats; values beyond their range are clamped. Attention multiplies in f32.
    F16,
    /// bfloat16; queries and softmax weights are rounded to it as well, sums are f32.
    Bf16,
    /// Signed bytes with a scale per token and head, for K and for V. Attention multiplies in f32.
    Int8,
    /// Floats.
    F32,
}

impl KvDtype {
    /// All types.
    pub const ALL: [Self; 4] = [Self::F16, Self::Bf16, Self::Int8, Self::F32];

    /// The name by which it is asked for and reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::F32 => "f32",
        }
    }

    fn sizes(self) -> Sizes {
        match self {
            Self::F16 => Sizes::of::<Half>(),
            Self::Bf16 => Sizes::of::<Bfloat>(),
            Self::Int8 => Sizes::of::<Int8>(),
            Self::F32 => Sizes::of::<Single>(),
        }
    }
}

/// Constants of a [`KvElement`].
#[derive(Clone, Copy, Debug)]
struct Sizes {
    word_bytes: usize,
    per_word: usize,
    scaled: bool,
}

impl Sizes {
    fn of<E: KvElement>() -> Self {
        Self {
            word_bytes: E::WORD_BYTES,
            per_word: E::PER_WORD,
            scaled: E::SCALED,
        }
    }

    /// Bytes of K, of the scales, and of all of one layer and head in a block.
    fn head(self, group: &KvGroup) -> (usize, usize, usize) {
        let k = group.k_head_dim.div_ceil(self.per_word) * BLOCK_SIZE * self.word_bytes;
        let scales = if self.scaled { 2 * 2 * BLOCK_SIZE } else { 0 };
        let v =
            group.v_head_dim.next_multiple_of(LANES) * BLOCK_SIZE / self.per_word * self.word_bytes;
        (k, scales, (k + scales + v).next_multiple_of(64))
    }

    fn block(self, group: &KvGroup) -> usize {
        group.num_layers * group.num_kv_heads * self.head(group).2
    }
}

/// The blocks of one KV group.
#[derive(Debug)]
pub(crate) struct GroupCache {
    memory: Mapping,
    pub(crate) group: KvGroup,
    pub(crate) num_blocks: usize,
    sizes: Sizes,
}

impl GroupCache {
    pub(crate) fn new(
        group: &KvGroup,
        num_blocks: usize,
        dtype: KvDtype,
    ) -> Result<Self, CpuError> {
        let sizes = dtype.sizes();
        Ok(Self {
            memory: Mapping::new(sizes.block(group) * num_blocks, "the KV cache")?,
            group: group.clone(),
            num_blocks,
            sizes,
        })
    }

    /// Bytes of a block of `group`, all its layers.
    pub(crate) fn bytes_per_block(group: &KvGroup, dtype: KvDtype) -> usize {
        dtype.sizes().block(group)
    }

    /// Bytes reserved.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.memory.len()
    }

    /// Every byte of the cache, its pages touched.
    #[cfg(any(test, feature = "measure"))]
    pub(crate) fn fill(&mut self, byte: u8) {
        // SAFETY: our own mapping; no step runs.
        unsafe { std::ptr::write_bytes(self.memory.as_ptr(), byte, self.memory.len()) };
    }

    /// Copy a whole block, all layers.
    pub(crate) fn copy_block(&self, source: usize, target: usize) {
        let bytes = self.sizes.block(&self.group);
        // SAFETY: the executor checked both ids against `num_blocks`; they differ; no step runs meanwhile.
        unsafe {
            let base = self.memory.as_ptr();
            std::ptr::copy(base.add(source * bytes), base.add(target * bytes), bytes);
        }
    }

    /// K and V of one layer, as kernels address them.
    pub(crate) fn layer(&self, layer: usize) -> LayerCache {
        let (k_bytes, scale_bytes, head_bytes) = self.sizes.head(&self.group);
        LayerCache {
            base: self
                .memory
                .as_ptr()
                .wrapping_add(layer * self.group.num_kv_heads * head_bytes),
            block_bytes: self.sizes.block(&self.group),
            head_bytes,
            k_bytes,
            scale_bytes,
            k_steps: self.group.k_head_dim.div_ceil(self.sizes.per_word),
            v_stride: self.group.v_head_dim.next_multiple_of(LANES),
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
    scale_bytes: usize,
    /// Words of a key.
    pub(crate) k_steps: usize,
    /// Words of a V row.
    pub(crate) v_stride: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) k_head_dim: usize,
    pub(crate) v_head_dim: usize,
}

impl LayerCache {
    /// K of a block and head: `[k_steps][16]` words.
    #[inline(always)]
    pub(crate) fn k(&self, block: usize, head: usize) -> *mut u8 {
        self.base
            .wrapping_add(block * self.block_bytes + head * self.head_bytes)
    }

    /// Bytes from K to V of the same block and head.
    #[inline(always)]
    pub(crate) fn values_offset(&self) -> usize {
        self.k_bytes + self.scale_bytes
    }

    /// Scales of a block and head: `[16]` of K, then of V, bf16; for types that have them.
    #[inline(always)]
    pub(crate) fn scales(&self, block: usize, head: usize) -> *mut u16 {
        self.k(block, head).wrapping_add(self.k_bytes).cast()
    }

    /// V of a block and head: `[16 / PER_WORD][v_stride]` words.
    #[inline(always)]
    pub(crate) fn v(&self, block: usize, head: usize) -> *mut u8 {
        self.k(block, head).wrapping_add(self.values_offset())
    }
}
