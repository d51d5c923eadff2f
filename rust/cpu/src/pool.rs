//! The executor's threads. The calling thread is worker 0; the others spin while a step runs and shortly after, then
//! sleep, and end after some idle seconds: an idle model has no running thread. None starts before the first step.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::CpuError;

/// Turns of a spin before the thread sleeps (after a step) or yields (within one).
const SPINS_BEFORE_SLEEP: u32 = 20_000;
const SPINS_BEFORE_YIELD: u32 = 2_000;
/// How long a sleeping worker waits before it ends.
const IDLE: Duration = Duration::from_secs(3);

/// A step's work: called once per worker with its index.
type Job = dyn Fn(usize) + Sync;

/// State shared with the workers.
struct Shared {
    /// Increases with every job.
    generation: AtomicU32,
    /// Workers still running the current job.
    running: AtomicUsize,
    /// The job and the sleepers' wake-up; `None` between jobs.
    job: Mutex<Slot>,
    wake: Condvar,
    /// A worker panicked during the current job.
    failed: AtomicBool,
    message: Mutex<Option<String>>,
    barrier: Barrier,
    closing: AtomicBool,
}

/// What a waking worker finds.
struct Slot {
    job: Option<JobPointer>,
    generation: u32,
    /// Whether worker `i + 1` is running or will pick up the next job. A worker that ends clears it under the lock.
    alive: Vec<bool>,
}

/// A job whose lifetime `Pool::run` guarantees by not returning before all workers have left it.
#[derive(Clone, Copy)]
struct JobPointer(*const Job);

// SAFETY: the pointee is `Sync`, and `Pool::run` keeps it alive while workers hold the pointer.
unsafe impl Send for JobPointer {}

/// A sense-reversing barrier on one counter.
struct Barrier {
    arrived: AtomicUsize,
    sense: AtomicU32,
}

/// The threads of one executor.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    size: usize,
    /// Serialises steps, and holds the handles of worker `i + 1` at `i`.
    workers: Mutex<Vec<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `size` workers, the caller included. Starts no thread.
    pub(crate) fn new(size: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                generation: AtomicU32::new(0),
                running: AtomicUsize::new(0),
                job: Mutex::new(Slot {
                    job: None,
                    generation: 0,
                    alive: vec![false; size.saturating_sub(1)],
                }),
                wake: Condvar::new(),
                failed: AtomicBool::new(false),
                message: Mutex::new(None),
                barrier: Barrier {
                    arrived: AtomicUsize::new(0),
                    sense: AtomicU32::new(0),
                },
                closing: AtomicBool::new(false),
            }),
            size,
            workers: Mutex::new((1..size).map(|_| None).collect()),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Run `job` on every worker and wait for all. Jobs meet at [`Pool::barrier`].
    pub(crate) fn run(&self, job: &(dyn Fn(usize) + Sync)) -> Result<(), CpuError> {
        let mut workers = lock(&self.workers);
        let shared = &self.shared;
        shared.failed.store(false, Ordering::Relaxed);
        shared.barrier.arrived.store(0, Ordering::Relaxed);
        if self.size > 1 {
            // SAFETY: only the lifetime is erased; this function returns after every worker has left the job.
            let job: &'static Job =
                unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync + '_), &'static Job>(job) };
            let pointer = JobPointer(std::ptr::from_ref(job));
            shared.running.store(self.size - 1, Ordering::Relaxed);
            let (missing, before) = {
                let mut slot = lock(&shared.job);
                let before = slot.generation;
                slot.generation = before.wrapping_add(1);
                slot.job = Some(pointer);
                shared.generation.store(slot.generation, Ordering::Release);
                shared.wake.notify_all();
                let missing: Vec<usize> =
                    (0..slot.alive.len()).filter(|&i| !slot.alive[i]).collect();
                (missing, before)
            };
            for i in missing {
                self.start(i, before, &mut workers);
            }
        }
        shared.run_job(job, 0);
        let mut spins = 0;
        while shared.running.load(Ordering::Acquire) > 0 {
            relax(&mut spins);
        }
        lock(&shared.job).job = None;
        if shared.failed.load(Ordering::Acquire) {
            let message = lock(&shared.message).take().unwrap_or_default();
            return Err(CpuError::Panic { message });
        }
        Ok(())
    }

    /// Start worker `i + 1`, which never ran or has ended; it picks up the job after generation `before`.
    fn start(&self, i: usize, before: u32, workers: &mut [Option<JoinHandle<()>>]) {
        lock(&self.shared.job).alive[i] = true;
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name(format!("inferlib-{}", i + 1))
            .spawn(move || shared.work(i + 1, before));
        match spawned {
            Ok(handle) => {
                if let Some(ended) = workers[i].replace(handle) {
                    let _ = ended.join(); // a worker's panic was already reported by `run`
                }
            }
            Err(error) => {
                // The job cannot complete without this worker: fail it instead of waiting for ever.
                lock(&self.shared.job).alive[i] = false;
                self.shared.fail(format!("cannot start a thread: {error}"));
                self.shared.running.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Wait until all workers of the current job are here. Called by each of them equally often.
    ///
    /// # Panics
    /// If another worker panicked: the job is over.
    pub(crate) fn barrier(&self) {
        if self.size > 1 {
            self.shared.barrier_wait(self.size);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        {
            let mut slot = lock(&self.shared.job);
            slot.generation = slot.generation.wrapping_add(1);
            self.shared
                .generation
                .store(slot.generation, Ordering::Release);
            self.shared.wake.notify_all();
        }
        for handle in lock(&self.workers).drain(..).flatten() {
            let _ = handle.join(); // a worker's panic was already reported by `run`
        }
    }
}

impl Shared {
    /// A worker's life: wait for a generation after `seen`, run its job, repeat; end when idle or closing.
    fn work(&self, index: usize, mut seen: u32) {
        loop {
            let mut spins = 0;
            while self.generation.load(Ordering::Acquire) == seen {
                spins += 1;
                if spins < SPINS_BEFORE_SLEEP {
                    std::hint::spin_loop();
                    continue;
                }
                let slot = lock(&self.job);
                if slot.generation != seen {
                    break;
                }
                let (mut slot, _) = self
                    .wake
                    .wait_timeout_while(slot, IDLE, |slot| slot.generation == seen)
                    .unwrap_or_else(PoisonError::into_inner);
                if slot.generation == seen {
                    slot.alive[index - 1] = false; // the next `run` starts another
                    return;
                }
            }
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            let (job, generation) = {
                let slot = lock(&self.job);
                (slot.job, slot.generation)
            };
            seen = generation;
            if let Some(JobPointer(job)) = job {
                // SAFETY: `Pool::run` waits for this worker before the job's lifetime ends.
                self.run_job(unsafe { &*job }, index);
                self.running.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    fn run_job(&self, job: &(dyn Fn(usize) + Sync), index: usize) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index))) {
            self.fail(panic_text(panic.as_ref()));
        }
    }

    fn fail(&self, message: String) {
        lock(&self.message).get_or_insert(message);
        self.failed.store(true, Ordering::Release);
    }

    fn barrier_wait(&self, size: usize) {
        let barrier = &self.barrier;
        let sense = barrier.sense.load(Ordering::Relaxed);
        if barrier.arrived.fetch_add(1, Ordering::AcqRel) + 1 == size {
            barrier.arrived.store(0, Ordering::Relaxed);
            barrier
                .sense
                .store(sense.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while barrier.sense.load(Ordering::Acquire) == sense {
            assert!(
                !self.failed.load(Ordering::Relaxed),
                "another worker failed"
            );
            relax(&mut spins);
        }
    }
}

fn relax(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Cores that this thread may use: the affinity mask, capped by the cgroup's CPU quota.
#[must_use]
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once_and_barriers_order_the_phases() {
        for size in [1, 2, 3, 8] {
            let pool = Pool::new(size);
            for _ in 0..50 {
                let first = AtomicUsize::new(0);
                let wrong = AtomicUsize::new(0);
                pool.run(&|_| {
                    for phase in 1..=5 {
                        first.fetch_add(1, Ordering::Relaxed);
                        pool.barrier();
                        if first.load(Ordering::Relaxed) != phase * size {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                        pool.barrier();
                    }
                })
                .expect("no worker panics");
                assert_eq!(wrong.load(Ordering::Relaxed), 0);
            }
        }
    }

    #[test]
    fn a_panic_fails_the_job_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        let result = pool.run(&|worker| {
            assert!(worker != 1, "worker one");
            pool.barrier();
        });
        assert!(matches!(result, Err(CpuError::Panic { .. })), "{result:?}");
        pool.run(&|_| pool.barrier()).expect("the next job runs");
    }

    #[test]
    fn dropping_a_pool_ends_its_threads() {
        let pool = Pool::new(4);
        pool.run(&|_| pool.barrier()).expect("runs");
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(
            shared.upgrade().is_none(),
            "a worker still holds the shared state"
        );
    }
}
