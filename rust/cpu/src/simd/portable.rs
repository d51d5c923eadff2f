//! Plain Rust on arrays: the oracle of every other tier.

use half::{bf16, f16};

use super::{Codes, Dot, Isa, LANES};

/// Needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: pointers are valid"
)]
impl Isa for Portable {
    const ACCUMULATORS: usize = 1;
    type Dot = PortableDot;
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];

    #[inline(always)]
    unsafe fn zero() -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn set(x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 16] {
        unsafe { p.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: [f32; 16]) {
        unsafe { p.cast::<[f32; 16]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> [f32; 16] {
        let mut x = [0.0; 16];
        unsafe { std::ptr::copy_nonoverlapping(p, x.as_mut_ptr(), n) };
        x
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, x: [f32; 16], n: usize) {
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), p, n) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> [f32; 16] {
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        map1(bits, |x| f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: [f32; 16]) {
        let bits = map1(x, |x| f16::from_f32(x).to_bits());
        unsafe { p.cast::<[u16; 16]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> [f32; 16] {
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        map1(bits, |x| bf16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_half_e8m0(p: *const u8) -> [f32; 16] {
        let exponents = unsafe { p.cast::<[u8; 16]>().read_unaligned() };
        map1(exponents, |x| {
            let x = u32::from(x);
            f32::from_bits(if x < 2 {
                0x0020_0000 << x
            } else {
                (x - 1) << 23
            })
        })
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        let mut out = [0.0; 16];
        for i in 0..LANES {
            out[i] = a[i].mul_add(b[i], c[i]);
        }
        out
    }
    /// The second operand where either is NaN, like `minps`.
    #[inline(always)]
    unsafe fn min(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    /// The second operand where either is NaN, like `maxps`.
    #[inline(always)]
    unsafe fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: [f32; 16]) -> [f32; 16] {
        map1(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 16]) -> f32 {
        fold(a, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn max_lane(a: [f32; 16]) -> f32 {
        fold(a, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn select_range(lo: usize, hi: usize, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        let mut out = b;
        for i in 0..LANES {
            if lo <= i && i < hi {
                out[i] = a[i];
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 16]) -> [i32; 16] {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the trait's contract: within i32"
        )]
        map1(a, |x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn to_f(a: [i32; 16]) -> [f32; 16] {
        #[expect(
            clippy::cast_precision_loss,
            reason = "rounded to nearest even, like the hardware"
        )]
        map1(a, |x| x as f32)
    }
    #[inline(always)]
    unsafe fn exp2i(n: [i32; 16]) -> [f32; 16] {
        // Wrapping, like the hardware: in a row that holds a NaN the maximum may be anybody's.
        map1(n, |n| {
            f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned())
        })
    }
    #[inline(always)]
    unsafe fn i_set(x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn i_add(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        let mut out = [0; 16];
        for i in 0..LANES {
            out[i] = a[i].wrapping_add(b[i]);
        }
        out
    }
    #[inline(always)]
    unsafe fn i_and(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        let mut out = [0; 16];
        for i in 0..LANES {
            out[i] = a[i] & b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn i_shl<const N: u32>(a: [i32; 16]) -> [i32; 16] {
        map1(a, |x| x << N)
    }
    #[inline(always)]
    unsafe fn i_shr(a: [i32; 16], n: u32) -> [i32; 16] {
        map1(a, |x| (x.cast_unsigned() >> n).cast_signed())
    }
    #[inline(always)]
    unsafe fn i_load(p: *const i32) -> [i32; 16] {
        unsafe { p.cast::<[i32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn i_load_i8(p: *const i8) -> [i32; 16] {
        map1(unsafe { p.cast::<[i8; 16]>().read_unaligned() }, i32::from)
    }
    #[inline(always)]
    unsafe fn i_load_u8(p: *const u8) -> [i32; 16] {
        map1(unsafe { p.cast::<[u8; 16]>().read_unaligned() }, i32::from)
    }
    #[inline(always)]
    unsafe fn i_store_i8(p: *mut i8, x: [i32; 16]) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low byte is what is stored"
        )]
        let bytes = map1(x, |x| x as i8);
        unsafe { p.cast::<[i8; 16]>().write_unaligned(bytes) }
    }
    #[inline(always)]
    unsafe fn byte_to_f(a: [u8; 64], n: usize) -> [f32; 16] {
        let mut out = [0.0; 16];
        for i in 0..LANES {
            out[i] = f32::from(a[4 * i + n]);
        }
        out
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_to_write(_p: *const u8) {}
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> [u8; 64] {
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, x: [u8; 64]) {
        unsafe { p.cast::<[u8; 64]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn b_set(x: u8) -> [u8; 64] {
        [x; 64]
    }
    #[inline(always)]
    unsafe fn b_and(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn b_or(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn b_sub(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn b_shr<const N: u32>(a: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i] >> N)
    }
    #[inline(always)]
    unsafe fn b_shl<const N: u32>(a: [u8; 64]) -> [u8; 64] {
        bytes(|i| a[i] << N)
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], index: [u8; 64]) -> [u8; 64] {
        bytes(|i| table[usize::from(index[i] & 15)])
    }
    #[inline(always)]
    unsafe fn b_mask(mask: u64, x: u8) -> [u8; 64] {
        bytes(|i| if mask >> i & 1 == 1 { x } else { 0 })
    }
}

/// Products in plain integers.
#[derive(Clone, Copy)]
pub(crate) struct PortableDot;

impl Dot for PortableDot {
    const SIGNED_BYTES: bool = false;
    const CHAINS: usize = 1;
    const PARTS: usize = 1;
    type B = [u8; 64];
    type I = [i32; 16];
    type Sums = [i32; 16];

    #[inline(always)]
    unsafe fn start(start: i32) -> [i32; 16] {
        [start; 16]
    }
    #[inline(always)]
    unsafe fn dot4<C: Codes>(sums: [i32; 16], codes: [u8; 64], activations: i32) -> [i32; 16] {
        let a = activations.to_le_bytes();
        let mut out = sums;
        for i in 0..LANES {
            let mut sum = 0;
            for j in 0..4 {
                sum += i32::from(codes[4 * i + j]) * i32::from(a[j].cast_signed());
            }
            out[i] = out[i].wrapping_add(sum);
        }
        out
    }
    #[inline(always)]
    unsafe fn finish(sums: [i32; 16]) -> [i32; 16] {
        sums
    }
}

#[inline(always)]
fn map1<A: Copy, B: Copy + Default>(a: [A; 16], f: impl Fn(A) -> B) -> [B; 16] {
    let mut out = [B::default(); 16];
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn map2(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    let mut out = [0.0; 16];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn bytes(f: impl Fn(usize) -> u8) -> [u8; 64] {
    let mut out = [0; 64];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = f(i);
    }
    out
}

/// The tree of [`Isa::sum`]: lanes `i` and `i + 8`, then 4, 2, 1.
#[inline(always)]
fn fold(mut a: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            a[i] = f(a[i], a[i + half]);
        }
        half /= 2;
    }
    a[0]
}
