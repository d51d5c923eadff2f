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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// One tensor of bytes.
    fn safetensors(data: &[u8]) -> Weights {
        let header = format!(
            "{{\"t\":{{\"dtype\":\"U8\",\"shape\":[{0}],\"data_offsets\":[0,{0}]}}}}",
            data.len()
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        Weights::from_bytes(Path::new("m.safetensors"), file).unwrap()
    }

    fn digest(weights: &Weights, threads: usize, bytes: usize) -> u64 {
        let mut digest = ContentDigest::new(weights);
        loop {
            if let Some(digest) = digest.advance(threads, bytes) {
                return digest;
            }
        }
    }

    #[test]
    fn it_depends_on_the_content_alone() {
        let mut data: Vec<u8> = (0..=252).cycle().take(5 * PIECE / 2).collect();
        let weights = safetensors(&data);
        let ours = digest(&weights, 1, 1);
        for (threads, bytes) in [(2, 1), (1, 2 * PIECE), (3, 100 * PIECE), (8, 0)] {
            assert_eq!(digest(&weights, threads, bytes), ours);
        }
        for at in [0, 1, PIECE, 2 * PIECE, data.len() - 1] {
            data[at] ^= 1;
            assert_ne!(digest(&safetensors(&data), 2, PIECE), ours, "byte {at}");
            data[at] ^= 1;
        }
        assert_ne!(digest(&safetensors(&data[1..]), 2, PIECE), ours);
    }

    #[test]
    fn pieces_that_change_places_change_it() {
        let data: Vec<u8> = [0, 1, 2]
            .iter()
            .flat_map(|&byte| vec![byte; PIECE])
            .collect();
        let mut swapped = data.clone();
        swapped.rotate_left(PIECE);
        assert_ne!(
            digest(&safetensors(&data), 1, PIECE),
            digest(&safetensors(&swapped), 1, PIECE)
        );
    }
}
