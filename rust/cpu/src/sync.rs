//! What threads meet at: the pool and the phases take all of it from here, so that `rust/schedules` can put its own in
//! this place and play the same files in every order.

use std::time::{Duration, Instant};

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub(crate) use std::thread::{Builder, JoinHandle};

/// Turns of a spin between looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

/// Spin for at most `limit`; whether `ready` came true.
pub(crate) fn spin(limit: Duration, ready: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let start = *start.get_or_insert_with(Instant::now);
        if start.elapsed() >= limit {
            return false;
        }
    }
}
