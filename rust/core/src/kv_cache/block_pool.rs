//! Owner of one KV group's blocks: reference counts, and the free blocks as a list threaded through two arrays.
//!
//! Every operation is O(1): a few nanoseconds and no allocation. Called per block at admission, at a decode row's
//! block crossing (one step in 16) and when a sequence ends.

use super::BlockId;

/// Where a block that nobody references any more joins the list of free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeEnd {
    /// Reused first: its content is worth nothing.
    Oldest,
    /// Reused last: its content is cached.
    Newest,
}

/// Blocks `0..num_blocks`. A block is either referenced or in the list of free blocks, whose oldest is taken first.
///
/// The list is a ring through `previous` and `next` with one more node, `num_blocks`, as its two ends: no special
/// case for an empty list and no sentinel id.
#[derive(Debug)]
pub struct BlockPool {
    previous: Vec<BlockId>,
    next: Vec<BlockId>,
    /// The ring's node that is no block: before the oldest and after the newest.
    ends: BlockId,
    references: Vec<u32>,
    num_free: usize,
}

impl BlockPool {
    /// All blocks free, lower ids taken first.
    #[must_use]
    pub fn new(num_blocks: u32) -> Self {
        let ends = num_blocks;
        Self {
            previous: (0..=num_blocks)
                .map(|block| block.checked_sub(1).unwrap_or(ends))
                .collect(),
            next: (0..=num_blocks)
                .map(|block| (block + 1) % (num_blocks + 1))
                .collect(),
            ends,
            references: vec![0; num_blocks as usize],
            num_free: num_blocks as usize,
        }
    }

    /// All blocks, free or not.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.references.len()
    }

    /// Blocks that nobody references; some hold cached content.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// How often `block` is referenced.
    #[must_use]
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block as usize]
    }

    /// Take the oldest free block, with one reference. Its content, if cached, is lost: the caller forgets it.
    #[must_use]
    pub fn take(&mut self) -> Option<BlockId> {
        if self.num_free == 0 {
            return None;
        }
        let block = self.next[self.ends as usize];
        self.unlink(block);
        self.references[block as usize] = 1;
        Some(block)
    }

    /// Add a reference to `block`, free (a cache hit) or not (a fork, or a hit on a block in use).
    pub fn touch(&mut self, block: BlockId) {
        if self.references[block as usize] == 0 {
            self.unlink(block);
        }
        self.references[block as usize] += 1;
    }

    /// Drop a reference; the last one frees the block at `end`.
    ///
    /// # Panics
    /// The block is free already.
    pub fn release(&mut self, block: BlockId, end: FreeEnd) {
        let references = &mut self.references[block as usize];
        assert!(*references > 0, "block {block} is free already");
        *references -= 1;
        if *references == 0 {
            self.link(block, end);
        }
    }

    /// Free blocks, the next to be taken first.
    pub fn free_blocks(&self) -> impl Iterator<Item = BlockId> {
        let mut at = self.ends;
        std::iter::from_fn(move || {
            at = self.next[at as usize];
            (at != self.ends).then_some(at)
        })
    }

    /// Verify that the list is a proper ring of exactly the unreferenced blocks.
    pub fn check_integrity(&self) -> Result<(), String> {
        let mut seen = vec![false; self.num_blocks()];
        let mut at = self.ends as usize;
        for _ in 0..=self.num_blocks() {
            let after = self.next[at] as usize;
            if self.previous[after] as usize != at {
                return Err(format!("free list: {at} and {after} disagree"));
            }
            at = after;
            if at == self.ends as usize {
                break;
            }
            if std::mem::replace(&mut seen[at], true) {
                return Err(format!("free list: block {at} occurs twice"));
            }
        }
        let num_free = seen.iter().filter(|&&free| free).count();
        if num_free != self.num_free {
            return Err(format!(
                "free list holds {num_free} blocks, counted {}",
                self.num_free
            ));
        }
        match seen
            .iter()
            .zip(&self.references)
            .position(|(&free, &references)| free != (references == 0))
        {
            Some(block) => Err(format!(
                "block {block}: {} references, in the free list: {}",
                self.references[block], seen[block]
            )),
            None => Ok(()),
        }
    }

    fn unlink(&mut self, block: BlockId) {
        let (before, after) = (self.previous[block as usize], self.next[block as usize]);
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
        self.num_free -= 1;
    }

    fn link(&mut self, block: BlockId, end: FreeEnd) {
        let ends = self.ends as usize;
        let (before, after) = match end {
            FreeEnd::Newest => (self.previous[ends], self.ends),
            FreeEnd::Oldest => (self.ends, self.next[ends]),
        };
        self.previous[block as usize] = before;
        self.next[block as usize] = after;
        self.next[before as usize] = block;
        self.previous[after as usize] = block;
        self.num_free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(pool: &BlockPool) -> Vec<BlockId> {
        pool.check_integrity().unwrap();
        pool.free_blocks().collect()
    }

    #[test]
    fn blocks_are_taken_from_the_oldest_end() {
        let mut pool = BlockPool::new(3);
        assert_eq!(free(&pool), [0, 1, 2]);
        assert_eq!(pool.take(), Some(0));
        assert_eq!(pool.take(), Some(1));
        pool.release(0, FreeEnd::Newest);
        assert_eq!(free(&pool), [2, 0]);
        pool.release(1, FreeEnd::Oldest);
        assert_eq!(free(&pool), [1, 2, 0]);
    }

    #[test]
    fn an_exhausted_pool_gives_none_and_recovers() {
        let mut pool = BlockPool::new(1);
        assert_eq!(pool.take(), Some(0));
        assert_eq!(pool.take(), None);
        pool.release(0, FreeEnd::Newest);
        assert_eq!(pool.take(), Some(0));
    }

    #[test]
    fn a_shared_block_is_freed_by_its_last_reference() {
        let mut pool = BlockPool::new(2);
        let block = pool.take().unwrap();
        pool.touch(block);
        pool.release(block, FreeEnd::Newest);
        assert_eq!((pool.num_free(), pool.references(block)), (1, 1));
        pool.release(block, FreeEnd::Newest);
        assert_eq!(free(&pool), [1, 0]);
    }

    #[test]
    fn touching_a_free_block_takes_it_out_of_the_middle() {
        let mut pool = BlockPool::new(3);
        pool.touch(1);
        assert_eq!(free(&pool), [0, 2]);
        pool.release(1, FreeEnd::Newest);
        assert_eq!(free(&pool), [0, 2, 1]);
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn releasing_twice_is_caught() {
        let mut pool = BlockPool::new(1);
        pool.release(0, FreeEnd::Newest);
    }

    #[test]
    fn every_damage_to_the_free_list_is_found() {
        let found = |damage: fn(&mut BlockPool)| {
            let mut pool = BlockPool::new(3);
            pool.check_integrity().unwrap();
            damage(&mut pool);
            pool.check_integrity().unwrap_err()
        };
        assert_eq!(
            found(|pool| pool.previous[1] = 2),
            "free list: 0 and 1 disagree"
        );
        assert_eq!(
            found(|pool| pool.next[0] = 0),
            "free list: 0 and 0 disagree"
        );
        assert_eq!(
            found(|pool| pool.num_free = 2),
            "free list holds 3 blocks, counted 2"
        );
        assert_eq!(
            found(|pool| pool.references[1] = 1),
            "block 1: 1 references, in the free list: true"
        );
        assert_eq!(
            found(|pool| pool.unlink(2)),
            "block 2: 0 references, in the free list: false"
        );
    }
}
