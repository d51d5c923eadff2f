//! Blocks that a sequence keeps between its requests. They are only read: whoever goes on from them references the full
//! ones and copies the partial one, so that a fork costs a reference per block and no K or V moves.

use super::{BlockId, Chain, KvCache};
use inferlib_program::BLOCK_SIZE;

/// References to the blocks of a sequence's first tokens, in every group. They go back through
/// [`KvCache::drop_held`] only.
#[derive(Debug, Default)]
pub struct HeldBlocks {
    /// `[group]`; empty without blocks.
    tables: Vec<Vec<BlockId>>,
    /// Where publishing goes on; `None` starts over. After a rewind it may end behind blocks that are gone.
    chain: Option<Chain>,
    /// Came from outside: they, and what is computed after them, are never published.
    is_private: bool,
}

impl HeldBlocks {
    /// Blocks in each group.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.tables.first().map_or(0, Vec::len)
    }

    /// Blocks of one group, in order of position.
    #[must_use]
    pub fn table(&self, group: usize) -> &[BlockId] {
        self.tables.get(group).map_or(&[], Vec::as_slice)
    }

    /// Whether they came from outside.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }
}

impl KvCache {
    /// Take a sequence's blocks of its first `num_computed` tokens out of its table; the others go back. Returns how
    /// many tokens are in them: fewer if the copy of a partial block is not known to be done.
    pub fn hold(&mut self, slot: usize, num_computed: usize) -> (HeldBlocks, usize) {
        let num_computed = if self.has_pending_copies(slot) {
            num_computed / BLOCK_SIZE * BLOCK_SIZE
        } else {
            num_computed
        };
        self.copies_done(slot);
        self.shrink(slot, num_computed);
        let first = slot * self.groups.len();
        let tables = &mut self.tables[first..first + self.groups.len()];
        let held = HeldBlocks {
            tables: tables.iter_mut().map(std::mem::take).collect(),
            chain: self.chains[slot],
            is_private: self.hash.is_some() && self.chains[slot].is_none(),
        };
        (held, num_computed)
    }

    /// The same blocks once more.
    pub fn fork_held(&mut self, held: &HeldBlocks) -> HeldBlocks {
        for (group, table) in self.groups.iter_mut().zip(&held.tables) {
            for &block in table {
                group.pool.touch(block);
            }
        }
        HeldBlocks {
            tables: held.tables.clone(),
            ..*held
        }
    }

    /// Keep the blocks of the first `num_tokens` tokens.
    pub fn shrink_held(&mut self, held: &mut HeldBlocks, num_tokens: usize) {
        let kept = num_tokens.div_ceil(BLOCK_SIZE);
        for (group, table) in self.groups.iter_mut().zip(&mut held.tables) {
            for block in table.drain(kept.min(table.len())..).rev() {
                group.release(block);
            }
        }
    }

    /// Drop the references, last first, so that tails are evicted before heads.
    pub fn drop_held(&mut self, mut held: HeldBlocks) {
        self.shrink_held(&mut held, 0);
    }

    /// Let an open, empty sequence go on behind the first `num_tokens` tokens of `held`: as [`KvCache::fork`].
    pub fn adopt(&mut self, slot: usize, held: &HeldBlocks, num_tokens: usize) {
        let (shared, rest) = (num_tokens / BLOCK_SIZE, num_tokens % BLOCK_SIZE);
        let first = slot * self.groups.len();
        for (index, (group, from)) in self.groups.iter_mut().zip(&held.tables).enumerate() {
            let table = &mut self.tables[first + index];
            table.extend_from_slice(&from[..shared]);
            for &block in &*table {
                group.pool.touch(block);
            }
            if rest > 0 {
                group.pool.touch(from[shared]);
                self.copy_sources[first + index] = Some(from[shared]);
                self.num_copy_sources += 1;
            }
        }
        if held.is_private {
            self.chains[slot] = None;
        } else if let (Some(from), Some(chain)) = (held.chain, &mut self.chains[slot])
            && from.num_blocks <= shared
        {
            *chain = from; // otherwise publishing finds the shared blocks again
        }
    }

    /// New blocks for `num_tokens` tokens that come from outside, or nothing if there is no room.
    ///
    /// # Panics
    /// Never: the blocks are counted before they are taken.
    pub fn take_private(&mut self, num_tokens: usize) -> Option<HeldBlocks> {
        let count = num_tokens.div_ceil(BLOCK_SIZE);
        if !self.can_grow(count) {
            return None;
        }
        let take = |group: &mut super::Group| {
            (0..count)
                .map(|_| group.take().expect("the free blocks were counted above"))
                .collect()
        };
        Some(HeldBlocks {
            tables: self.groups.iter_mut().map(take).collect(),
            chain: None,
            is_private: true,
        })
    }
}
