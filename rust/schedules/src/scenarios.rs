//! What is played in each order.

#[cfg(feature = "shuttle")]
use shuttle::thread::yield_now;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
#[cfg(not(feature = "shuttle"))]
use std::thread::yield_now;

use crate::error::CpuError;
use crate::phases::{Phases, Share};
use crate::pool::Pool;

/// Units are done once, then the tail, then the next phase; the pool outlives several steps.
///
/// # Panics
///
/// They are not.
pub fn phases_are_done_in_order(workers: usize) {
    let pool = Pool::new(workers);
    let totals = [3_usize, 0, 1, 2];
    let mut phases = Phases::new(totals.len(), workers);
    for share in [Share::Stretch, Share::Turns] {
        phases.begin_step();
        let done = totals.map(|_| AtomicUsize::new(0));
        let tails = AtomicUsize::new(0);
        let result = pool.run(&|worker| {
            for (phase, &total) in totals.iter().enumerate() {
                let went_on = phases.run(
                    &pool,
                    (phase, worker),
                    (total, share),
                    &mut (),
                    |(), range| {
                        assert_eq!(tails.load(SeqCst), phase, "a unit of a phase to come");
                        yield_now();
                        done[phase].fetch_add(range.len(), SeqCst);
                    },
                    |()| {
                        assert_eq!(done[phase].load(SeqCst), total, "a tail before its units");
                        yield_now();
                        assert_eq!(tails.fetch_add(1, SeqCst), phase, "a tail twice");
                    },
                );
                assert!(went_on && tails.load(SeqCst) > phase, "went on too early");
            }
        });
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(tails.load(SeqCst), totals.len());
    }
}

/// A stopped step is left by all, and the next one is whole.
///
/// # Panics
///
/// Somebody stays, or the next step is stopped, too.
pub fn a_stopped_step_is_left(workers: usize) {
    let pool = Pool::new(workers);
    let mut phases = Phases::new(3, workers);
    for stops in [true, false] {
        phases.begin_step();
        let inside = AtomicUsize::new(0);
        let tails = AtomicUsize::new(0);
        let result = pool.run(&|worker| {
            inside.fetch_add(1, SeqCst);
            for phase in 0..3 {
                let go_on = phases.run(
                    &pool,
                    (phase, worker),
                    (2, Share::Turns),
                    &mut (),
                    |(), _| (),
                    |()| {
                        tails.fetch_add(1, SeqCst);
                        if stops && phase == 1 {
                            pool.stop();
                        }
                    },
                );
                if !go_on {
                    break;
                }
            }
            inside.fetch_sub(1, SeqCst);
        });
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(inside.load(SeqCst), 0, "a job's end with somebody inside");
        assert_eq!(tails.load(SeqCst), if stops { 2 } else { 3 });
    }
}

/// A panic in any worker fails the job, wakes who waits, and leaves the pool usable.
///
/// # Panics
///
/// It does not.
pub fn a_panic_fails_the_job(workers: usize) {
    let pool = Pool::new(workers);
    let here = AtomicUsize::new(0);
    let result = pool.run(&|worker| {
        let count = here.fetch_add(1, SeqCst) + 1;
        pool.notify();
        if count == workers {
            std::panic::resume_unwind(Box::new("planned"));
        }
        if worker == 0 {
            assert!(!pool.wait(|| false), "only a stopped job ends this wait");
        }
    });
    // Without the last worker nobody would panic, and worker 0 would wait for it: so it came.
    assert!(
        matches!(&result, Err(CpuError::Panic { message }) if message == "planned"),
        "{result:?}"
    );
    let after = pool.run(&|_| ());
    assert!(after.is_ok(), "{after:?}");
}
