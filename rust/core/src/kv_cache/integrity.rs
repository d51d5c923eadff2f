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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::{GroupConfig, PrefixHash, TokenView};

    /// A sequence of 40 computed tokens in blocks 0 to 2, two of them published; and a private block outside.
    struct State {
        kv: KvCache,
        computed: Vec<usize>,
        held: HeldBlocks,
        num_held: usize,
    }

    impl State {
        fn new() -> Self {
            let group = GroupConfig {
                num_blocks: 8,
                window: None,
            };
            let mut kv = KvCache::new(&[group], Some(PrefixHash::default()));
            kv.open(0, None, 64);
            assert!(kv.grow(0, 40));
            let tokens = TokenView {
                prompt: &[5; 40],
                output: &[],
            };
            kv.publish(0, tokens, 40);
            Self {
                held: kv.take_private(16).unwrap(),
                kv,
                computed: vec![40],
                num_held: 16,
            }
        }

        fn check(&self) -> Result<(), String> {
            let computed = |slot| self.computed.get(slot).copied();
            let held = [(&self.held, self.num_held)];
            self.kv.check_integrity(computed, &held)
        }
    }

    fn found(damage: fn(&mut State)) -> String {
        let mut state = State::new();
        state.check().unwrap();
        damage(&mut state);
        state.check().unwrap_err()
    }

    #[test]
    fn a_miscounted_copy_is_found() {
        assert_eq!(
            found(|state| state.kv.num_copy_sources = 1),
            "0 copies are pending, counted 1"
        );
    }

    #[test]
    fn held_blocks_that_do_not_fit_their_tokens_are_found() {
        assert_eq!(
            found(|state| state.num_held = 17),
            "group 0: 1 held blocks for 17 tokens"
        );
    }

    #[test]
    fn a_private_block_that_is_published_is_found() {
        let publish = |state: &mut State| {
            let (content, parent) = (state.kv.new_content(), state.kv.new_content());
            let cache = &mut state.kv.groups[0].cache;
            cache.publish(state.held.table(0)[0], 1, parent, &[1; 16], content);
        };
        assert_eq!(found(publish), "group 0: private block 3 is published");
    }

    #[test]
    fn references_that_are_not_those_of_the_tables_are_found() {
        assert_eq!(
            found(|state| state.kv.groups[0].pool.touch(0)),
            "group 0: block 0 has 2 references, tables hold 1"
        );
        assert_eq!(
            found(|state| state.kv.tables[0].truncate(2)),
            "group 0: block 2 has 1 references, tables hold 0"
        );
        assert_eq!(
            found(|state| state.kv.tables[0].push(7)),
            "group 0: block 7 has 0 references, tables hold 1"
        );
    }

    #[test]
    fn blocks_of_nobody_are_found() {
        assert_eq!(
            found(|state| state.computed.clear()),
            "group 0: idle slot 0 holds blocks"
        );
        let only_a_source = |state: &mut State| {
            state.kv.open(1, None, 64);
            state.kv.fork(0, 1, 8);
        };
        assert_eq!(found(only_a_source), "group 0: idle slot 1 holds blocks");
    }

    #[test]
    fn computed_tokens_without_a_block_are_found() {
        assert_eq!(
            found(|state| state.computed[0] = 49),
            "group 0: slot 0 has fewer blocks than K and V"
        );
    }

    #[test]
    fn a_block_that_may_be_written_and_read_is_found() {
        let share = |state: &mut State| {
            state.kv.open(1, None, 64);
            state.kv.tables[1].push(2);
            state.kv.groups[0].pool.touch(2);
            state.computed.push(16);
        };
        assert_eq!(
            found(share),
            "group 0: block 2 is writable by two sequences"
        );
        let hold_too = |state: &mut State| {
            let private = state.held.table(0)[0];
            state.kv.tables[0].push(private);
            state.kv.groups[0].pool.touch(private);
        };
        assert_eq!(
            found(hold_too),
            "group 0: block 3 is writable by two sequences"
        );
        assert_eq!(
            found(|state| state.computed[0] = 20),
            "group 0: block 1 is published and writable"
        );
    }
}
