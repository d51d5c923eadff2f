//! What a worker unpacks panels into, and keeps sums in.

use super::PANEL_FLOATS;
use super::matrix_tile::PRODUCT_INTS;
use super::source::{PANEL_CODES, PANEL_MINS, PANEL_SCALES, PANELS};
use crate::simd::LANES;

/// One worker's room for a pair of unpacked panels.
#[derive(Debug)]
pub(crate) struct PanelScratch {
    pub(super) codes: Lines<u8>,
    pub(super) scales: Lines<f32>,
    pub(super) mins: Lines<f32>,
    pub(super) floats: Lines<f32>,
    /// Of the matrix unit.
    products: Lines<i32>,
    /// `[rows][PANELS][16]`.
    pub(super) partial: Lines<f32>,
}

/// Zeroed memory that begins on a cache line, so that no vector spans two.
#[derive(Debug)]
pub(super) struct Lines<T> {
    memory: Vec<T>,
    first: usize,
}

impl<T: Copy + Default> Lines<T> {
    const BYTES: usize = 64;

    fn new(len: usize) -> Self {
        let memory = vec![T::default(); len + Self::BYTES / size_of::<T>()];
        let first = memory.as_ptr().align_offset(Self::BYTES);
        Self { memory, first }
    }

    pub(super) fn as_ptr(&self) -> *const T {
        self.memory[self.first..].as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.memory[self.first..].as_mut_ptr()
    }
}

impl PanelScratch {
    /// Room for `rows` rows.
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            codes: Lines::new(PANELS * PANEL_CODES),
            scales: Lines::new(PANELS * PANEL_SCALES),
            mins: Lines::new(PANELS * PANEL_MINS),
            floats: Lines::new(PANELS * PANEL_FLOATS),
            products: Lines::new(PRODUCT_INTS),
            partial: Lines::new(rows * PANELS * LANES),
        }
    }

    /// Room for the sums of a matrix unit.
    pub(crate) fn products(&mut self) -> *mut i32 {
        self.products.as_mut_ptr()
    }
}
