//! What a worker unpacks panels into, and keeps sums in.

use super::PANEL_FLOATS;
use super::matrix_tile::PRODUCT_INTS;
use super::row_tile::PARTIAL_FLOATS;
use super::source::{PANEL_CODES, PANEL_MINS, PANEL_SCALES, PANELS};
use crate::lines::Lines;
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
    /// `[rows][PANELS][16]`, and room for whole tiles of a matrix unit.
    pub(super) partial: Lines<f32>,
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
            partial: Lines::new(rows * PANELS * LANES + PARTIAL_FLOATS),
        }
    }

    /// Room for the sums of a matrix unit.
    pub(crate) fn products(&mut self) -> *mut i32 {
        self.products.as_mut_ptr()
    }
}
