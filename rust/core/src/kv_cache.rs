//! The paged KV cache: per KV group a pool of blocks and the published ones by content; per sequence a block table in
//! each group. It decides which blocks a sequence has, never what runs.
//!
//! Sequences are named by a slot that their owner chooses. A block in a sequence's table is *full* once all its 16
//! tokens are computed; only full blocks are published or shared, and a shared block is never written.

mod admission;
pub mod block_pool;
mod held;
mod integrity;
pub mod prefix_cache;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU64;

pub use admission::PrefixMatch;
pub use block_pool::{BlockPool, FreeEnd};
pub use held::HeldBlocks;
pub use prefix_cache::{BlockTokens, ContentId, PrefixCache, PrefixHash};
pub use tokens::TokenView;

use inferlib_program::BLOCK_SIZE;

/// A block of one KV group's pool.
pub type BlockId = u32;

/// Most blocks of a group: slots (`block * 16 + offset`) are int32.
pub const MAX_BLOCKS: u32 = 1 << 27;

/// Memory of one KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Blocks in the pool, `1..=MAX_BLOCKS`.
    pub num_blocks: u32,
    /// Tokens that a query may see, itself included; `None` means all. All blocks are kept either way.
    pub window: Option<usize>,
}

/// Occupancy of one KV group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// All blocks.
    pub num_blocks: usize,
    /// Blocks of running sequences.
    pub num_used: usize,
    /// Blocks that nobody uses, cached or not.
    pub num_free: usize,
    /// Published blocks, used or free.
    pub num_cached: usize,
}

#[derive(Debug)]
struct Group {
    pool: BlockPool,
    cache: PrefixCache,
}

impl Group {
    fn take(&mut self) -> Option<BlockId> {
        let block = self.pool.take()?;
        self.cache.forget(block);
        Some(block)
    }

    fn release(&mut self, block: BlockId) {
        let end = if self.cache.content(block).is_some() {
            FreeEnd::Newest
        } else {
            FreeEnd::Oldest
        };
        self.pool.release(block, end);
    }
}

/// Where the next full block of a sequence is published: after which hash and which content.
#[derive(Clone, Copy, Debug)]
struct Chain {
    root: (u128, ContentId),
    hash: u128,
    content: ContentId,
    /// Blocks behind `hash` and `content`.
    num_blocks: usize,
}

/// The keys are hashes, keyed per process.
type AlreadyHashed = BuildHasherDefault<LowBits>;

/// Takes a `u128` for its hash.
#[derive(Debug, Default)]
struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of the hash suffices")]
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// Pools, published blocks and block tables of all KV groups.
#[derive(Debug)]
pub struct KvCache {
    groups: Vec<Group>,
    /// `None`: prefix caching is off.
    hash: Option<PrefixHash>,
    /// Content id of the empty prefix, by salt. Dropping one costs misses, never a wrong hit.
    roots: HashMap<Option<String>, ContentId>,
    next_content: NonZeroU64,
    /// `[slot * num_groups + group]`.
    tables: Vec<Vec<BlockId>>,
    /// `[slot * num_groups + group]`: the shared, partial block whose content the next block of the table starts with.
    /// Referenced until the copy is known to be done.
    copy_sources: Vec<Option<BlockId>>,
    /// How many there are: in almost every step none, and nobody looks for them.
    num_copy_sources: usize,
    /// `[slot]`: present while the slot is open, prefix caching is on, and its blocks may be published.
    chains: Vec<Option<Chain>>,
    /// Scratch of `match_prefix`, one list per group.
    matched: Vec<Vec<BlockId>>,
    /// Hashes of the blocks that the step being planned will fill.
    announced: HashSet<u128, AlreadyHashed>,
}

impl KvCache {
    /// Empty pools.
    #[must_use]
    pub fn new(groups: &[GroupConfig], hash: Option<PrefixHash>) -> Self {
        Self {
            groups: groups
                .iter()
                .map(|group| Group {
                    pool: BlockPool::new(group.num_blocks),
                    cache: PrefixCache::new(if hash.is_some() { group.num_blocks } else { 0 }),
                })
                .collect(),
            hash,
            roots: HashMap::new(),
            next_content: NonZeroU64::MIN,
            tables: Vec::new(),
            copy_sources: Vec::new(),
            num_copy_sources: 0,
            chains: Vec::new(),
            matched: vec![Vec::new(); groups.len()],
            announced: HashSet::default(),
        }
    }

    /// KV groups.
    #[must_use]
    pub fn num_groups(&self) -> usize {
        self.groups.len()
    }

    /// Tokens that one sequence can have in the cache when it is alone.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let blocks = self
            .groups
            .iter()
            .map(|group| group.pool.num_blocks())
            .min();
        blocks.unwrap_or(0) * BLOCK_SIZE
    }

    /// Occupancy of each group.
    pub fn stats(&self) -> impl Iterator<Item = GroupStats> {
        self.groups.iter().map(|group| GroupStats {
            num_blocks: group.pool.num_blocks(),
            num_used: group.pool.num_blocks() - group.pool.num_free(),
            num_free: group.pool.num_free(),
            num_cached: group.cache.num_published(),
        })
    }

    /// The blocks of a sequence in one group, in order of position.
    #[must_use]
    pub fn table(&self, slot: usize, group: usize) -> &[BlockId] {
        &self.tables[slot * self.groups.len() + group]
    }

    /// The block to copy into `table(slot, group)[num_computed / 16]` before the sequence's next step.
    #[must_use]
    pub fn copy_source(&self, slot: usize, group: usize) -> Option<BlockId> {
        if self.num_copy_sources == 0 {
            return None;
        }
        self.copy_sources[slot * self.groups.len() + group]
    }

    /// Whether some block of the sequence is still to be copied into its table.
    #[must_use]
    pub fn has_pending_copies(&self, slot: usize) -> bool {
        (0..self.groups.len()).any(|group| self.copy_source(slot, group).is_some())
    }

    /// Begin a sequence without blocks that will not hold more than `max_tokens` tokens. Prefixes are shared only
    /// under an equal `salt`.
    pub fn open(&mut self, slot: usize, salt: Option<&str>, max_tokens: usize) {
        let places = (slot + 1) * self.groups.len();
        if self.tables.len() < places {
            self.tables.resize_with(places, Vec::new);
            self.copy_sources.resize(places, None);
            self.chains.resize(slot + 1, None);
        }
        for table in &mut self.tables[places - self.groups.len()..places] {
            table.reserve(max_tokens.div_ceil(BLOCK_SIZE)); // steps then allocate nothing
        }
        self.chains[slot] = self.hash.map(|hash| {
            let root = (hash.root(salt), self.root_content(salt));
            Chain {
                root,
                hash: root.0,
                content: root.1,
                num_blocks: 0,
            }
        });
    }

    /// Let an open, empty sequence share the blocks of `source` behind its first `num_tokens` tokens. Full blocks are
    /// referenced; a partial one becomes a copy source, and its copy is the next block that [`KvCache::grow`] gives.
    /// Takes no free block, so it cannot fail.
    pub fn fork(&mut self, source: usize, target: usize, num_tokens: usize) {
        let (shared, rest) = (num_tokens / BLOCK_SIZE, num_tokens % BLOCK_SIZE);
        let count = self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let from = std::mem::take(&mut self.tables[source * count + index]);
            let table = &mut self.tables[target * count + index];
            table.extend_from_slice(&from[..shared]);
            for &block in &*table {
                group.pool.touch(block);
            }
            if rest > 0 {
                group.pool.touch(from[shared]);
                self.copy_sources[target * count + index] = Some(from[shared]);
                self.num_copy_sources += 1;
            }
            self.tables[source * count + index] = from;
        }
        match self.chains[source] {
            Some(from) if from.num_blocks == shared => self.chains[target] = Some(from),
            Some(_) => {} // it starts at the root, and publishing finds the shared blocks again
            None => self.chains[target] = None, // what a private sequence computes is never published
        }
    }

    /// Make room for `num_tokens` tokens of a sequence in every group, or change nothing and return `false`.
    ///
    /// # Panics
    /// Never: the blocks are counted before they are taken.
    #[inline]
    pub fn grow(&mut self, slot: usize, num_tokens: usize) -> bool {
        let num_blocks = self.table(slot, 0).len(); // the tables of all groups are equally long
        num_tokens <= num_blocks * BLOCK_SIZE || self.grow_to(slot, num_tokens.div_ceil(BLOCK_SIZE))
    }

    /// [`KvCache::grow`], where blocks are missing.
    fn grow_to(&mut self, slot: usize, blocks: usize) -> bool {
        let first = slot * self.groups.len();
        if !self.can_grow(blocks - self.tables[first].len()) {
            return false;
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            let table = &mut self.tables[first + index];
            while table.len() < blocks {
                table.push(group.take().expect("the free blocks were counted above"));
            }
        }
        true
    }

    /// Give back the blocks behind those of a sequence's first `num_tokens` tokens: nothing of worth is in them.
    pub fn shrink(&mut self, slot: usize, num_tokens: usize) {
        let first = slot * self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let table = &mut self.tables[first + index];
            let kept = num_tokens.div_ceil(BLOCK_SIZE).min(table.len());
            for block in table.drain(kept..).rev() {
                group.release(block);
            }
        }
    }

    /// The copies of a sequence were made: its sources may be reused.
    pub fn copies_done(&mut self, slot: usize) {
        if self.num_copy_sources == 0 {
            return;
        }
        let first = slot * self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            if let Some(source) = self.copy_sources[first + index].take() {
                self.num_copy_sources -= 1;
                group.release(source);
            }
        }
    }

    /// Whether [`KvCache::publish`] has anything to do: in 15 decode steps of 16 it has not.
    #[inline]
    #[must_use]
    pub fn has_to_publish(&self, slot: usize, num_computed: usize) -> bool {
        let chain = self.chains[slot].as_ref();
        chain.is_some_and(|chain| chain.num_blocks < num_computed / BLOCK_SIZE)
    }

    /// Publish the blocks that became full when `num_computed` tokens were computed.
    pub fn publish(&mut self, slot: usize, tokens: TokenView<'_>, num_computed: usize) {
        let num_full = num_computed / BLOCK_SIZE;
        let (Some(key), Some(mut chain)) = (self.hash, self.chains[slot]) else {
            return;
        };
        let first = slot * self.groups.len();
        while chain.num_blocks < num_full {
            let block_tokens = tokens.block(chain.num_blocks);
            let hash = key.mix(chain.hash, &block_tokens);
            let parent = chain.content;
            let known = self.groups.iter().find_map(|group| {
                let block = group.cache.lookup(hash, parent, &block_tokens)?;
                group.cache.content(block)
            });
            let content = known.unwrap_or_else(|| self.new_content());
            for (index, group) in self.groups.iter_mut().enumerate() {
                // Of two blocks with equal content the first stays published.
                if known.is_none() || group.cache.lookup(hash, parent, &block_tokens).is_none() {
                    let block = self.tables[first + index][chain.num_blocks];
                    group
                        .cache
                        .publish(block, hash, parent, &block_tokens, content);
                }
            }
            chain = Chain {
                hash,
                content,
                num_blocks: chain.num_blocks + 1,
                ..chain
            };
        }
        self.chains[slot] = Some(chain);
    }

    /// Take back whatever is published of a sequence's blocks: its results are not to be trusted.
    pub fn unpublish(&mut self, slot: usize) {
        let first = slot * self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            for &block in &self.tables[first + index] {
                group.cache.forget(block);
            }
        }
    }

    /// Drop all blocks of a sequence, last first, so that tails are evicted before heads. The slot stays open.
    pub fn release(&mut self, slot: usize) {
        self.copies_done(slot);
        let first = slot * self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            while let Some(block) = self.tables[first + index].pop() {
                group.release(block);
            }
        }
        if let Some(chain) = &mut self.chains[slot] {
            (chain.hash, chain.content) = chain.root;
            chain.num_blocks = 0;
        }
    }

    /// [`KvCache::release`], and the slot may be opened for another sequence.
    pub fn close(&mut self, slot: usize) {
        self.release(slot);
        self.chains[slot] = None;
    }

    fn root_content(&mut self, salt: Option<&str>) -> ContentId {
        let salt = salt.map(str::to_owned);
        if let Some(&content) = self.roots.get(&salt) {
            return content;
        }
        // As many salts as blocks: those without a cached block go. Amortised O(1), and bounded.
        if self.roots.len() > self.groups[0].pool.num_blocks() {
            let mut used: Vec<_> = self.groups[0].cache.parents().collect();
            used.sort_unstable_by_key(|content| content.0);
            self.roots
                .retain(|_, content| used.binary_search_by_key(&content.0, |c| c.0).is_ok());
        }
        let content = self.new_content();
        self.roots.insert(salt, content);
        content
    }

    fn new_content(&mut self) -> ContentId {
        let content = ContentId(self.next_content);
        self.next_content = self.next_content.saturating_add(1);
        content
    }
}

#[cfg(test)]
mod tests;
