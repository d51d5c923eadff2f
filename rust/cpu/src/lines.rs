//! Scratch memory that begins on a cache line.

use std::ops::{Deref, DerefMut};

/// A fixed number of elements, zeros at first. No vector at a multiple of its size spans two cache lines.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    memory: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Lines<T> {
    const BYTES: usize = 64;

    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![T::default(); len + Self::BYTES / size_of::<T>()];
        let first = memory.as_ptr().align_offset(Self::BYTES);
        Self { memory, first, len }
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.first..][..self.len]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.first..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn elements_begin_on_a_line_and_are_as_many_as_asked_for() {
        for len in [0, 1, 15, 16, 1000] {
            let mut lines = Lines::<i32>::new(len);
            assert_eq!(lines.len(), len);
            assert_eq!(lines.as_mut_ptr().addr() % 64, 0);
            assert!(lines.iter().all(|&x| x == 0));
        }
    }
}
