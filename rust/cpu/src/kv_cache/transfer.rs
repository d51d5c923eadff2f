//! K and V of some tokens in a layout that no kernel dictates, for files: row-major `[layer][token][head][d]` elements
//! as they are stored, and for int8 the scales `[layer][token][head]`.

use inferlib_program::BLOCK_SIZE;

use super::{GroupCache, KvDtype};
use crate::error::CpuError;
use crate::executor::CpuExecutor;

/// K and V of the first tokens of a sequence, one KV group, little-endian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvRows {
    /// `[num_layers][num_tokens][num_kv_heads][k_head_dim]` elements.
    pub k: Vec<u8>,
    /// `[num_layers][num_tokens][num_kv_heads][v_head_dim]` elements.
    pub v: Vec<u8>,
    /// `[num_layers][num_tokens][num_kv_heads]` bf16 scales of K; empty for types without scales.
    pub k_scales: Vec<u8>,
    /// The same of V.
    pub v_scales: Vec<u8>,
}

impl KvDtype {
    /// Bytes of an element.
    #[must_use]
    pub fn element_bytes(self) -> usize {
        let sizes = self.sizes();
        sizes.word_bytes / sizes.per_word
    }
}

/// Places of one layer's and head's elements within a block, in bytes from the block's beginning.
struct Places {
    head: usize,
    scales: usize,
    values: usize,
    word_bytes: usize,
    per_word: usize,
    v_stride: usize,
}

impl Places {
    fn k(&self, token: usize, d: usize) -> usize {
        let word = d / self.per_word * BLOCK_SIZE + token;
        self.element(self.head, word, d % self.per_word)
    }

    fn v(&self, token: usize, d: usize) -> usize {
        let word = token / self.per_word * self.v_stride + d;
        self.element(self.values, word, token % self.per_word)
    }

    fn element(&self, start: usize, word: usize, place: usize) -> usize {
        start + word * self.word_bytes + place * (self.word_bytes / self.per_word)
    }
}

impl GroupCache {
    fn places(&self, layer: usize, head: usize) -> Places {
        let (k_bytes, scale_bytes, head_bytes) = self.sizes.head(&self.group);
        let start = (layer * self.group.num_kv_heads + head) * head_bytes;
        Places {
            head: start,
            scales: start + k_bytes,
            values: start + k_bytes + scale_bytes,
            word_bytes: self.sizes.word_bytes,
            per_word: self.sizes.per_word,
            v_stride: self.layer(layer).v_stride,
        }
    }

    /// All bytes of a block.
    fn block(&self, block: usize) -> &[u8] {
        let bytes = self.sizes.block(&self.group);
        assert!(block < self.num_blocks, "the caller checked the block");
        // SAFETY: a block of our own mapping; kernels write only in `run`, which needs the executor for itself.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(block * bytes), bytes) }
    }

    fn block_mut(&mut self, block: usize) -> &mut [u8] {
        let bytes = self.sizes.block(&self.group);
        assert!(block < self.num_blocks, "the caller checked the block");
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(block * bytes), bytes) }
    }

    /// Bytes of K, V and the scales of one of them for `num_tokens` tokens.
    fn row_bytes(&self, num_tokens: usize) -> (usize, usize, usize) {
        let rows = self.group.num_layers * num_tokens * self.group.num_kv_heads;
        let element = self.sizes.word_bytes / self.sizes.per_word;
        (
            rows * self.group.k_head_dim * element,
            rows * self.group.v_head_dim * element,
            if self.sizes.scaled { rows * 2 } else { 0 },
        )
    }

    /// Every element of `num_tokens` tokens in the order of the rows: place in its block, and which.
    fn walk(&self, num_tokens: usize, mut visit: impl FnMut(Part, usize, usize, usize)) {
        let element = self.sizes.word_bytes / self.sizes.per_word;
        for layer in 0..self.group.num_layers {
            for position in 0..num_tokens {
                let (index, token) = (position / BLOCK_SIZE, position % BLOCK_SIZE);
                for head in 0..self.group.num_kv_heads {
                    let places = self.places(layer, head);
                    for d in 0..self.group.k_head_dim {
                        visit(Part::K, index, places.k(token, d), element);
                    }
                    for d in 0..self.group.v_head_dim {
                        visit(Part::V, index, places.v(token, d), element);
                    }
                    if self.sizes.scaled {
                        let scale = places.scales + 2 * token;
                        visit(Part::KScale, index, scale, 2);
                        visit(Part::VScale, index, scale + 2 * BLOCK_SIZE, 2);
                    }
                }
            }
        }
    }

    pub(super) fn export(&self, blocks: &[u32], num_tokens: usize) -> KvRows {
        let (k, v, scales) = self.row_bytes(num_tokens);
        let mut rows = KvRows {
            k: Vec::with_capacity(k),
            v: Vec::with_capacity(v),
            k_scales: Vec::with_capacity(scales),
            v_scales: Vec::with_capacity(scales),
        };
        self.walk(num_tokens, |part, index, at, bytes| {
            let from = &self.block(blocks[index] as usize)[at..at + bytes];
            rows.part_mut(part).extend_from_slice(from);
        });
        rows
    }

    pub(super) fn import(&mut self, blocks: &[u32], num_tokens: usize, rows: &KvRows) {
        let mut places = Vec::new();
        self.walk(num_tokens, |part, index, at, bytes| {
            places.push((part, index, at, bytes));
        });
        let mut read = [0; 4];
        for (part, index, at, bytes) in places {
            let start = &mut read[part as usize];
            let from = &rows.part(part)[*start..*start + bytes];
            *start += bytes;
            self.block_mut(blocks[index] as usize)[at..at + bytes].copy_from_slice(from);
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    K,
    V,
    KScale,
    VScale,
}

impl KvRows {
    fn part(&self, part: Part) -> &Vec<u8> {
        match part {
            Part::K => &self.k,
            Part::V => &self.v,
            Part::KScale => &self.k_scales,
            Part::VScale => &self.v_scales,
        }
    }

    fn part_mut(&mut self, part: Part) -> &mut Vec<u8> {
        match part {
            Part::K => &mut self.k,
            Part::V => &mut self.v,
            Part::KScale => &mut self.k_scales,
            Part::VScale => &mut self.v_scales,
        }
    }
}

impl CpuExecutor {
    /// K and V of the first `num_tokens` tokens of a sequence that has these blocks in a KV group.
    ///
    /// # Errors
    /// There is no such group or block.
    pub fn export_kv(
        &self,
        group: usize,
        blocks: &[u32],
        num_tokens: usize,
    ) -> Result<KvRows, CpuError> {
        self.check_blocks(group, blocks, num_tokens)?;
        Ok(self.caches[group].export(blocks, num_tokens))
    }

    /// Write what [`CpuExecutor::export_kv`] gave into other blocks, of this or another executor of the same program
    /// and type of K and V.
    ///
    /// # Errors
    /// There is no such group or block, or `rows` has other sizes.
    pub fn import_kv(
        &mut self,
        group: usize,
        blocks: &[u32],
        num_tokens: usize,
        rows: &KvRows,
    ) -> Result<(), CpuError> {
        self.check_blocks(group, blocks, num_tokens)?;
        let (k, v, scales) = self.caches[group].row_bytes(num_tokens);
        let sizes = [
            rows.k.len(),
            rows.v.len(),
            rows.k_scales.len(),
            rows.v_scales.len(),
        ];
        if sizes != [k, v, scales, scales] {
            return Err(CpuError::Option {
                field: "rows",
                value: format!("{sizes:?} bytes"),
                expected: "K, V and scales of another size",
            });
        }
        self.caches[group].import(blocks, num_tokens, rows);
        Ok(())
    }

    fn check_blocks(
        &self,
        group: usize,
        blocks: &[u32],
        num_tokens: usize,
    ) -> Result<(), CpuError> {
        let num_blocks = self.caches.get(group).map_or(0, |cache| cache.num_blocks);
        let known = blocks.iter().all(|&block| (block as usize) < num_blocks);
        if known && group < self.caches.len() && num_tokens <= blocks.len() * BLOCK_SIZE {
            return Ok(());
        }
        Err(CpuError::Option {
            field: "blocks",
            value: format!("group {group}, {blocks:?}"),
            expected: "blocks of a KV group of the program, enough for the tokens",
        })
    }
}
