//! AMX INT8 by inline assembly: its intrinsics are not in stable Rust.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (Intel AMX).

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::LANES;
use super::matrix_unit::{MatrixUnit, ROWS};
use crate::activations::{DOUBLE_WORDS, UNIT_ROWS};

/// Whether the processor has tiles of int8, and the system gives them to this process.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && asks_for_tiles())
}

fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let (most, features) = (__cpuid_count(0, 0).eax, __cpuid_count(7, 0).edx);
    most >= 0x1e && features & (TILE | INT8) == TILE | INT8
}

/// Linux saves the registers for processes that asked for them.
#[cfg(target_os = "linux")]
fn asks_for_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: a system call on no memory; refused where it is not known.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn asks_for_tiles() -> bool {
    false
}

/// What `ldtilecfg` reads: the shape of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
    const fn new(rows: usize, words: usize) -> Self {
        let (products, activations, codes) = (rows as u8, rows as u8, words as u8);
        let (lanes, row) = (4 * LANES as u16, 4 * words as u16);
        Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [
                lanes, lanes, lanes, lanes, row, row, lanes, lanes, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
            rows: [
                products,
                products,
                products,
                products,
                activations,
                activations,
                codes,
                codes,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
        }
    }
}

static DOUBLE_BLOCKS: Shapes = Shapes::new(UNIT_ROWS, DOUBLE_WORDS);
static BLOCKS: Shapes = Shapes::new(ROWS, 8);
static HALF_BLOCKS: Shapes = Shapes::new(ROWS, 4);

/// A line of zeros, read with a stride of 0. `tilezero` is one instruction less and much slower: a product that begins so
/// takes 61 cycles on Sapphire Rapids, not 14.
static ZEROS: Zeros = Zeros([0; LANES]);

#[repr(align(64))]
struct Zeros([i32; LANES]);

/// The registers: products in `tmm0` to `tmm3`, activations in `tmm4` and `tmm5`, codes in `tmm6` and `tmm7`.
pub(crate) struct Amx;

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: the unit, shapes and pointers"
)]
impl MatrixUnit for Amx {
    #[inline(always)]
    unsafe fn begin(words: usize) {
        let shapes = match words {
            DOUBLE_WORDS => &DOUBLE_BLOCKS,
            8 => &BLOCKS,
            _ => &HALF_BLOCKS,
        };
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn end() {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }
    #[inline(always)]
    unsafe fn clear<const P: usize>() {
        unsafe { Self::load::<P>(ZEROS.0.as_ptr(), 0) };
    }
    #[inline(always)]
    unsafe fn load<const P: usize>(from: *const i32, stride: usize) {
        unsafe {
            asm!(
                "tileloadd tmm{p}, [{from} + {stride}]",
                p = const P, from = in(reg) from, stride = in(reg) 4 * stride,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[inline(always)]
    unsafe fn load_activations<const A: usize>(from: *const i32, stride: usize) {
        unsafe {
            asm!(
                "tileloadd tmm{a}, [{from} + {stride}]",
                a = const A + 4, from = in(reg) from, stride = in(reg) 4 * stride,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[inline(always)]
    unsafe fn load_codes<const C: usize>(from: *const u8) {
        unsafe {
            asm!(
                "tileloadd tmm{c}, [{from} + {stride}]",
                c = const C + 6, from = in(reg) from, stride = in(reg) 64_usize,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[inline(always)]
    unsafe fn multiply<const P: usize, const A: usize, const C: usize>() {
        unsafe {
            asm!(
                "tdpbssd tmm{p}, tmm{a}, tmm{c}",
                p = const P, a = const A + 4, c = const C + 6,
                options(nostack, preserves_flags, nomem)
            );
        }
    }
    #[inline(always)]
    unsafe fn store<const P: usize>(to: *mut i32, stride: usize) {
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm{p}",
                p = const P, to = in(reg) to, stride = in(reg) 4 * stride,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Operations of the largest product that the registers hold.
#[cfg(feature = "measure")]
pub(crate) const LARGEST: usize = 2 * 16 * 16 * 64;

/// Four times `rounds` products of the largest size, on registers alone.
///
/// # Safety
/// The unit is available.
#[cfg(feature = "measure")]
pub(crate) unsafe fn largest_products(rounds: usize) {
    static FULL: Shapes = Shapes::new(16, 16);
    // SAFETY: the caller's unit; what the registers hold is of no meaning.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, preserves_flags, readonly));
        for _ in 0..rounds {
            Amx::multiply::<0, 0, 0>();
            Amx::multiply::<1, 0, 1>();
            Amx::multiply::<2, 1, 0>();
            Amx::multiply::<3, 1, 1>();
        }
        Amx::end();
    }
}
