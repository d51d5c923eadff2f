//! Every operation of every tier that this machine runs against `Portable`, bit for bit (a NaN is a NaN): on values at
//! the edges of their types, and with memory that ends where the operation must stop reading.
#![expect(
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    reason = "random bits are cut to size, and compared as they are"
)]

use std::mem::transmute_copy;

use half::f16;

use super::{Codes, Dot, Isa, LANES, Portable, for_each_tier};
use crate::random_weights::Random;
use crate::tier::Tier;

/// One function per tier, with its features, and the list of them by name.
macro_rules! on_every_tier {
    ($(#[$meta:meta])* fn $test:ident = $check:ident) => {
        #[test]
        fn $test() {
            let mut ran = Vec::new();
            macro_rules! tier {
                ($tier:ident, $isa:ident, $features:literal) => {{
                    #[target_feature(enable = $features)]
                    unsafe fn run() {
                        // SAFETY: the features are enabled here.
                        unsafe { $check::<crate::simd::$isa>() }
                    }
                    let name = stringify!($tier);
                    if Tier::available().iter().any(|tier| tier.name() == name) {
                        // SAFETY: the tier is available.
                        unsafe { run() };
                        ran.push(name);
                    }
                }};
            }
            for_each_tier!(tier);
            // `amx` is `avx512vnni` with a matrix unit, which is no operation of `Isa`.
            let mut tiers = Tier::available();
            tiers.retain(|&tier| tier != Tier::Amx);
            let names: Vec<_> = tiers.iter().map(|tier| tier.name()).collect();
            assert_eq!(ran, names);
        }
    };
}

on_every_tier! { fn float_operations_are_the_same = floats }
on_every_tier! { fn reductions_and_selections_are_the_same = reductions }
on_every_tier! { fn conversions_are_the_same = conversions }
on_every_tier! { fn half_floats_are_converted_alike = half_floats }
on_every_tier! { fn integer_and_byte_operations_are_the_same = integers }
on_every_tier! { fn parts_of_vectors_stay_within_their_memory = memory }
on_every_tier! { fn products_are_exact_for_every_size_of_code = products }

type Floats = [f32; LANES];

/// Lanes in order: all vector types are 64 bytes.
unsafe fn lanes<V, T: Copy>(x: V) -> [T; LANES] {
    assert_eq!((size_of::<V>(), size_of::<[T; LANES]>()), (64, 64));
    // SAFETY: sizes are equal, and any bits are a number.
    unsafe { transmute_copy(&x) }
}

fn bytes<V>(x: V) -> [u8; 64] {
    // SAFETY: as above.
    unsafe { transmute_copy(&x) }
}

#[track_caller]
fn same(got: Floats, want: Floats, what: &str) {
    for i in 0..LANES {
        let equal = got[i].to_bits() == want[i].to_bits() || got[i].is_nan() && want[i].is_nan();
        assert!(equal, "{what}, lane {i}: {} instead of {}", got[i], want[i]);
    }
}

const EDGES: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-40,
    -1e-45,
    65504.0,
    65520.0,
    -65519.996,
    5.960_464_5e-8,
    2.980_232_2e-8,
    1.000_488_3,
    0.333_333_34,
    -2.5,
    127.5,
    1e30,
    -1e-30,
    16_777_216.0,
];

/// Edges and random numbers of all magnitudes, each lane another.
fn values(random: &mut Random) -> Floats {
    std::array::from_fn(|_| match random.next() % 3 {
        0 => EDGES[random.next() as usize % EDGES.len()],
        1 => random.float() * 100.0,
        _ => f32::from_bits((random.next() >> 32) as u32),
    })
}

#[inline(always)]
unsafe fn floats<I: Isa>() {
    let mut random = Random::new(1);
    for _ in 0..2000 {
        let (a, b, c) = (
            values(&mut random),
            values(&mut random),
            values(&mut random),
        );
        // SAFETY: 16 floats each; features of the caller.
        unsafe {
            let (x, y, z) = (
                I::load(a.as_ptr()),
                I::load(b.as_ptr()),
                I::load(c.as_ptr()),
            );
            type P = Portable;
            same(lanes(I::add(x, y)), P::add(a, b), "add");
            same(lanes(I::sub(x, y)), P::sub(a, b), "sub");
            same(lanes(I::mul(x, y)), P::mul(a, b), "mul");
            same(lanes(I::div(x, y)), P::div(a, b), "div");
            same(lanes(I::fma(x, y, z)), P::fma(a, b, c), "fma");
            same(lanes(I::min(x, y)), P::min(a, b), "min");
            same(lanes(I::max(x, y)), P::max(a, b), "max");
            same(lanes(I::abs(x)), P::abs(a), "abs");
            same(lanes(I::set(a[0])), [a[0]; LANES], "set");
            same(lanes(I::zero()), [0.0; LANES], "zero");
        }
    }
}

#[inline(always)]
unsafe fn reductions<I: Isa>() {
    let mut random = Random::new(2);
    let scalar = |x: f32| [x; LANES];
    for round in 0..500 {
        let (mut a, b) = (values(&mut random), values(&mut random));
        if round % 2 == 0 {
            a = std::array::from_fn(|_| random.float() * 10.0);
        }
        // SAFETY: 16 floats each; features of the caller.
        unsafe {
            let (x, y) = (I::load(a.as_ptr()), I::load(b.as_ptr()));
            same(scalar(I::sum(x)), scalar(Portable::sum(a)), "sum");
            same(
                scalar(I::max_lane(x)),
                scalar(Portable::max_lane(a)),
                "max_lane",
            );
            for lo in 0..=LANES {
                for hi in 0..=LANES {
                    let want = Portable::select_range(lo, hi, a, b);
                    same(lanes(I::select_range(lo, hi, x, y)), want, "select_range");
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn conversions<I: Isa>() {
    let mut random = Random::new(3);
    for round in 0..2000_u32 {
        let a: Floats = std::array::from_fn(|i| match round % 3 {
            // Ties, and numbers that are whole already.
            0 => (f32::from(random.next() as i16) + [0.5, 0.0][i % 2]) * [1.0, 1e4][i / 8],
            _ => random.float() * 2e9,
        });
        let n: [i32; LANES] = std::array::from_fn(|_| (random.next() >> 32) as i32);
        let power: [i32; LANES] = std::array::from_fn(|_| (random.next() % 254) as i32 - 126);
        // SAFETY: 16 lanes each; features of the caller.
        unsafe {
            let round: [i32; LANES] = lanes(I::round(I::load(a.as_ptr())));
            assert_eq!(round, Portable::round(a), "{a:?}");
            same(lanes(I::to_f(ints::<I>(n))), Portable::to_f(n), "to_f");
            same(
                lanes(I::exp2i(ints::<I>(power))),
                Portable::exp2i(power),
                "exp2i",
            );
            let mut stored = [0_i8; LANES];
            I::i_store_i8(stored.as_mut_ptr(), ints::<I>(n));
            assert_eq!(stored, n.map(|n| n as i8));
        }
    }
}

/// The vector of these lanes.
unsafe fn ints<I: Isa>(n: [i32; LANES]) -> I::I {
    assert_eq!(size_of::<I::I>(), 64);
    // SAFETY: sizes are equal, and any bits are integers.
    unsafe { transmute_copy(&n) }
}

#[inline(always)]
unsafe fn half_floats<I: Isa>() {
    for first in (0..=u16::MAX).step_by(LANES) {
        let bits: [u16; LANES] = std::array::from_fn(|i| first + i as u16);
        // SAFETY: 16 half floats; features of the caller.
        unsafe {
            let want = bits.map(|x| f16::from_bits(x).to_f32());
            same(lanes(I::load_f16(bits.as_ptr())), want, "load_f16");
            let want = bits.map(|x| f32::from_bits(u32::from(x) << 16));
            same(lanes(I::load_bf16(bits.as_ptr())), want, "load_bf16");
        }
    }
    let mut random = Random::new(4);
    for round in 0..20_000_u32 {
        let a: Floats = if round % 2 == 0 {
            values(&mut random)
        } else {
            // Halfway between two half floats, and next to it.
            std::array::from_fn(|_| {
                let x = f16::from_bits(random.next() as u16).to_f32().to_bits();
                f32::from_bits((x | 0x1000) - 1 + (random.next() % 3) as u32)
            })
        };
        let mut stored = [0_u16; LANES];
        // SAFETY: 16 half floats; features of the caller.
        unsafe { I::store_f16(stored.as_mut_ptr(), I::load(a.as_ptr())) };
        let got = stored.map(|x| f16::from_bits(x).to_f32());
        same(got, a.map(|x| f16::from_f32(x).to_f32()), "store_f16");
    }
    for first in (0..=u8::MAX).step_by(LANES) {
        let exponents: [u8; LANES] = std::array::from_fn(|i| first + i as u8);
        // SAFETY: 16 bytes; features of the caller.
        unsafe {
            let want = Portable::load_half_e8m0(exponents.as_ptr());
            same(
                lanes(I::load_half_e8m0(exponents.as_ptr())),
                want,
                "load_half_e8m0",
            );
        }
    }
}

#[inline(always)]
unsafe fn integers<I: Isa>() {
    type P = Portable;
    let mut random = Random::new(5);
    for _ in 0..1000 {
        let mut word = || (random.next() >> 32) as i32;
        let (a, b): ([i32; LANES], [i32; LANES]) = (
            std::array::from_fn(|_| word()),
            std::array::from_fn(|_| word()),
        );
        let (mask, byte) = (random.next(), random.next() as u8);
        let mut byte_of = || random.next() as u8;
        let (u, v): ([u8; 64], [u8; 64]) = (
            std::array::from_fn(|_| byte_of()),
            std::array::from_fn(|_| byte_of()),
        );
        let table: [u8; 16] = std::array::from_fn(|i| v[i]);
        // SAFETY: 16 lanes and 64 bytes each; features of the caller.
        unsafe {
            let (x, y) = (ints::<I>(a), ints::<I>(b));
            assert_eq!(lanes::<_, i32>(I::i_add(x, y)), P::i_add(a, b));
            assert_eq!(lanes::<_, i32>(I::i_and(x, y)), P::i_and(a, b));
            assert_eq!(lanes::<_, i32>(I::i_set(a[0])), [a[0]; LANES]);
            assert_eq!(lanes::<_, i32>(I::i_shl::<0>(x)), a);
            assert_eq!(lanes::<_, i32>(I::i_shl::<8>(x)), P::i_shl::<8>(a));
            assert_eq!(lanes::<_, i32>(I::i_shl::<31>(x)), P::i_shl::<31>(a));
            for n in 0..32 {
                assert_eq!(lanes::<_, i32>(I::i_shr(x, n)), P::i_shr(a, n), "{n}");
            }
            let from = u.as_ptr();
            assert_eq!(lanes::<_, i32>(I::i_load_u8(from)), P::i_load_u8(from));
            let from = from.cast();
            assert_eq!(lanes::<_, i32>(I::i_load_i8(from)), P::i_load_i8(from));
            assert_eq!(lanes::<_, i32>(I::i_load(a.as_ptr())), a);
            let (p, q) = (I::b_load(u.as_ptr()), I::b_load(v.as_ptr()));
            for n in 0..4 {
                same(lanes(I::byte_to_f(p, n)), P::byte_to_f(u, n), "byte_to_f");
            }
            assert_eq!(bytes(I::b_and(p, q)), P::b_and(u, v));
            assert_eq!(bytes(I::b_or(p, q)), P::b_or(u, v));
            assert_eq!(bytes(I::b_sub(p, q)), P::b_sub(u, v));
            assert_eq!(bytes(I::b_set(byte)), [byte; 64]);
            assert_eq!(bytes(I::b_mask(mask, byte)), P::b_mask(mask, byte));
            let nibbles = P::b_and(u, [15; 64]);
            let looked_up = I::b_lookup(&table, I::b_load(nibbles.as_ptr()));
            assert_eq!(bytes(looked_up), P::b_lookup(&table, nibbles));
            macro_rules! shifts {
                ($($n:literal)*) => {$(
                    // Bits that come from a neighbour are the caller's to mask.
                    let down = I::b_and(I::b_shr::<$n>(p), I::b_set(0xff >> $n));
                    assert_eq!(bytes(down), P::b_shr::<$n>(u), "{}", $n);
                    let up = I::b_and(I::b_shl::<$n>(p), I::b_set(0xff << $n));
                    assert_eq!(bytes(up), P::b_shl::<$n>(u), "{}", $n);
                )*};
            }
            shifts! { 1 2 3 4 5 6 7 }
            let mut stored = [0; 64];
            I::b_store(stored.as_mut_ptr(), p);
            assert_eq!(stored, u);
        }
    }
}

/// A page followed by one that may not be touched.
struct Guarded(*mut u8);

impl Guarded {
    const PAGE: usize = 1 << 16; // a multiple of every page size

    fn new() -> Self {
        // SAFETY: a new mapping; its second half is closed.
        unsafe {
            let (access, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            let base = libc::mmap(std::ptr::null_mut(), 2 * Self::PAGE, access, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let end = base.cast::<u8>().add(Self::PAGE);
            assert_eq!(libc::mprotect(end.cast(), Self::PAGE, libc::PROT_NONE), 0);
            Self(base.cast())
        }
    }

    /// Where the last `count` values before the closed page begin.
    fn last<T>(&self, count: usize) -> *mut T {
        self.0
            .wrapping_add(Self::PAGE - count * size_of::<T>())
            .cast()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.0.cast(), 2 * Self::PAGE) };
    }
}

#[inline(always)]
unsafe fn memory<I: Isa>() {
    let guarded = Guarded::new();
    let a: Floats = std::array::from_fn(|i| i as f32 + 1.0);
    // SAFETY: `last` gives as much memory as each operation names; features of the caller.
    unsafe {
        for n in 0..LANES {
            let p = guarded.last::<f32>(n);
            for (i, x) in a[..n].iter().enumerate() {
                *p.add(i) = *x;
            }
            let want = std::array::from_fn(|i| if i < n { a[i] } else { 0.0 });
            same(lanes(I::load_first(p, n)), want, "load_first");
            let before = p.sub(1);
            *before = -1.0;
            for i in 0..n {
                *p.add(i) = 0.0;
            }
            I::store_first(p, I::load(a.as_ptr()), n);
            assert_eq!(*before, -1.0);
            for (i, x) in a[..n].iter().enumerate() {
                assert_eq!(*p.add(i), *x);
            }
            // Lanes beyond the first `n` are not written where they could be.
            let mut whole = [9.0; LANES];
            I::store_first(whole.as_mut_ptr(), I::load(a.as_ptr()), n);
            let want = std::array::from_fn(|i| if i < n { a[i] } else { 9.0 });
            same(whole, want, "store_first");
        }
        let x = I::load(a.as_ptr());
        I::store(guarded.last(LANES), x);
        same(lanes(I::load(guarded.last(LANES))), a, "load");
        I::store_f16(guarded.last(LANES), x);
        same(lanes(I::load_f16(guarded.last(LANES))), a, "load_f16");
        I::load_bf16(guarded.last(LANES));
        I::load_half_e8m0(guarded.last(LANES));
        I::i_load(guarded.last(LANES));
        I::i_store_i8(guarded.last(LANES), I::i_set(-7));
        assert_eq!(
            lanes::<_, i32>(I::i_load_i8(guarded.last(LANES))),
            [-7; LANES]
        );
        assert_eq!(
            lanes::<_, i32>(I::i_load_u8(guarded.last(LANES))),
            [249; LANES]
        );
        I::b_store(guarded.last(64), I::b_set(3));
        assert_eq!(bytes(I::b_load(guarded.last(64))), [3; 64]);
    }
}

/// 64 columns of codes and activations against sums in 64 bits.
#[inline(always)]
unsafe fn products<I: Isa>() {
    macro_rules! sizes {
        ($($name:ident $max:literal)*) => {$(
            struct $name;
            impl Codes for $name {
                const MAX_CODE: u8 = $max;
            }
            // SAFETY: features of the caller.
            unsafe { products_of::<I, $name>() };
        )*};
    }
    sizes! { Three 3 Fifteen 15 ThirtyOne 31 ThirtyFive 35 SixtyThree 63 Seven 127 Most 241 All 255 }
}

#[inline(always)]
unsafe fn products_of<I: Isa, C: Codes>() {
    let mut random = Random::new(6);
    for round in 0..400_u32 {
        let code = |random: &mut Random| match round % 4 {
            0 => C::MAX_CODE,
            1 => 0,
            2 => [0, C::MAX_CODE][random.next() as usize % 2],
            _ => (random.next() % (u64::from(C::MAX_CODE) + 1)) as u8,
        };
        let activation = |random: &mut Random| match round / 4 % 4 {
            0 => 127,
            1 => -127,
            2 => [-127, 127][random.next() as usize % 2],
            _ => (random.next() % 255) as i32 as i8 as i32 % 128,
        };
        let start = if C::MAX_CODE > 127 {
            0
        } else {
            (random.next() >> 40) as i32 - (1 << 23)
        };
        // Also a lower plane's -128.
        for low in [false, true] {
            let mut want = [i64::from(start); LANES];
            // SAFETY: features of the caller.
            unsafe {
                let mut sums = I::Dot::start(start);
                for _ in 0..8 {
                    let codes: [[u8; 64]; 2] =
                        std::array::from_fn(|_| std::array::from_fn(|_| code(&mut random)));
                    let quads: [[i8; 4]; 2] = std::array::from_fn(|_| {
                        std::array::from_fn(|_| {
                            let a = activation(&mut random);
                            if low && a == -127 { -128 } else { a as i8 }
                        })
                    });
                    let signed = I::Dot::SIGNED_BYTES && C::MAX_CODE > 127;
                    let zero = if signed { 128 } else { 0 };
                    for (codes, quad) in codes.iter().zip(&quads) {
                        for (i, code) in codes.iter().enumerate() {
                            want[i / 4] += (i64::from(*code) - zero) * i64::from(quad[i % 4]);
                        }
                    }
                    for (codes, quad) in codes.iter().zip(quads) {
                        let codes = I::b_load(codes.as_ptr());
                        let word = i32::from_le_bytes(quad.map(|a| a as u8));
                        sums = if low {
                            I::Dot::dot4_low::<C>(sums, codes, word)
                        } else {
                            I::Dot::dot4::<C>(sums, codes, word)
                        };
                    }
                }
                let got: [i32; LANES] = lanes(I::Dot::finish(sums));
                assert_eq!(
                    got.map(i64::from),
                    want,
                    "codes up to {}, round {round}",
                    C::MAX_CODE
                );
            }
        }
    }
}
