//! Merging adjacent parts of a text, best first and leftmost on a tie: the heart of every BPE.
//!
//! Cost: O(n log n) hash look-ups for n parts with a heap, O(n²) comparisons for the short words that make up
//! nearly all text, where scanning beats a heap. Both give the same result (property test below).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to this many parts, scanning for the best pair is faster than keeping a heap.
const FEW: usize = 32;

/// A run of bytes `start..end` of the text, and what the rule knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<T> {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) tag: T,
}

/// Which pairs may merge.
pub(crate) trait MergeRule {
    /// What is known of a part besides its place (a token id, or nothing).
    type Tag: Copy + Ord;

    /// The priority of merging two neighbours (lower goes first) and the tag of the result.
    fn merge(&self, left: &Part<Self::Tag>, right: &Part<Self::Tag>) -> Option<(u32, Self::Tag)>;
}

/// Buffers for merging, reused from word to word.
#[derive(Debug)]
pub(crate) struct Merger<T> {
    /// Filled by the caller, merged in place by [`Merger::run`].
    pub(crate) parts: Vec<Part<T>>,
    candidates: Vec<Option<(u32, T)>>,
    nodes: Vec<Node<T>>,
    heap: BinaryHeap<Reverse<Candidate<T>>>,
}

#[derive(Debug, Clone, Copy)]
struct Node<T> {
    part: Part<T>,
    previous: u32,
    next: u32,
}

impl<T> Node<T> {
    /// Merged into its left neighbour, or one of the two ends of the list.
    fn is_gone(&self) -> bool {
        self.part.start == self.part.end
    }
}

/// A pair that could be merged when it was queued; fields in order of comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<T> {
    priority: u32,
    left: u32,
    /// Where the right part ended: if it differs now, one of the two has changed since.
    end: u32,
    tag: T,
}

impl<T: Copy + Ord> Merger<T> {
    pub(crate) fn new() -> Self {
        Self {
            parts: Vec::new(),
            candidates: Vec::new(),
            nodes: Vec::new(),
            heap: BinaryHeap::new(),
        }
    }

    /// Merge `self.parts` until no pair is left that the rule knows.
    pub(crate) fn run<R: MergeRule<Tag = T>>(&mut self, rule: &R) {
        if self.parts.len() <= FEW {
            self.merge_few(rule);
        } else {
            self.merge_many(rule);
        }
    }

    fn merge_few<R: MergeRule<Tag = T>>(&mut self, rule: &R) {
        let (parts, candidates) = (&mut self.parts, &mut self.candidates);
        candidates.clear();
        candidates.extend(parts.windows(2).map(|pair| rule.merge(&pair[0], &pair[1])));
        loop {
            let best = candidates
                .iter()
                .enumerate()
                .filter_map(|(index, candidate)| {
                    candidate.map(|(priority, tag)| (priority, index, tag))
                })
                .min_by_key(|&(priority, index, _)| (priority, index));
            let Some((_, index, tag)) = best else { return };
            parts[index].end = parts[index + 1].end;
            parts[index].tag = tag;
            parts.remove(index + 1);
            candidates.remove(index);
            if index < candidates.len() {
                candidates[index] = rule.merge(&parts[index], &parts[index + 1]);
            }
            if index > 0 {
                candidates[index - 1] = rule.merge(&parts[index - 1], &parts[index]);
            }
        }
    }

    fn merge_many<R: MergeRule<Tag = T>>(&mut self, rule: &R) {
        self.link();
        self.heap.clear();
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        for left in 1..self.nodes.len().saturating_sub(2) {
            heap.extend(self.candidate(rule, to_u32(left)).map(Reverse));
        }
        self.heap = BinaryHeap::from(heap);
        while let Some(Reverse(candidate)) = self.heap.pop() {
            let left = candidate.left as usize;
            let right = self.nodes[left].next as usize;
            let stale = self.nodes[left].is_gone() || self.nodes[right].part.end != candidate.end;
            if stale || self.nodes[right].is_gone() {
                continue;
            }
            let after = self.nodes[right].next;
            self.nodes[left].part.end = candidate.end;
            self.nodes[left].part.tag = candidate.tag;
            self.nodes[left].next = after;
            self.nodes[after as usize].previous = candidate.left;
            self.nodes[right].part.end = self.nodes[right].part.start;
            let previous = self.nodes[left].previous;
            self.heap
                .extend(self.candidate(rule, previous).map(Reverse));
            self.heap
                .extend(self.candidate(rule, candidate.left).map(Reverse));
        }
        self.parts.clear();
        self.parts.extend(
            self.nodes
                .iter()
                .filter(|node| !node.is_gone())
                .map(|node| node.part),
        );
    }

    /// Turn `parts` into a list with an empty node at each end.
    fn link(&mut self) {
        self.nodes.clear();
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else {
            return;
        };
        let ends = [first, last].map(|part| Part {
            end: part.start,
            ..*part
        });
        let parts = [ends[0]]
            .into_iter()
            .chain(self.parts.iter().copied())
            .chain([ends[1]]);
        self.nodes
            .extend(parts.enumerate().map(|(index, part)| Node {
                part,
                previous: to_u32(index.saturating_sub(1)),
                next: to_u32(index + 1),
            }));
    }

    fn candidate<R: MergeRule<Tag = T>>(&self, rule: &R, left: u32) -> Option<Candidate<T>> {
        let node = &self.nodes[left as usize];
        let right = &self.nodes[node.next as usize];
        if node.is_gone() || right.is_gone() {
            return None;
        }
        let (priority, tag) = rule.merge(&node.part, &right.part)?;
        Some(Candidate {
            priority,
            left,
            end: right.part.end,
            tag,
        })
    }
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("texts are shorter than MAX_TEXT_BYTES, which fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pairs of tags that merge, by a table; the tag is a small number.
    #[derive(Debug)]
    struct Table(Vec<Option<(u32, u8)>>);

    impl MergeRule for Table {
        type Tag = u8;

        fn merge(&self, left: &Part<u8>, right: &Part<u8>) -> Option<(u32, u8)> {
            self.0[usize::from(left.tag) * 8 + usize::from(right.tag)]
        }
    }

    /// The definition, literally: of all adjacent pairs the best, leftmost on a tie, until none is left.
    fn naive(mut parts: Vec<Part<u8>>, rule: &Table) -> Vec<Part<u8>> {
        loop {
            let mut best: Option<(u32, usize, u8)> = None;
            for index in 1..parts.len() {
                if let Some((priority, tag)) = rule.merge(&parts[index - 1], &parts[index])
                    && best.is_none_or(|(lowest, _, _)| priority < lowest)
                {
                    best = Some((priority, index, tag));
                }
            }
            let Some((_, index, tag)) = best else {
                return parts;
            };
            parts[index - 1].end = parts[index].end;
            parts[index - 1].tag = tag;
            parts.remove(index);
        }
    }

    fn rule() -> impl Strategy<Value = Table> {
        let cell = proptest::option::weighted(0.4, (0..6u32, 0..8u8));
        proptest::collection::vec(cell, 64).prop_map(Table)
    }

    fn parts(max: usize) -> impl Strategy<Value = Vec<Part<u8>>> {
        proptest::collection::vec((1..3u32, 0..8u8), 0..max).prop_map(|lengths| {
            let mut start = 0;
            let place = |(length, tag)| {
                let part = Part {
                    start,
                    end: start + length,
                    tag,
                };
                start += length;
                part
            };
            lengths.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn scanning_and_heap_agree_with_the_definition(rule in rule(), parts in parts(60)) {
            let expected = naive(parts.clone(), &rule);
            let mut merger = Merger::new();
            merger.parts.clone_from(&parts);
            merger.merge_few(&rule);
            prop_assert_eq!(&merger.parts, &expected);
            merger.parts = parts;
            merger.merge_many(&rule);
            prop_assert_eq!(&merger.parts, &expected);
        }
    }
}
