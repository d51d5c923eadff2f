//! What a sequence that is to be admitted finds in the cache, whether the rest fits, and its first blocks.

use super::{Chain, KvCache, TokenView};
use inferlib_program::BLOCK_SIZE;

/// Result of [`KvCache::match_prefix`]; the blocks themselves stay in the cache's scratch arrays.
#[derive(Clone, Copy, Debug)]
pub struct PrefixMatch {
    /// Full blocks found in every group.
    pub num_blocks: usize,
    chain: Option<Chain>,
}

impl KvCache {
    /// Find the longest cached prefix of at most `max_blocks` blocks, in every group; nothing is taken yet.
    pub fn match_prefix(
        &mut self,
        slot: usize,
        tokens: TokenView<'_>,
        max_blocks: usize,
    ) -> PrefixMatch {
        self.matched.iter_mut().for_each(Vec::clear);
        let (Some(key), Some(sequence)) = (self.hash, self.chains[slot]) else {
            return PrefixMatch {
                num_blocks: 0,
                chain: None,
            };
        };
        let (hash, content) = sequence.root;
        let mut chain = Chain {
            root: sequence.root,
            hash,
            content,
            num_blocks: 0,
        };
        'blocks: while chain.num_blocks < max_blocks {
            let block_tokens = tokens.block(chain.num_blocks);
            let hash = key.mix(chain.hash, &block_tokens);
            let mut content = chain.content;
            for (group, matched) in self.groups.iter().zip(&mut self.matched) {
                let Some(block) = group.cache.lookup(hash, chain.content, &block_tokens) else {
                    break 'blocks;
                };
                matched.push(block);
                content = group.cache.content(block).unwrap_or(content);
            }
            chain = Chain {
                hash,
                content,
                num_blocks: chain.num_blocks + 1,
                ..chain
            };
        }
        self.matched
            .iter_mut()
            .for_each(|blocks| blocks.truncate(chain.num_blocks));
        PrefixMatch {
            num_blocks: chain.num_blocks,
            chain: Some(chain),
        }
    }

    /// The step being planned computes a sequence up to `num_computed` tokens: remember the blocks that become full.
    pub fn announce(&mut self, slot: usize, tokens: TokenView<'_>, num_computed: usize) {
        let (Some(key), Some(chain)) = (self.hash, self.chains[slot]) else {
            return;
        };
        let mut hash = chain.hash;
        for block in chain.num_blocks..num_computed / BLOCK_SIZE {
            hash = key.mix(hash, &tokens.block(block));
            self.announced.insert(hash);
        }
    }

    /// Whether the block after those just matched was announced: after this step it is a hit. A collision of hashes
    /// makes somebody wait for nothing, no more.
    #[must_use]
    pub fn is_announced(&self, found: &PrefixMatch, tokens: TokenView<'_>) -> bool {
        let (Some(key), Some(chain)) = (self.hash, found.chain) else {
            return false;
        };
        !self.announced.is_empty()
            && self
                .announced
                .contains(&key.mix(chain.hash, &tokens.block(chain.num_blocks)))
    }

    /// Another step is planned.
    pub fn clear_announced(&mut self) {
        self.announced.clear();
    }

    /// Whether a sequence of `num_tokens` fits with the blocks just matched, leaving `spare` blocks free.
    #[must_use]
    pub fn fits(&self, found: &PrefixMatch, num_tokens: usize, spare: usize) -> bool {
        let needed = num_tokens.div_ceil(BLOCK_SIZE) - found.num_blocks;
        self.groups
            .iter()
            .zip(&self.matched)
            .all(|(group, matched)| {
                let idle = matched
                    .iter()
                    .filter(|&&block| group.pool.references(block) == 0);
                needed + idle.count() + spare <= group.pool.num_free()
            })
    }

    /// Whether every group has `num_blocks` free ones.
    #[must_use]
    pub fn can_grow(&self, num_blocks: usize) -> bool {
        self.groups
            .iter()
            .all(|group| group.pool.num_free() >= num_blocks)
    }

    /// Give an open, empty sequence the blocks just matched and new ones up to `num_tokens`.
    ///
    /// # Panics
    /// [`KvCache::fits`] did not hold.
    pub fn admit(&mut self, slot: usize, found: &PrefixMatch, num_tokens: usize) {
        self.chains[slot] = found.chain;
        let first = slot * self.groups.len();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let table = &mut self.tables[first + index];
            table.extend_from_slice(&self.matched[index]);
            for &block in &*table {
                group.pool.touch(block);
            }
            for _ in found.num_blocks..num_tokens.div_ceil(BLOCK_SIZE) {
                table.push(group.take().expect("fits() counted the free blocks"));
            }
        }
    }
}
