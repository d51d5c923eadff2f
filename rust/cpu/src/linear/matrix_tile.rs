//! The integer tile on a matrix unit: its sums per block are exact, and what becomes of them is what `tile.rs` does, in
//! the same order, so that the results are the same bits.
//!
//! Only products whose codes lie unpacked in memory come here, as signed bytes: no start values.

use crate::activations::{WORDS, tiles};
use crate::linear::source::{Class, PANELS, Source, Unpacked};
use crate::linear::tile::{Tiles, begin, finish, half_sum};
use crate::simd::matrix_unit::{MatrixUnit, PRODUCTS, ROWS};
use crate::simd::{Isa, LANES};

/// Integers that [`matrix_tiles`] needs room for.
pub(crate) const PRODUCT_INTS: usize = PRODUCTS * ROWS * LANES;

/// All rows against an unpacked chunk, with `PLANES` int8 planes per activation: as [`crate::linear::tile::int_tiles`].
///
/// # Safety
/// As `int_tiles`; `products` has room for [`PRODUCT_INTS`], the activations end in room for a whole tile's block, and
/// `U::begin` was called for the class's scales.
#[inline(always)]
pub(crate) unsafe fn matrix_tiles<I: Isa, U: MatrixUnit, C: Class, const PLANES: usize>(
    task: &Tiles,
    source: &Unpacked<C>,
    products: *mut i32,
) {
    for (first, size) in tiles(task.rows) {
        // SAFETY: the caller's.
        unsafe {
            match size {
                12 => matrix_tile::<I, U, C, 12, PLANES>(task, source, first, products),
                8 => matrix_tile::<I, U, C, 8, PLANES>(task, source, first, products),
                6 => matrix_tile::<I, U, C, 6, PLANES>(task, source, first, products),
                4 => matrix_tile::<I, U, C, 4, PLANES>(task, source, first, products),
                3 => matrix_tile::<I, U, C, 3, PLANES>(task, source, first, products),
                2 => matrix_tile::<I, U, C, 2, PLANES>(task, source, first, products),
                _ => matrix_tile::<I, U, C, 1, PLANES>(task, source, first, products),
            }
        }
    }
}

/// The tile of `M` rows at `first`. Products are begun `SLOTS` blocks before their sums are used.
#[inline(always)]
unsafe fn matrix_tile<I: Isa, U: MatrixUnit, C: Class, const M: usize, const PLANES: usize>(
    task: &Tiles,
    source: &Unpacked<C>,
    first: usize,
    products: *mut i32,
) {
    let slots = PRODUCTS / PANELS / PLANES;
    let parts = if C::HALVES { 2 } else { 1 };
    let base = first * task.width + task.from * M;
    let steps = task.count * parts;
    // SAFETY: tile offsets as in `pack_row`; the source has `count` blocks.
    unsafe {
        let mut acc = begin::<I, PANELS, M>(first, 0, &task.target);
        for step in 0..steps + slots {
            if step >= slots {
                store::<U, PLANES>(step % slots, products);
            }
            if step < steps {
                let (b, part) = (step / parts, step % parts);
                if first == 0 && part == 0 {
                    source.prefetch::<I>(b);
                }
                let at = (base + b * M) * WORDS + part * WORDS / 2;
                let planes = [task.input.int8, task.input.low]
                    .map(|plane| plane.wrapping_add(at).cast_const());
                let codes = [0, 1].map(|panel| source.block(panel, b).add(part * 256));
                multiply::<U, PLANES>(step % slots, planes, codes);
            }
            if let Some(step) = step.checked_sub(slots) {
                add::<I, C, M, PLANES>(
                    task,
                    source,
                    (base, step / parts, step % parts),
                    products,
                    &mut acc,
                );
            }
        }
        finish::<I, PANELS, M>(acc, first, 0, &task.target);
    }
}

/// The first of a slot's products in memory: `[PANELS][PLANES]`. With two slots and one plane, or the reverse, there are as
/// many as the unit holds.
fn product(products: *mut i32, index: usize) -> *mut i32 {
    products.wrapping_add(index * ROWS * LANES)
}

/// The slot's products to memory.
#[inline(always)]
unsafe fn store<U: MatrixUnit, const PLANES: usize>(slot: usize, products: *mut i32) {
    // SAFETY: room for all products.
    unsafe {
        if PLANES == 2 || slot == 0 {
            U::store::<0>(product(products, 0), LANES);
            U::store::<1>(product(products, 1), LANES);
        }
        if PLANES == 2 || slot == 1 {
            U::store::<2>(product(products, 2), LANES);
            U::store::<3>(product(products, 3), LANES);
        }
    }
}

/// A block's, or half block's, activations times two panels' codes into the slot's products.
#[inline(always)]
unsafe fn multiply<U: MatrixUnit, const PLANES: usize>(
    slot: usize,
    planes: [*const i32; 2],
    codes: [*const u8; PANELS],
) {
    // SAFETY: the caller's activations and codes.
    unsafe {
        if PLANES == 2 {
            U::load_activations::<0>(planes[0], WORDS);
            U::load_activations::<1>(planes[1], WORDS);
            U::load_codes::<0>(codes[0]);
            U::clear::<0>();
            U::multiply::<0, 0, 0>();
            U::clear::<1>();
            U::multiply::<1, 1, 0>();
            U::load_codes::<1>(codes[1]);
            U::clear::<2>();
            U::multiply::<2, 0, 1>();
            U::clear::<3>();
            U::multiply::<3, 1, 1>();
        } else if slot == 0 {
            U::load_activations::<0>(planes[0], WORDS);
            U::clear::<0>();
            U::load_codes::<0>(codes[0]);
            U::multiply::<0, 0, 0>();
            U::clear::<1>();
            U::load_codes::<1>(codes[1]);
            U::multiply::<1, 0, 1>();
        } else {
            U::load_activations::<1>(planes[0], WORDS);
            U::clear::<2>();
            U::load_codes::<0>(codes[0]);
            U::multiply::<2, 1, 0>();
            U::clear::<3>();
            U::load_codes::<1>(codes[1]);
            U::multiply::<3, 1, 1>();
        }
    }
}

/// Scale a stored step's sums and add them up; then its minima.
#[inline(always)]
unsafe fn add<I: Isa, C: Class, const M: usize, const PLANES: usize>(
    task: &Tiles,
    source: &Unpacked<C>,
    (base, b, part): (usize, usize, usize),
    products: *mut i32,
    acc: &mut [[I::F; M]; PANELS],
) {
    let parts = if C::HALVES { 2 } else { 1 };
    let slot = (b * parts + part) % (PRODUCTS / PANELS / PLANES);
    // SAFETY: the step's products were stored; offsets as in `pack_row`.
    unsafe {
        let scale = task.input.scale.add(base + b * M);
        let mut weight_scale = [I::zero(); PANELS];
        for p in 0..PANELS {
            weight_scale[p] = source.scale::<I>(p, b, part);
        }
        for m in 0..M {
            let sa = I::set(*scale.add(m));
            for p in 0..PANELS {
                let at = product(products, slot * PANELS + p * PLANES).wrapping_add(m * LANES);
                let mut sum = I::i_load(at);
                if PLANES == 2 {
                    sum = I::i_add(I::i_shl::<8>(sum), I::i_load(product(at, 1)));
                }
                acc[p][m] = I::fma(I::to_f(sum), I::mul(weight_scale[p], sa), acc[p][m]);
            }
        }
        if C::HAS_MIN {
            let mut min = [I::zero(); PANELS];
            for p in 0..PANELS {
                min[p] = source.min::<I>(p, b, part);
            }
            for m in 0..M {
                let sum = match task.zero {
                    Some(slot) if C::HALVES => {
                        let start = task.input.start[slot];
                        let start = start.add((base + b * M) * 2 + part * M + m);
                        *scale.add(m) * half_sum(*start)
                    }
                    _ => *task.input.scaled_sum.add(base + b * M + m),
                };
                for p in 0..PANELS {
                    acc[p][m] = I::fma(min[p], I::set(sum), acc[p][m]);
                }
            }
        }
    }
}
