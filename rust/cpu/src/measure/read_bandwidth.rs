//! What the cores read: the ceiling of kernels that wait for memory.

use std::hint::black_box;
use std::time::Instant;

use crate::arena::Mapping;
use crate::error::CpuError;
use crate::linear::source::AHEAD;
use crate::pool::Pool;

/// Bytes per second that `threads` cores read together from `bytes` of huge pages, the best of a few tries. With the
/// kernels' prefetch: without it a core reads less than they do.
///
/// # Errors
/// If the memory cannot be had.
pub(super) fn read_bandwidth(bytes: usize, threads: usize) -> Result<f64, CpuError> {
    let memory = Mapping::new(bytes, "a measurement")?;
    let words = bytes / 8 / threads / 8 * 8;
    let base = Base(memory.as_ptr().cast::<u64>());
    let pool = Pool::new(threads);
    pool.run_on_all(&|worker| {
        let base = &base;
        // SAFETY: shares do not overlap and lie within the mapping.
        unsafe { std::slice::from_raw_parts_mut(base.0.add(worker * words), words) }.fill(1);
    })?;
    let mut best = 0.0_f64;
    for _ in 0..7 {
        let start = Instant::now();
        pool.run_on_all(&|worker| {
            let base = &base;
            // SAFETY: as above.
            let share = unsafe { std::slice::from_raw_parts(base.0.add(worker * words), words) };
            let mut sums = [0_u64; 8];
            for chunk in share.chunks_exact(8) {
                prefetch(chunk.as_ptr().wrapping_byte_add(AHEAD).cast());
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*x);
                }
            }
            black_box(sums);
        })?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let read = (words * 8 * threads) as f64;
        best = best.max(read / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Asks for a cache line, where the architecture's baseline can.
fn prefetch(p: *const u8) {
    // SAFETY: a prefetch may name any address; SSE is every x86-64's.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

struct Base(*mut u64);

// SAFETY: workers touch disjoint shares.
unsafe impl Sync for Base {}
