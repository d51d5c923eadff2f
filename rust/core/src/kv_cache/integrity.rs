//! The cache's invariants, as code that runs: tests call it after every step.

use super::{HeldBlocks, KvCache};
use inferlib_program::BLOCK_SIZE;

impl KvCache {
    /// Verify pools, published blocks and tables against each other. `num_computed(slot)` gives the computed tokens of
    /// a sequence; slots without one must hold nothing.
    ///
    /// `held` gives the blocks that sequences keep between requests, and the computed tokens in them.
    ///
    /// Every reference is accounted for; no block that a sequence may still write is published or shared (a reader
    /// that only copies its computed head is allowed); equal blocks mean equal prefixes by construction of the chain.
    pub fn check_integrity(
        &self,
        num_computed: impl Fn(usize) -> Option<usize>,
        held: &[(&HeldBlocks, usize)],
    ) -> Result<(), String> {
        let count = self.groups.len();
        let num_copy_sources = self.copy_sources.iter().flatten().count();
        if num_copy_sources != self.num_copy_sources {
            return Err(format!(
                "{num_copy_sources} copies are pending, counted {}",
                self.num_copy_sources
            ));
        }
        for (index, group) in self.groups.iter().enumerate() {
            let name = |error| format!("group {index}: {error}");
            group.pool.check_integrity().map_err(name)?;
            group.cache.check_integrity().map_err(name)?;
            let mut in_tables = vec![0; group.pool.num_blocks()];
            let mut references = vec![0; group.pool.num_blocks()];
            for slot in 0..self.tables.len() / count {
                for &block in self.table(slot, index) {
                    in_tables[block as usize] += 1;
                    references[block as usize] += 1;
                }
                if let Some(source) = self.copy_source(slot, index) {
                    references[source as usize] += 1;
                }
            }
            for &(blocks, computed) in held {
                if blocks.table(index).len() != computed.div_ceil(BLOCK_SIZE) {
                    return Err(name(format!(
                        "{} held blocks for {computed} tokens",
                        blocks.table(index).len()
                    )));
                }
                for &block in blocks.table(index) {
                    in_tables[block as usize] += 1;
                    references[block as usize] += 1;
                    if blocks.is_private() && group.cache.content(block).is_some() {
                        return Err(name(format!("private block {block} is published")));
                    }
                }
            }
            for (block, (&found, expected)) in references.iter().zip(0..).enumerate() {
                let counted = group.pool.references(expected);
                if found != counted {
                    return Err(name(format!(
                        "block {block} has {counted} references, tables hold {found}"
                    )));
                }
            }
            for slot in 0..self.tables.len() / count {
                let table = self.table(slot, index);
                let Some(computed) = num_computed(slot) else {
                    if !table.is_empty() || self.copy_source(slot, index).is_some() {
                        return Err(name(format!("idle slot {slot} holds blocks")));
                    }
                    continue;
                };
                let pending = usize::from(self.copy_source(slot, index).is_some());
                if table.len() + pending < computed.div_ceil(BLOCK_SIZE) {
                    return Err(name(format!("slot {slot} has fewer blocks than K and V")));
                }
                for &block in table.get(computed / BLOCK_SIZE..).unwrap_or(&[]) {
                    if in_tables[block as usize] > 1 {
                        return Err(name(format!("block {block} is writable by two sequences")));
                    }
                    if group.cache.content(block).is_some() {
                        return Err(name(format!("block {block} is published and writable")));
                    }
                }
            }
        }
        Ok(())
    }
}
