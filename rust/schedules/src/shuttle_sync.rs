//! Stands in for `rust/cpu/src/sync.rs`.

use std::time::Duration;

pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
pub(crate) use shuttle::thread::{Builder, JoinHandle};
pub(crate) use std::sync::{LockResult, PoisonError};

use shuttle::rand::{Rng, thread_rng};

/// One whose waits may end by their time.
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Shuttle knows no time: one wait in three ends at once.
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _most: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        if thread_rng().gen_bool(1.0 / 3.0) {
            return Ok((guard, true));
        }
        match self.0.wait_while(guard, condition) {
            Ok(guard) => Ok((guard, false)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), false))),
        }
    }
}

/// Looks once, lets others go on, looks again.
pub(crate) fn spin(_limit: Duration, ready: impl Fn() -> bool) -> bool {
    if ready() {
        return true;
    }
    shuttle::thread::yield_now();
    ready()
}
