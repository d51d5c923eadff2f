//! One hash over all bytes of a checkpoint's files, computed in pieces on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::weights::Weights;
use crate::xxh64::{xxh64, xxh64_of_hashes};

/// Bytes that are hashed at once; the digest depends on it.
const PIECE: usize = 1 << 20;

/// A digest that is being computed: call [`Self::advance`] until it is done.
///
/// 64 bits: two files of equal size that differ by accident have the same digest once in 10^19 pairs. Nothing here
/// resists somebody who makes files on purpose.
#[derive(Debug)]
pub struct ContentDigest<'a> {
    checkpoint: &'a Weights,
    /// File and first byte of every piece.
    pieces: Vec<(usize, usize)>,
    hashes: Vec<u64>,
}

impl<'a> ContentDigest<'a> {
    /// Of all files, in their order.
    #[must_use]
    pub fn new(checkpoint: &'a Weights) -> Self {
        let mut pieces = Vec::new();
        for (file, bytes) in checkpoint.contents().enumerate() {
            pieces.extend((0..bytes.len()).step_by(PIECE).map(|start| (file, start)));
        }
        Self {
            checkpoint,
            pieces,
            hashes: Vec::new(),
        }
    }

    /// Hash some of the rest on `threads` threads, about `bytes`, and give the pages of mapped files back.
    ///
    /// Returns the digest once all is hashed.
    pub fn advance(&mut self, threads: usize, bytes: usize) -> Option<u64> {
        let count = bytes.div_ceil(PIECE).max(1);
        let wanted = self.pieces.iter().skip(self.hashes.len()).take(count);
        let todo: Vec<(usize, usize)> = wanted.copied().collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(file, start)) = todo.get(index) else {
                    return done;
                };
                let end = start.saturating_add(PIECE);
                done.push((index, self.checkpoint.hash_range(file, start, end)));
            }
        };
        let mut hashes = vec![0; todo.len()];
        std::thread::scope(|scope| {
            let others = threads.min(todo.len()).saturating_sub(1);
            let handles: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for handle in handles {
                match handle.join() {
                    Ok(more) => done.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            for (index, hash) in done {
                if let Some(slot) = hashes.get_mut(index) {
                    *slot = hash;
                }
            }
        });
        self.hashes.extend(hashes);
        (self.hashes.len() == self.pieces.len()).then(|| self.finish())
    }

    /// Lengths first, so that no file's end can be the next one's beginning.
    fn finish(&self) -> u64 {
        let lengths = self.checkpoint.contents().map(|bytes| bytes.len() as u64);
        let all: Vec<u64> = lengths.chain(self.hashes.iter().copied()).collect();
        xxh64_of_hashes(&all, 0)
    }
}

impl Weights {
    fn hash_range(&self, file: usize, start: usize, end: usize) -> u64 {
        let bytes = self.contents().nth(file).unwrap_or_default();
        let end = end.min(bytes.len());
        let hash = xxh64(bytes.get(start..end).unwrap_or_default(), 0);
        self.release_in_file(file, start..end);
        hash
    }
}
