//! The KV cache against a naive twin: lists that are searched from the front, no hash, no ring, no chain. Both must
//! choose the same blocks, find the same prefixes and evict in the same order.
#![allow(
    clippy::similar_names,
    clippy::needless_for_each,
    reason = "two caches with the same names, step by step"
)]

use std::collections::VecDeque;

use inferlib_core::kv_cache::{KvCache, TokenView};
use inferlib_core::{GroupConfig, PrefixHash};
use inferlib_program::BLOCK_SIZE;
use proptest::prelude::*;

const SLOTS: usize = 5;

#[derive(Clone, Debug)]
struct Published {
    block: u32,
    parent: u64,
    tokens: Vec<i32>,
    content: u64,
}

#[derive(Clone, Debug)]
struct NaiveGroup {
    /// Oldest first.
    free: VecDeque<u32>,
    references: Vec<u32>,
    published: Vec<Published>,
}

impl NaiveGroup {
    fn take(&mut self) -> u32 {
        let block = self.free.pop_front().unwrap();
        self.published.retain(|published| published.block != block);
        self.references[block as usize] = 1;
        block
    }

    fn touch(&mut self, block: u32) {
        self.free.retain(|&free| free != block);
        self.references[block as usize] += 1;
    }

    fn release(&mut self, block: u32) {
        self.references[block as usize] -= 1;
        if self.references[block as usize] > 0 {
            return;
        }
        if self
            .published
            .iter()
            .any(|published| published.block == block)
        {
            self.free.push_back(block);
        } else {
            self.free.push_front(block);
        }
    }

    fn find(&self, parent: u64, tokens: &[i32]) -> Option<&Published> {
        let mut all = self.published.iter();
        all.find(|published| published.parent == parent && published.tokens == tokens)
    }
}

#[derive(Clone, Debug, Default)]
struct NaiveSequence {
    tokens: Vec<i32>,
    computed: usize,
    salt: Option<String>,
    tables: Vec<Vec<u32>>,
    copy_sources: Vec<Option<u32>>,
    /// Content of the published prefix, and its blocks; from the root again after a fork into a longer source.
    chain: (u64, usize),
}

#[derive(Clone, Debug)]
struct Naive {
    groups: Vec<NaiveGroup>,
    sequences: Vec<Option<NaiveSequence>>,
    roots: Vec<(Option<String>, u64)>,
    next_content: u64,
}

impl Naive {
    fn new(sizes: &[u32]) -> Self {
        let group = |&count: &u32| NaiveGroup {
            free: (0..count).collect(),
            references: vec![0; count as usize],
            published: Vec::new(),
        };
        Self {
            groups: sizes.iter().map(group).collect(),
            sequences: vec![None; SLOTS],
            roots: Vec::new(),
            next_content: 1,
        }
    }

    fn new_content(&mut self) -> u64 {
        self.next_content += 1;
        self.next_content - 1
    }

    fn root(&mut self, salt: Option<&String>) -> u64 {
        if let Some(root) = self.roots.iter().find(|root| root.0.as_ref() == salt) {
            return root.1;
        }
        let content = self.new_content();
        self.roots.push((salt.cloned(), content));
        content
    }

    /// Per block of the longest prefix found in every group: its block in each group, and its content.
    fn matching(
        &mut self,
        salt: Option<&String>,
        tokens: &[i32],
        most: usize,
    ) -> Vec<(Vec<u32>, u64)> {
        let mut parent = self.root(salt);
        let mut found = Vec::new();
        for block in tokens.chunks_exact(BLOCK_SIZE).take(most) {
            let all: Option<Vec<_>> = self
                .groups
                .iter()
                .map(|group| group.find(parent, block))
                .collect();
            let Some(all) = all else { break };
            parent = all[0].content;
            assert!(
                all.iter().all(|one| one.content == parent),
                "groups name a prefix differently"
            );
            found.push((all.iter().map(|one| one.block).collect(), parent));
        }
        found
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Open {
        slot: usize,
        salt: Option<String>,
        blocks: Vec<i32>,
        rest: usize,
        spare: usize,
    },
    /// Append and compute a few tokens.
    Extend {
        slot: usize,
        count: usize,
        token: i32,
    },
    Fork {
        source: usize,
        target: usize,
        keep: usize,
    },
    CopiesDone(usize),
    Unpublish(usize),
    Close(usize),
}

fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    let slot = 0..SLOTS;
    prop_oneof![
        4 => (
            slot.clone(),
            prop::option::weighted(0.3, prop_oneof![Just("a".to_owned()), Just("b".to_owned())]),
            prop::collection::vec(0..3, 0..5),
            0..BLOCK_SIZE,
            0..3_usize,
        )
            .prop_map(|(slot, salt, blocks, rest, spare)| Operation::Open {
                slot, salt, blocks, rest, spare,
            }),
        4 => (slot.clone(), 1..40_usize, 0..3)
            .prop_map(|(slot, count, token)| Operation::Extend { slot, count, token }),
        2 => (slot.clone(), slot.clone(), 0..100_usize)
            .prop_map(|(source, target, keep)| Operation::Fork { source, target, keep }),
        1 => slot.clone().prop_map(Operation::CopiesDone),
        1 => slot.clone().prop_map(Operation::Unpublish),
        4 => slot.prop_map(Operation::Close),
    ]
}

struct Pair {
    real: KvCache,
    naive: Naive,
}

fn view(tokens: &[i32]) -> TokenView<'_> {
    let (prompt, output) = tokens.split_at(tokens.len() / 3);
    TokenView { prompt, output }
}

impl Pair {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Open {
                slot,
                salt,
                blocks,
                rest,
                spare,
            } => {
                let mut tokens: Vec<i32> = blocks
                    .iter()
                    .flat_map(|&block| [block; BLOCK_SIZE])
                    .collect();
                tokens.extend(vec![0; rest + 1]);
                self.open(slot, salt, tokens, spare);
            }
            Operation::Extend { slot, count, token } => self.extend(slot, count, token),
            Operation::Fork {
                source,
                target,
                keep,
            } => self.fork(source, target, keep),
            Operation::CopiesDone(slot) => self.copies_done(slot),
            Operation::Unpublish(slot) => {
                let Some(sequence) = &self.naive.sequences[slot] else {
                    return;
                };
                for (group, table) in self.naive.groups.iter_mut().zip(&sequence.tables) {
                    group
                        .published
                        .retain(|published| !table.contains(&published.block));
                }
                self.real.unpublish(slot);
                self.close(slot);
            }
            Operation::Close(slot) => self.close(slot),
        }
    }

    fn open(&mut self, slot: usize, salt: Option<String>, tokens: Vec<i32>, spare: usize) {
        if self.naive.sequences[slot].is_some() {
            return;
        }
        let root = self.naive.root(salt.as_ref());
        let most = (tokens.len() - 1) / BLOCK_SIZE;
        let found = self.naive.matching(salt.as_ref(), &tokens, most);
        let needed = tokens.len().div_ceil(BLOCK_SIZE) - found.len();
        let fits = self.naive.groups.iter().enumerate().all(|(index, group)| {
            let idle = found
                .iter()
                .filter(|(blocks, _)| group.free.contains(&blocks[index]));
            needed + idle.count() + spare <= group.free.len()
        });

        self.real.open(slot, salt.as_deref(), 200);
        let matched = self.real.match_prefix(slot, view(&tokens), most);
        assert_eq!(matched.num_blocks, found.len());
        assert_eq!(self.real.fits(&matched, tokens.len(), spare), fits);
        if !fits {
            self.real.close(slot);
            return;
        }
        self.real.admit(slot, &matched, tokens.len());
        let mut tables = Vec::new();
        for (index, group) in self.naive.groups.iter_mut().enumerate() {
            let mut table: Vec<u32> = found.iter().map(|(blocks, _)| blocks[index]).collect();
            table.iter().for_each(|&block| group.touch(block));
            table.extend((0..needed).map(|_| group.take()));
            tables.push(table);
        }
        self.naive.sequences[slot] = Some(NaiveSequence {
            computed: found.len() * BLOCK_SIZE,
            copy_sources: vec![None; tables.len()],
            chain: (found.last().map_or(root, |last| last.1), found.len()),
            tokens,
            salt,
            tables,
        });
        self.compute(slot);
    }

    /// Everything up to the last token is computed; full blocks are published.
    fn compute(&mut self, slot: usize) {
        let naive = &mut self.naive;
        let mut sequence = naive.sequences[slot].take().unwrap();
        sequence.computed = sequence.tokens.len() - 1;
        let (mut parent, first) = sequence.chain;
        let full = sequence.tokens[..sequence.computed].chunks_exact(BLOCK_SIZE);
        for (index, tokens) in full.enumerate().skip(first) {
            let known = naive
                .groups
                .iter()
                .find_map(|group| group.find(parent, tokens))
                .map(|one| one.content);
            let content = known.unwrap_or_else(|| naive.new_content());
            for (group, table) in naive.groups.iter_mut().zip(&sequence.tables) {
                if group.find(parent, tokens).is_none() {
                    let block = table[index];
                    group.published.retain(|published| published.block != block);
                    let tokens = tokens.to_vec();
                    group.published.push(Published {
                        block,
                        parent,
                        tokens,
                        content,
                    });
                }
            }
            parent = content;
            sequence.chain = (content, index + 1);
        }
        self.real
            .publish(slot, view(&sequence.tokens), sequence.computed);
        naive.sequences[slot] = Some(sequence);
    }

    fn extend(&mut self, slot: usize, count: usize, token: i32) {
        let Some(sequence) = &mut self.naive.sequences[slot] else {
            return;
        };
        let length = sequence.tokens.len() + count;
        let missing = length.div_ceil(BLOCK_SIZE) - sequence.tables[0].len();
        let fits = self
            .naive
            .groups
            .iter()
            .all(|group| group.free.len() >= missing);
        assert_eq!(self.real.grow(slot, length), fits || missing == 0);
        if !fits {
            return;
        }
        for (group, table) in self.naive.groups.iter_mut().zip(&mut sequence.tables) {
            table.extend((0..missing).map(|_| group.take()));
        }
        sequence.tokens.extend(vec![token; count]);
        self.copies_done(slot);
        self.compute(slot);
    }

    fn fork(&mut self, source: usize, target: usize, keep: usize) {
        let Some(from) = self.naive.sequences[source].clone() else {
            return;
        };
        let pending = from.copy_sources.iter().any(Option::is_some);
        let room = self.naive.groups.iter().all(|group| !group.free.is_empty());
        if self.naive.sequences[target].is_some() || pending || !room {
            return;
        }
        let keep = keep.min(from.computed);
        let shared = keep / BLOCK_SIZE;
        let root = self.naive.root(from.salt.as_ref());
        let mut sequence = NaiveSequence {
            tokens: from.tokens[..=keep].to_vec(),
            computed: keep,
            salt: from.salt.clone(),
            chain: if from.chain.1 == shared {
                from.chain
            } else {
                (root, 0)
            },
            ..NaiveSequence::default()
        };
        for (group, table) in self.naive.groups.iter_mut().zip(&from.tables) {
            for &block in &table[..shared] {
                group.touch(block);
            }
            let partial = !keep.is_multiple_of(BLOCK_SIZE);
            sequence.copy_sources.push(partial.then(|| table[shared]));
            if partial {
                group.touch(table[shared]);
            }
            let mut table = table[..shared].to_vec();
            table.push(group.take());
            sequence.tables.push(table);
        }
        self.naive.sequences[target] = Some(sequence);
        self.real.open(target, from.salt.as_deref(), 200);
        self.real.fork(source, target, keep);
        assert!(self.real.grow(target, keep + 1));
    }

    fn copies_done(&mut self, slot: usize) {
        let Some(sequence) = &mut self.naive.sequences[slot] else {
            return;
        };
        for (group, source) in self.naive.groups.iter_mut().zip(&mut sequence.copy_sources) {
            if let Some(block) = source.take() {
                group.release(block);
            }
        }
        self.real.copies_done(slot);
    }

    fn close(&mut self, slot: usize) {
        if self.naive.sequences[slot].is_none() {
            return;
        }
        self.copies_done(slot);
        let sequence = self.naive.sequences[slot].take().unwrap();
        for (group, table) in self.naive.groups.iter_mut().zip(&sequence.tables) {
            table.iter().rev().for_each(|&block| group.release(block));
        }
        self.real.close(slot);
    }

    fn check(&self) {
        let sequences = &self.naive.sequences;
        self.real
            .check_integrity(
                |slot| sequences[slot].as_ref().map(|sequence| sequence.computed),
                &[],
            )
            .unwrap();
        for (index, (group, stats)) in self.naive.groups.iter().zip(self.real.stats()).enumerate() {
            assert_eq!(stats.num_free, group.free.len());
            assert_eq!(stats.num_cached, group.published.len());
            for (slot, sequence) in sequences.iter().enumerate() {
                let Some(sequence) = sequence else { continue };
                assert_eq!(self.real.table(slot, index), sequence.tables[index]);
                assert_eq!(
                    self.real.copy_source(slot, index),
                    sequence.copy_sources[index]
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_agrees_with_its_naive_twin(
        sizes in prop::collection::vec(4..20_u32, 1..3),
        bits in prop_oneof![Just(128_u32), Just(4), Just(1)],
        key in any::<[u64; 2]>(),
        operations in prop::collection::vec(arbitrary_operation(), 1..120),
    ) {
        let group = |&num_blocks: &u32| GroupConfig { num_blocks, window: None };
        let groups: Vec<_> = sizes.iter().map(group).collect();
        let mut real = KvCache::new(&groups, Some(PrefixHash { key, bits }));
        for slot in 0..SLOTS {
            real.open(slot, None, 200);
            real.close(slot);
        }
        let mut naive = Naive::new(&sizes);
        naive.root(None);
        let mut pair = Pair { real, naive };
        for operation in operations {
            pair.apply(operation);
            pair.check();
        }
    }
}
