//! The tile on a matrix unit made of plain loops, so that its order of sums is tested on machines without one.

use std::cell::RefCell;

use inferlib_program::program::Activation;
use inferlib_weights::Dtype;

use crate::activations::{DOUBLE_WORDS, UNIT_ROWS};
use crate::kernels::{Kernels, UnitKernels};
use crate::linear::PanelScratch;
use crate::linear::matrix_tile::matrix_tiles;
use crate::linear::row_tile::matrix_row_tiles;
use crate::linear::source::{
    PANELS, Scaled, ScaledBytes, ScaledHalves, ScaledHalvesMin, ScaledMin, Unpacked,
};
use crate::linear::tile::Tiles;
use crate::linear_tests::{matrix, packed, packed_by_rows, run, run_with, types};
use crate::packing::Packing;
use crate::precision::Precision;
use crate::random_weights::{Random, tensor_bytes};
use crate::simd::matrix_unit::{MatrixUnit, PRODUCTS, ROWS};
use crate::simd::{LANES, Portable};
use crate::tier::Tier;

/// A unit in memory. What was not loaded or stored in time shows: products are only what was multiplied into them.
struct Loops;

struct Registers {
    /// 0 outside of `begin` and `end`.
    words: usize,
    rows: usize,
    products: [[[i32; LANES]; UNIT_ROWS]; PRODUCTS],
    activations: [[[i8; 64]; UNIT_ROWS]; 2],
    codes: [[[[i8; 4]; LANES]; 16]; 2],
}

impl Registers {
    const EMPTY: Self = Self {
        words: 0,
        rows: 0,
        products: [[[0; LANES]; UNIT_ROWS]; PRODUCTS],
        activations: [[[0; 64]; UNIT_ROWS]; 2],
        codes: [[[[0; 4]; LANES]; 16]; 2],
    };
}

thread_local! {
    static REGISTERS: RefCell<Registers> = const { RefCell::new(Registers::EMPTY) };
}

fn with<R>(f: impl FnOnce(&mut Registers) -> R) -> R {
    REGISTERS.with_borrow_mut(|registers| {
        assert!(registers.words > 0, "used outside of begin and end");
        f(registers)
    })
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract: pointers"
)]
impl MatrixUnit for Loops {
    unsafe fn begin(words: usize) {
        REGISTERS.with_borrow_mut(|registers| {
            assert_eq!(registers.words, 0, "begun twice");
            registers.words = words;
            registers.rows = if words == DOUBLE_WORDS {
                UNIT_ROWS
            } else {
                ROWS
            };
        });
    }
    unsafe fn end() {
        with(|registers| *registers = Registers::EMPTY);
    }
    unsafe fn clear<const P: usize>() {
        with(|registers| registers.products[P] = Default::default());
    }
    unsafe fn load<const P: usize>(from: *const i32, stride: usize) {
        with(|registers| {
            for (row, to) in registers.products[P][..registers.rows]
                .iter_mut()
                .enumerate()
            {
                *to = unsafe { from.add(stride * row).cast::<[i32; LANES]>().read() };
            }
        });
    }
    unsafe fn load_activations<const A: usize>(from: *const i32, stride: usize) {
        with(|registers| {
            for (row, to) in registers.activations[A][..registers.rows]
                .iter_mut()
                .enumerate()
            {
                let columns = 4 * registers.words;
                let from =
                    unsafe { std::slice::from_raw_parts(from.add(stride * row).cast(), columns) };
                to[..columns].copy_from_slice(from);
            }
        });
    }
    unsafe fn load_codes<const C: usize>(from: *const u8) {
        with(|registers| {
            for (word, to) in registers.codes[C][..registers.words].iter_mut().enumerate() {
                *to = unsafe { from.add(64 * word).cast::<[[i8; 4]; LANES]>().read() };
            }
        });
    }
    unsafe fn multiply<const P: usize, const A: usize, const C: usize>() {
        with(|registers| {
            for (row, sums) in registers.products[P][..registers.rows]
                .iter_mut()
                .enumerate()
            {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    for column in 0..4 * registers.words {
                        let a = registers.activations[A][row][column];
                        let code = registers.codes[C][column / 4][lane][column % 4];
                        *sum += i32::from(a) * i32::from(code);
                    }
                }
            }
        });
    }
    unsafe fn store<const P: usize>(to: *mut i32, stride: usize) {
        with(|registers| {
            for (row, sums) in registers.products[P][..registers.rows].iter().enumerate() {
                unsafe { to.add(stride * row).cast::<[i32; LANES]>().write(*sums) };
            }
        });
    }
}

unsafe fn row_tiles(
    task: &Tiles,
    scratch: &mut PanelScratch,
    next: [*const u8; PANELS],
    bytes: usize,
) {
    let source = Unpacked::<ScaledBytes>::new(scratch, next, bytes);
    // SAFETY: the table's contract is the kernel's.
    unsafe { matrix_row_tiles::<Portable, Loops>(task, &source) }
}

const UNIT: UnitKernels = UnitKernels {
    begin: Loops::begin,
    end: Loops::end,
    row_tiles,
};

macro_rules! class {
    ($class:ident) => {{
        unsafe fn one(
            task: &Tiles,
            scratch: &mut PanelScratch,
            next: [*const u8; PANELS],
            bytes: usize,
        ) {
            let products = scratch.products();
            let source = Unpacked::<$class>::new(scratch, next, bytes);
            // SAFETY: the table's contract is the kernel's.
            unsafe { matrix_tiles::<Portable, Loops, _, 1>(task, &source, products) }
        }
        unsafe fn two(
            task: &Tiles,
            scratch: &mut PanelScratch,
            next: [*const u8; PANELS],
            bytes: usize,
        ) {
            let products = scratch.products();
            let source = Unpacked::<$class>::new(scratch, next, bytes);
            // SAFETY: as above.
            unsafe { matrix_tiles::<Portable, Loops, _, 2>(task, &source, products) }
        }
        [one, two]
    }};
}

#[test]
fn a_matrix_unit_gives_the_bits_of_the_other_tiles() {
    let kernels = Kernels {
        int_tiles_scaled: class!(Scaled),
        int_tiles_bytes: class!(ScaledBytes),
        int_tiles_min: class!(ScaledMin),
        int_tiles_halves: class!(ScaledHalves),
        int_tiles_halves_min: class!(ScaledHalvesMin),
        packed_rows: 0,
        unit: Some(UNIT),
        ..Kernels::of(Tier::Scalar)
    };
    for dtype in types().filter(|&dtype| Packing::of(dtype).element().is_none()) {
        let (outputs, width) = (33, if dtype.block_size() == 256 { 1024 } else { 864 });
        let mut random = Random::new(9);
        let bytes = tensor_bytes(dtype, outputs * width, &mut random);
        let executor = packed(dtype, [outputs, width], &bytes, None);
        let matrix = matrix(&executor);
        let x: Vec<f32> = (0..23 * width).map(|_| random.float() * 3.0).collect();
        for precision in [Precision::Fast, Precision::Balanced] {
            for rows in [1, 2, 3, 5, 23] {
                let got = run_with(&kernels, matrix, &x, rows, precision, (None, None), 1);
                let want = run(Tier::Scalar, matrix, &x, rows, precision, None);
                let same = got
                    .iter()
                    .zip(&want)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{dtype:?} {precision:?} {rows} rows");
            }
        }
    }
}

#[test]
fn a_gated_product_on_a_matrix_unit_is_that_of_the_other_tiles() {
    let kernels = Kernels {
        int_tiles_scaled: class!(Scaled),
        packed_rows: 0,
        unit: Some(UNIT),
        ..Kernels::of(Tier::Scalar)
    };
    let (outputs, width) = (17, 864);
    let mut random = Random::new(10);
    let bytes = tensor_bytes(Dtype::Q4_0, outputs * width, &mut random);
    let part = (Dtype::Q4_0, outputs, &bytes[..]);
    let executor = crate::linear_tests::packed_parts(&[part, part], width, None);
    let x: Vec<f32> = (0..14 * width).map(|_| random.float()).collect();
    let gated = (None, Some(Activation::Silu));
    let [got, want] = [kernels, Kernels::of(Tier::Scalar)].map(|kernels| {
        run_with(
            &kernels,
            matrix(&executor),
            &x,
            14,
            Precision::Fast,
            gated,
            2,
        )
    });
    assert_eq!(got, want);
}

#[test]
fn sums_of_whole_rows_on_a_matrix_unit_are_those_of_the_other_tiles() {
    let kernels = Kernels {
        packed_rows: 0,
        unit: Some(UNIT),
        ..Kernels::of(Tier::Scalar)
    };
    // An odd number of blocks, one chunk and two; gated pairs too.
    for width in [32, 96, 864, 1536] {
        let executor = packed_by_rows(2, 17, width).executor;
        let mut random = Random::new(width as u64);
        let x: Vec<f32> = (0..47 * width).map(|_| random.float()).collect();
        for rows in [1, 2, 12, 13, 24, 25, 35, 47] {
            for gated in [None, Some(Activation::Silu)] {
                let [got, want] = [kernels, Kernels::of(Tier::Scalar)].map(|kernels| {
                    let matrix = matrix(&executor);
                    run_with(
                        &kernels,
                        matrix,
                        &x,
                        rows,
                        Precision::Fast,
                        (None, gated),
                        2,
                    )
                });
                let same = got
                    .iter()
                    .zip(&want)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{width} columns, {rows} rows, {gated:?}");
            }
        }
    }
}
