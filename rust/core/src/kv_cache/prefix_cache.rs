//! Full blocks by content: which block of a KV group holds the K and V of these 16 tokens after that prefix.
//!
//! A keyed, chained 128-bit hash finds a candidate; the 16 tokens *and the content id of the parent* are compared, so
//! by induction a hit is an equal prefix: a hash collision costs one more comparison, never a wrong answer. Content
//! ids are handed out once and never reused, unlike block ids, which match by accident after an eviction.
//!
//! The table is an array of chain heads and one link per block: 108 bytes per block with the pool's arrays and the
//! tokens, nothing allocated after construction. A lookup is three cache lines: head, entry and tokens.

use std::num::{NonZeroU32, NonZeroU64};

use super::BlockId;
use inferlib_program::BLOCK_SIZE;

/// Identity of a prefix that ends at a block boundary (or of an empty prefix under some salt). Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentId(pub(super) NonZeroU64);

/// The tokens of one block.
pub type BlockTokens = [i32; BLOCK_SIZE];

/// Keys the hash of prefixes, so that nobody outside the process can aim at one chain (hash flooding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixHash {
    /// Random per process; results do not depend on it.
    pub key: [u64; 2],
    /// Bits of the hash that are used: 128, or few in a test that wants collisions.
    pub bits: u32,
}

impl Default for PrefixHash {
    fn default() -> Self {
        Self {
            key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            bits: 128,
        }
    }
}

/// Both halves of a 64 × 64 bit product, folded.
#[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

impl PrefixHash {
    /// The hash that an empty prefix under `salt` starts from.
    #[must_use]
    pub fn root(&self, salt: Option<&str>) -> u128 {
        let Some(salt) = salt else {
            return self.mix(0, &[0; BLOCK_SIZE]);
        };
        let mut hash = self.mix(salt.len() as u128 + 1, &[1; BLOCK_SIZE]);
        for piece in salt.as_bytes().chunks(BLOCK_SIZE) {
            let mut tokens = [0; BLOCK_SIZE];
            for (token, &byte) in tokens.iter_mut().zip(piece) {
                *token = i32::from(byte);
            }
            hash = self.mix(hash, &tokens);
        }
        hash
    }

    /// The hash of a prefix: that of its parent and of its last block.
    ///
    /// Not cryptographic, which is fine because hits are verified. Source: Wang Yi's wyhash (folded multiplication).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bits are mixed, not values"
    )]
    pub fn mix(&self, parent: u128, tokens: &BlockTokens) -> u128 {
        let mut a = parent as u64 ^ self.key[0] ^ 0xa076_1d64_78bd_642f;
        let mut b = (parent >> 64) as u64 ^ self.key[1] ^ 0xe703_7ed1_a0b4_28db;
        for four in tokens.chunks_exact(4) {
            let x = u64::from(four[0] as u32) | u64::from(four[1] as u32) << 32;
            let y = u64::from(four[2] as u32) | u64::from(four[3] as u32) << 32;
            a = fold(a ^ x, y ^ self.key[1] ^ 0x8ebc_6af0_9c88_c6e3);
            b = fold(b ^ y, x ^ self.key[0] ^ 0x5899_65cc_7537_4cc3);
        }
        (u128::from(a) << 64 | u128::from(b)) & (u128::MAX >> (128 - self.bits.clamp(1, 128)))
    }
}

/// A block in a chain: its id plus one, so that "none" costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link(Option<NonZeroU32>);

impl Link {
    fn to(block: BlockId) -> Self {
        Self(NonZeroU32::new(block + 1))
    }

    fn block(self) -> Option<BlockId> {
        self.0.map(|id| id.get() - 1)
    }
}

/// What a block is published as; read together, so kept together.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// 64 of the 128 bits: chooses the chain and rejects most of it without touching the tokens.
    hash: u64,
    parent: Option<ContentId>,
    /// `None`: not published.
    content: Option<ContentId>,
}

/// The published blocks of one KV group.
#[derive(Debug)]
pub struct PrefixCache {
    heads: Vec<Link>,
    links: Vec<Link>,
    entries: Vec<Entry>,
    tokens: Vec<BlockTokens>,
    num_published: usize,
}

impl PrefixCache {
    /// Nothing published; room for `num_blocks` blocks (0 where caching is off).
    #[must_use]
    pub fn new(num_blocks: u32) -> Self {
        let count = num_blocks as usize;
        Self {
            heads: vec![Link::default(); count],
            links: vec![Link::default(); count],
            entries: vec![Entry::default(); count],
            tokens: vec![[0; BLOCK_SIZE]; count],
            num_published: 0,
        }
    }

    /// Blocks that can be hit.
    #[must_use]
    pub fn num_published(&self) -> usize {
        self.num_published
    }

    /// The content of a block, if it can be hit.
    #[must_use]
    pub fn content(&self, block: BlockId) -> Option<ContentId> {
        self.entries.get(block as usize)?.content
    }

    /// The parents of all published blocks.
    pub(super) fn parents(&self) -> impl Iterator<Item = ContentId> {
        self.entries
            .iter()
            .filter_map(|entry| entry.content.and(entry.parent))
    }

    /// The block that holds `tokens` after `parent`, verified.
    #[must_use]
    pub fn lookup(&self, hash: u128, parent: ContentId, tokens: &BlockTokens) -> Option<BlockId> {
        let hash = short(hash);
        let mut at = self.heads.get(self.chain(hash))?.block();
        while let Some(block) = at {
            let index = block as usize;
            let entry = &self.entries[index];
            if entry.hash == hash && entry.parent == Some(parent) && self.tokens[index] == *tokens {
                return Some(block);
            }
            at = self.links[index].block();
        }
        None
    }

    /// Make `block` findable as `content`, that is `tokens` after `parent`. No other block may hold this content
    /// (`lookup` found none). A block that was published under another content is moved.
    pub fn publish(
        &mut self,
        block: BlockId,
        hash: u128,
        parent: ContentId,
        tokens: &BlockTokens,
        content: ContentId,
    ) {
        self.forget(block);
        let (index, hash) = (block as usize, short(hash));
        let chain = self.chain(hash);
        self.links[index] = self.heads[chain];
        self.heads[chain] = Link::to(block);
        self.tokens[index] = *tokens;
        self.entries[index] = Entry {
            hash,
            parent: Some(parent),
            content: Some(content),
        };
        self.num_published += 1;
    }

    /// Take `block` out: it is about to be overwritten, or its content is not to be trusted.
    pub fn forget(&mut self, block: BlockId) {
        let index = block as usize;
        if self.content(block).is_none() {
            return;
        }
        self.entries[index].content = None;
        self.num_published -= 1;
        let chain = self.chain(self.entries[index].hash);
        let after = self.links[index];
        if self.heads[chain] == Link::to(block) {
            self.heads[chain] = after;
            return;
        }
        let mut at = self.heads[chain].block();
        while let Some(before) = at {
            if self.links[before as usize] == Link::to(block) {
                self.links[before as usize] = after;
                return;
            }
            at = self.links[before as usize].block();
        }
    }

    /// Verify that the chains hold exactly the published blocks, each in its own and none twice.
    pub fn check_integrity(&self) -> Result<(), String> {
        let mut seen = vec![false; self.entries.len()];
        for chain in 0..self.heads.len() {
            let mut at = self.heads[chain].block();
            while let Some(block) = at {
                let index = block as usize;
                if self.chain(self.entries[index].hash) != chain {
                    return Err(format!("prefix cache: block {block} is in a foreign chain"));
                }
                if std::mem::replace(&mut seen[index], true) {
                    return Err(format!("prefix cache: block {block} is linked twice"));
                }
                at = self.links[index].block();
            }
        }
        let contents = self.entries.iter().filter_map(|entry| entry.content);
        let mut contents: Vec<_> = contents.map(|content| content.0).collect();
        let all = contents.len();
        if all != self.num_published {
            return Err("prefix cache: the count of published blocks is wrong".to_owned());
        }
        contents.sort_unstable();
        contents.dedup();
        if contents.len() < all {
            return Err("prefix cache: a content is published twice".to_owned());
        }
        match (0..seen.len()).find(|&index| seen[index] != self.entries[index].content.is_some()) {
            Some(block) => Err(format!(
                "prefix cache: block {block} is {}linked",
                if seen[block] { "" } else { "not " }
            )),
            None => Ok(()),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "below heads.len()")]
    fn chain(&self, hash: u64) -> usize {
        // The high bits choose, as in Lemire's range reduction; spread first, in case few bits are used.
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(spread) * self.heads.len() as u128) >> 64) as usize
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of the hash suffices")]
fn short(hash: u128) -> u64 {
    hash as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(id: u64) -> ContentId {
        ContentId(NonZeroU64::new(id).unwrap())
    }

    /// Another number each time.
    fn numbers() -> impl FnMut() -> u64 {
        let mut state = 0_u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^ mixed >> 31
        }
    }

    /// A bit of the key or of a token changes each bit of the hash half of the time, a bit of the parent each bit of its
    /// own half.
    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "any numbers will do")]
    fn every_bit_changes_half_of_the_hash() {
        const SAMPLES: u32 = 200;
        let mut number = numbers();
        let mut changed = [0; 128];
        for bit in 0..256 + 32 * BLOCK_SIZE {
            let mut flips = 0;
            for _ in 0..SAMPLES {
                let hash = PrefixHash {
                    key: [number(), number()],
                    bits: 128,
                };
                let parent = u128::from(number()) << 64 | u128::from(number());
                let tokens: BlockTokens = std::array::from_fn(|_| number() as i32);
                let (mut keyed, mut other, mut others) = (hash, parent, tokens);
                match bit {
                    0..128 => other ^= 1 << bit,
                    128..256 => keyed.key[(bit - 128) / 64] ^= 1 << (bit % 64),
                    _ => others[(bit - 256) / 32] ^= 1 << (bit % 32),
                }
                let difference = hash.mix(parent, &tokens) ^ keyed.mix(other, &others);
                flips += difference.count_ones();
                if bit >= 256 {
                    for (at, count) in changed.iter_mut().enumerate() {
                        *count += (difference >> at & 1) as u32;
                    }
                }
            }
            let expected = if bit < 128 { 32 } else { 64 };
            let most = 2 * SAMPLES; // five standard deviations
            assert!(
                flips.abs_diff(expected * SAMPLES) < most,
                "{bit}: {flips} of {SAMPLES}"
            );
        }
        let half = 32 * 16 * SAMPLES / 2;
        for (at, &count) in changed.iter().enumerate() {
            assert!(count.abs_diff(half) < half / 50, "{at}: {count} of {half}");
        }
    }

    #[test]
    fn a_hash_of_few_bits_is_a_small_number() {
        let mut number = numbers();
        let hash = PrefixHash {
            key: [number(), number()],
            bits: 3,
        };
        let mut found = [0; 8];
        for _ in 0..800 {
            let parent = u128::from(number()) << 64;
            let value = hash.mix(parent, &[1; BLOCK_SIZE]);
            found[usize::try_from(value).unwrap()] += 1;
        }
        assert!(found.iter().all(|&count| count > 60), "{found:?}");
    }

    #[test]
    fn a_hit_needs_equal_tokens_and_an_equal_parent() {
        let mut cache = PrefixCache::new(4);
        cache.publish(2, 7, content(1), &[5; 16], content(2));
        assert_eq!(cache.lookup(7, content(1), &[5; 16]), Some(2));
        assert_eq!(cache.lookup(7, content(9), &[5; 16]), None);
        assert_eq!(cache.lookup(7, content(1), &[6; 16]), None);
        assert_eq!(cache.lookup(8, content(1), &[5; 16]), None);
    }

    #[test]
    fn equal_hashes_of_different_content_live_side_by_side() {
        let mut cache = PrefixCache::new(8);
        for block in 0..8 {
            let tokens = [i32::try_from(block).unwrap(); 16];
            cache.publish(block, 3, content(1), &tokens, content(u64::from(block) + 2));
        }
        for block in [3, 0, 7] {
            cache.forget(block);
            cache.check_integrity().unwrap();
        }
        for block in 0..8 {
            let tokens = [i32::try_from(block).unwrap(); 16];
            let expected = (![3, 0, 7].contains(&block)).then_some(block);
            assert_eq!(cache.lookup(3, content(1), &tokens), expected);
        }
    }

    #[test]
    fn a_block_that_is_published_again_is_found_under_its_new_parent_only() {
        let mut cache = PrefixCache::new(2);
        cache.publish(0, 7, content(1), &[5; 16], content(2));
        cache.publish(0, 7, content(3), &[5; 16], content(4));
        cache.check_integrity().unwrap();
        assert_eq!(cache.lookup(7, content(1), &[5; 16]), None);
        assert_eq!(cache.lookup(7, content(3), &[5; 16]), Some(0));
        assert_eq!(cache.num_published(), 1);
    }

    #[test]
    fn hashes_depend_on_key_salt_parent_and_every_token() {
        let hash = PrefixHash::default();
        let other = PrefixHash {
            key: [1, 2],
            ..hash
        };
        let mut seen = vec![
            hash.root(None),
            other.root(None),
            hash.root(Some("")),
            hash.root(Some("a")),
            hash.root(Some("a\0")),
        ];
        for position in 0..BLOCK_SIZE {
            let mut tokens = [0; BLOCK_SIZE];
            tokens[position] = 1;
            seen.push(hash.mix(0, &tokens));
            seen.push(hash.mix(1, &tokens));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn every_damage_to_the_chains_is_found() {
        let found = |damage: fn(&mut PrefixCache)| {
            let mut cache = PrefixCache::new(4);
            cache.publish(2, 7, content(1), &[5; 16], content(2));
            cache.publish(3, 8, content(2), &[6; 16], content(3));
            cache.check_integrity().unwrap();
            damage(&mut cache);
            cache.check_integrity().unwrap_err()
        };
        let foreign = |cache: &mut PrefixCache| {
            let own = cache.chain(7);
            cache.entries[2].hash = (8..99).find(|&hash| cache.chain(hash) != own).unwrap();
        };
        assert_eq!(
            found(foreign),
            "prefix cache: block 2 is in a foreign chain"
        );
        assert_eq!(
            found(|cache| cache.links[2] = Link::to(2)),
            "prefix cache: block 2 is linked twice"
        );
        assert_eq!(
            found(|cache| cache.num_published = 1),
            "prefix cache: the count of published blocks is wrong"
        );
        assert_eq!(
            found(|cache| cache.entries[3].content = Some(content(2))),
            "prefix cache: a content is published twice"
        );
        assert_eq!(
            found(|cache| cache.heads.fill(Link::default())),
            "prefix cache: block 2 is not linked"
        );
        let unpublished = |cache: &mut PrefixCache| {
            cache.entries[3].content = None;
            cache.num_published = 1;
        };
        assert_eq!(found(unpublished), "prefix cache: block 3 is linked");
    }
}
