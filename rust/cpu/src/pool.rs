//! The executor's threads. The calling thread is worker 0; the others join a job when they get to it: what they miss,
//! those who came do (see [`crate::phases`]), so that a worker without a core delays nobody. Who waits spins for a moment,
//! then sleeps, which leaves its core to a worker that has none. Idle threads end: an idle model has none running, and
//! none starts before the first step.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::CpuError;
use crate::sync::{
    Arc, AtomicBool, AtomicU32, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard,
    Ordering, PoisonError, fence, spin,
};

/// How long who waits for a phase spins before it sleeps. A wake costs about as much.
const SPIN_WITHIN_JOB: Duration = Duration::from_micros(60);
/// How long a worker spins for the next job: the next step of a busy model comes sooner.
const SPIN_BETWEEN_JOBS: Duration = Duration::from_micros(400);
/// How long a sleeping worker waits before it ends.
const IDLE: Duration = Duration::from_secs(3);

/// A step's work: called at most once per worker with its index, always for worker 0.
type Job = dyn Fn(usize) + Sync;

/// State shared with the workers.
struct Shared {
    /// Increases with every job.
    generation: AtomicU32,
    /// The job and the idle workers' wake-up.
    slot: Mutex<Slot>,
    wake: Condvar,
    /// Workers other than 0 inside the current job; joined under the slot's lock.
    inside: AtomicUsize,
    /// Everybody leaves the current job at the next wait.
    stopped: AtomicBool,
    /// Why the current job failed.
    message: Mutex<Option<String>>,
    /// Who sleeps within a job.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    awake: Condvar,
    closing: AtomicBool,
}

/// What a waking worker finds.
struct Slot {
    /// `None` between jobs.
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

/// The threads of one executor.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    size: usize,
    /// Serialises jobs, and holds the handles of worker `i + 1` at `i`.
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
                slot: Mutex::new(Slot {
                    job: None,
                    generation: 0,
                    alive: vec![false; size.saturating_sub(1)],
                }),
                wake: Condvar::new(),
                inside: AtomicUsize::new(0),
                stopped: AtomicBool::new(false),
                message: Mutex::new(None),
                sleepers: AtomicUsize::new(0),
                sleep: Mutex::new(()),
                awake: Condvar::new(),
                closing: AtomicBool::new(false),
            }),
            size,
            workers: Mutex::new((1..size).map(|_| None).collect()),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Run `job` as worker 0, and on every other worker that comes before worker 0 is done; returns when all have left.
    pub(crate) fn run(&self, job: &(dyn Fn(usize) + Sync)) -> Result<(), CpuError> {
        let mut workers = lock(&self.workers);
        let shared = &self.shared;
        shared.stopped.store(false, Ordering::Relaxed);
        if self.size > 1 {
            // SAFETY: only the lifetime is erased; this function returns after every worker has left the job.
            let job: &'static Job =
                unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync + '_), &'static Job>(job) };
            let pointer = JobPointer(std::ptr::from_ref(job));
            let (missing, before) = {
                let mut slot = lock(&shared.slot);
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
        if self.size > 1 {
            lock(&shared.slot).job = None;
            shared.wait(|| shared.inside.load(Ordering::Acquire) == 0);
        }
        match lock(&shared.message).take() {
            Some(message) => Err(CpuError::Panic { message }),
            None => Ok(()),
        }
    }

    /// Run `job` on every worker, also on those that have to be waited for.
    #[cfg(feature = "measure")]
    pub(crate) fn run_on_all(&self, job: &(dyn Fn(usize) + Sync)) -> Result<(), CpuError> {
        let here = AtomicUsize::new(0);
        self.run(&|worker| {
            here.fetch_add(1, Ordering::SeqCst);
            self.notify();
            job(worker);
            if worker == 0 {
                self.wait(|| here.load(Ordering::SeqCst) == self.size);
            }
        })
    }

    /// Start worker `i + 1`, which never ran or has ended; it picks up the job after generation `before`.
    fn start(&self, i: usize, before: u32, workers: &mut [Option<JoinHandle<()>>]) {
        lock(&self.shared.slot).alive[i] = true;
        let shared = Arc::clone(&self.shared);
        let spawned = Builder::new()
            .name(format!("inferlib-{}", i + 1))
            .spawn(move || shared.work(i + 1, before));
        match spawned {
            Ok(handle) => {
                if let Some(ended) = workers[i].replace(handle) {
                    let _ = ended.join(); // a worker's panic was already reported by `run`
                }
            }
            Err(error) => {
                // The job could go on without this worker; that would be slower than was asked for, and nobody told.
                lock(&self.shared.slot).alive[i] = false;
                self.shared.fail(format!("cannot start a thread: {error}"));
            }
        }
    }

    /// Wait within a job until `ready`, which another worker makes true before it calls [`Pool::notify`]; false if the
    /// job was stopped.
    pub(crate) fn wait(&self, ready: impl Fn() -> bool) -> bool {
        self.shared
            .wait(|| ready() || self.shared.stopped.load(Ordering::Acquire));
        !self.shared.stopped.load(Ordering::Acquire)
    }

    /// Wake who sleeps in [`Pool::wait`].
    pub(crate) fn notify(&self) {
        self.shared.notify();
    }

    /// Let every worker leave the current job at its next wait.
    pub(crate) fn stop(&self) {
        self.shared.stop();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        {
            let mut slot = lock(&self.shared.slot);
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
            let news = || self.generation.load(Ordering::Acquire) != seen;
            if !spin(SPIN_BETWEEN_JOBS, news) {
                let slot = lock(&self.slot);
                let (mut slot, _) = self
                    .wake
                    .wait_timeout_while(slot, IDLE, |slot| slot.generation == seen)
                    .unwrap_or_else(PoisonError::into_inner);
                if slot.generation == seen {
                    slot.alive[index - 1] = false; // the next `run` starts another
                    return;
                }
            }
            let job = {
                let slot = lock(&self.slot);
                // Under the lock: closing is a generation too, and who had seen it would sleep until idle.
                if self.closing.load(Ordering::Acquire) {
                    return;
                }
                seen = slot.generation;
                if slot.job.is_some() {
                    self.inside.fetch_add(1, Ordering::Relaxed);
                }
                slot.job
            };
            if let Some(JobPointer(job)) = job {
                // SAFETY: `Pool::run` waits for this worker, which is inside, before the job's lifetime ends.
                self.run_job(unsafe { &*job }, index);
                self.inside.fetch_sub(1, Ordering::SeqCst);
                self.notify();
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
        self.stop();
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.notify();
    }

    /// Spin, then sleep, until `ready`.
    fn wait(&self, ready: impl Fn() -> bool) {
        if spin(SPIN_WITHIN_JOB, &ready) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Either this look sees what was made true, or its maker sees the sleeper: both are sequentially consistent.
        fence(Ordering::SeqCst);
        while !ready() {
            guard = self
                .awake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.awake.notify_all();
        }
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

    /// Wait until all `size` workers are here.
    fn meet(pool: &Pool, arrived: &AtomicUsize, size: usize) -> bool {
        arrived.fetch_add(1, Ordering::SeqCst);
        pool.notify();
        pool.wait(|| arrived.load(Ordering::SeqCst) == size)
    }

    #[test]
    fn workers_come_to_a_job_that_waits_for_them() {
        for size in [1, 2, 3, 8] {
            let pool = Pool::new(size);
            for _ in 0..50 {
                let arrived = AtomicUsize::new(0);
                let seen = AtomicUsize::new(0);
                pool.run(&|worker| {
                    if meet(&pool, &arrived, size) {
                        seen.fetch_add(1 << worker, Ordering::Relaxed);
                    }
                })
                .expect("no worker panics");
                assert_eq!(seen.load(Ordering::Relaxed), (1 << size) - 1);
            }
        }
    }

    #[test]
    fn a_job_ends_without_workers_that_never_came_and_with_those_that_did() {
        let pool = Pool::new(4);
        for _ in 0..2000 {
            let inside = AtomicUsize::new(0);
            pool.run(&|worker| {
                inside.fetch_add(1, Ordering::SeqCst);
                if worker > 0 {
                    std::thread::yield_now();
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            })
            .expect("no worker panics");
            assert_eq!(inside.load(Ordering::SeqCst), 0, "somebody is still inside");
        }
    }

    #[test]
    fn who_waits_longer_than_it_spins_is_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            let ready = AtomicBool::new(false);
            let arrived = AtomicUsize::new(0);
            pool.run(&|worker| {
                meet(&pool, &arrived, 2);
                if worker == 1 {
                    std::thread::sleep(SPIN_WITHIN_JOB * 5);
                    ready.store(true, Ordering::SeqCst);
                    pool.notify();
                } else {
                    assert!(pool.wait(|| ready.load(Ordering::SeqCst)));
                }
            })
            .expect("no worker panics");
        }
    }

    #[test]
    fn a_panic_fails_the_job_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        let arrived = AtomicUsize::new(0);
        let result = pool.run(&|worker| {
            meet(&pool, &arrived, 3);
            assert!(worker != 1, "worker one");
            assert!(!pool.wait(|| false), "only a stopped job ends this wait");
        });
        assert!(matches!(result, Err(CpuError::Panic { .. })), "{result:?}");
        let arrived = AtomicUsize::new(0);
        pool.run(&|_| assert!(meet(&pool, &arrived, 3)))
            .expect("the next job runs");
    }

    #[test]
    fn dropping_a_pool_ends_its_threads() {
        let pool = Pool::new(4);
        let arrived = AtomicUsize::new(0);
        pool.run(&|_| assert!(meet(&pool, &arrived, 4)))
            .expect("runs");
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(
            shared.upgrade().is_none(),
            "a worker still holds the shared state"
        );
    }
}
