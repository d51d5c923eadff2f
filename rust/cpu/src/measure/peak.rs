//! What the cores compute: the ceilings of kernels that wait for arithmetic.

use std::hint::black_box;
use std::time::Instant;

use crate::pool::Pool;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx;
use crate::simd::{Codes, Dot, Isa, LANES};
use crate::tier::Tier;

/// Operations per second of `threads` cores at nothing but int8 dot products of 5-bit codes, the best of a few tries: the
/// ceiling that integer kernels are compared with. `None` on tiers of another architecture.
pub(super) fn int8_peak(tier: Tier, threads: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if tier == Tier::Amx {
        return best(threads, amx::LARGEST, products);
    }
    best(threads, 128, loops_of(tier)?.dots)
}

/// Operations per second of `threads` cores at nothing but fused multiply-adds of f32, as [`int8_peak`]: the ceiling of
/// float panels.
pub(super) fn float_peak(tier: Tier, threads: usize) -> Option<f64> {
    best(threads, 2 * LANES, loops_of(tier)?.fmas)
}

/// The best of a few runs on all threads, in operations per second.
fn best(threads: usize, operations: usize, run: unsafe fn(usize)) -> Option<f64> {
    let pool = Pool::new(threads);
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        // SAFETY: the tier is available, or the executor would have refused it.
        pool.run_on_all(&|_| unsafe { run(ROUNDS) }).ok()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let operations = (ROUNDS * CHAINS * operations * threads) as f64;
        best = best.max(operations / start.elapsed().as_secs_f64());
    }
    Some(best)
}

/// As many products as the other loops have results.
#[cfg(target_arch = "x86_64")]
unsafe fn products(rounds: usize) {
    // SAFETY: the caller's tier.
    unsafe { amx::largest_products(rounds * CHAINS / 4) };
}

/// Rounds of a measurement.
const ROUNDS: usize = 400_000;
/// Independent results in flight: latency times throughput of every core so far, with room.
const CHAINS: usize = 16;

/// Codes of five bits, as most layouts have.
struct FiveBits;

impl Codes for FiveBits {
    const MAX_CODE: u8 = 31;
}

/// The loops of one tier.
struct Loops {
    dots: unsafe fn(usize),
    fmas: unsafe fn(usize),
}

fn loops_of(tier: Tier) -> Option<Loops> {
    match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Amx | Tier::Avx512Vnni => Some(avx512vnni::LOOPS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => Some(avx512::LOOPS),
        #[cfg(target_arch = "x86_64")]
        Tier::AvxVnni => Some(avxvnni::LOOPS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => Some(avx2::LOOPS),
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => Some(neon::LOOPS),
        Tier::Scalar => Some(scalar::LOOPS),
        // Tiers of another architecture.
        _ => None,
    }
}

/// One module per tier, with its features.
macro_rules! tier {
    ($tier:ident, $isa:ident, $features:literal) => {
        mod $tier {
            use crate::simd::$isa;

            #[target_feature(enable = $features)]
            unsafe fn dots(rounds: usize) {
                // SAFETY: the features are enabled here.
                unsafe { super::dots::<$isa>(rounds) }
            }
            #[target_feature(enable = $features)]
            unsafe fn fmas(rounds: usize) {
                // SAFETY: as above.
                unsafe { super::fmas::<$isa>(rounds) }
            }
            pub(super) const LOOPS: super::Loops = super::Loops { dots, fmas };
        }
    };
}
crate::simd::for_each_tier!(tier);

#[inline(always)]
unsafe fn dots<I: Isa>(rounds: usize) {
    // SAFETY: no pointers; the features are the caller's.
    unsafe {
        let codes = [1, 3, 5, 7].map(|x| (I::b_set(black_box(x)), I::b_set(black_box(x + 1))));
        let mut activations = [(0x0102_0304, 0x0506_0708); CHAINS];
        let mut sums = [I::i_set(0); CHAINS];
        // Eight products of 32 columns each, as in the kernels.
        for _ in 0..rounds / 8 {
            black_box(&mut activations);
            for chain in 0..CHAINS {
                let mut dots = I::Dot::start(0);
                for codes in codes {
                    dots = I::Dot::dot4::<FiveBits>(dots, codes.0, activations[chain].0);
                    dots = I::Dot::dot4::<FiveBits>(dots, codes.1, activations[chain].1);
                }
                sums[chain] = I::i_add(sums[chain], I::Dot::finish(dots));
            }
        }
        black_box(sums);
    }
}

#[inline(always)]
unsafe fn fmas<I: Isa>(rounds: usize) {
    // SAFETY: no pointers; the features are the caller's.
    unsafe {
        let factor = I::set(black_box(0.999));
        let mut sums = [I::set(black_box(1.0)); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = I::fma(*sum, factor, factor);
            }
        }
        black_box(sums);
    }
}
