//! Who does what between two points where the workers of a step agree.
//!
//! A phase is a number of units. Each worker has a share of them, taken a piece at a time, and when its own is done it
//! takes from the others'. A phase is over when its units are, not when every worker was there: one that lost its core
//! delays the others by the piece it holds at most, and finds nothing left to do when it returns. Whoever finishes the
//! last unit also does the phase's tail, what is too small to be shared, before it lets the others go on.

use std::ops::Range;

use crate::pool::Pool;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Pieces of one worker's share.
const PIECES_PER_SHARE: usize = 8;

/// How the units of a phase are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Neighbours stay together: each worker reads one stretch of memory.
    Stretch,
    /// In turns, one at a time: units whose cost falls with their index.
    Turns,
}

/// A phase's progress.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Progress {
    done: Counter,
    /// The last step in which the phase ended.
    over: AtomicU32,
}

/// The next piece of one worker's share of one phase, on its own cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Next(Counter);

/// A number that begins at 0 in every step without being written: the step it was last changed in stands beside it.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    /// Add `more` unless that exceeds `limit`; what it was before.
    fn add(&self, step: u32, more: u32, limit: u32) -> Option<u32> {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
            let count = if before >> 32 == u64::from(step) {
                before as u32
            } else {
                0
            };
            // Looks before it writes, so that an exhausted counter's cache line stays shared.
            let after = count.checked_add(more).filter(|&after| after <= limit)?;
            let after = u64::from(step) << 32 | u64::from(after);
            match self
                .0
                .compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(count),
                Err(now) => before = now,
            }
        }
    }
}

/// The phases of a step.
#[derive(Debug)]
pub(crate) struct Phases {
    progress: Vec<Progress>,
    /// `[phase][worker]`.
    next: Vec<Next>,
    workers: usize,
    /// Number of the step, from 1.
    step: u32,
}

impl Phases {
    /// Room for `count` phases of `workers` workers.
    pub(crate) fn new(count: usize, workers: usize) -> Self {
        Self {
            progress: (0..count).map(|_| Progress::default()).collect(),
            next: (0..count * workers).map(|_| Next::default()).collect(),
            workers,
            step: 0,
        }
    }

    /// Before a step: no unit of any phase is done.
    pub(crate) fn begin_step(&mut self) {
        self.step = self.step.wrapping_add(1);
        if self.step == 0 {
            // The numbers begin anew: forget all of them.
            *self = Self::new(self.progress.len(), self.workers);
            self.step = 1;
        }
    }

    /// Take part in `phase` as `worker`: `work` on pieces of `0..total`, then wait until all of it is done, and `tail`
    /// by whoever did the last, both with the worker's own `scratch`. False if the step was stopped.
    pub(crate) fn run<S>(
        &self,
        pool: &Pool,
        (phase, worker): (usize, usize),
        (total, share): (usize, Share),
        scratch: &mut S,
        mut work: impl FnMut(&mut S, Range<usize>),
        tail: impl FnOnce(&mut S),
    ) -> bool {
        if self.workers == 1 {
            if total > 0 {
                work(scratch, 0..total);
            }
            tail(scratch);
            return !pool.stopped();
        }
        let progress = &self.progress[phase];
        let next = &self.next[phase * self.workers..][..self.workers];
        // A phase without units is one without work: it still has one taker, who does the tail.
        let units = total.max(1);
        let mut done = 0;
        for turn in 0..self.workers {
            let owner = (worker + turn) % self.workers;
            while let Some(piece) = self.take(&next[owner].0, owner, units, share) {
                done += piece.len();
                if total > 0 {
                    work(scratch, piece);
                }
            }
        }
        let add = |done| progress.done.add(self.step, done, as_u32(units));
        if done > 0 && add(as_u32(done)).is_some_and(|before| before as usize + done == units) {
            tail(scratch);
            progress.over.store(self.step, Ordering::SeqCst);
            pool.notify();
            return !pool.stopped();
        }
        pool.wait(|| progress.over.load(Ordering::SeqCst) == self.step)
    }

    /// The next piece of `owner`'s share, if any is left.
    fn take(
        &self,
        next: &Counter,
        owner: usize,
        total: usize,
        share: Share,
    ) -> Option<Range<usize>> {
        let claim = |count: usize| next.add(self.step, 1, as_u32(count)).map(|at| at as usize);
        match share {
            Share::Stretch => {
                let bound = |owner: usize| total * owner / self.workers;
                let (start, end) = (bound(owner), bound(owner + 1));
                let size = (end - start).div_ceil(PIECES_PER_SHARE).max(1);
                let from = start + claim((end - start).div_ceil(size))? * size;
                Some(from..(from + size).min(end))
            }
            Share::Turns => {
                let count = (total + self.workers - 1 - owner) / self.workers;
                let unit = claim(count)? * self.workers + owner;
                Some(unit..unit + 1)
            }
        }
    }
}

/// Units of a phase are pairs of panels, rows or attention units: far below 2^32.
fn as_u32(units: usize) -> u32 {
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    #[test]
    fn every_unit_is_done_once_before_the_tail_and_the_tail_before_the_next_phase() {
        for workers in [1, 2, 3, 7] {
            let pool = Pool::new(workers);
            let totals = [0, 1, 2, 5, 7, 64, 257];
            let mut phases = Phases::new(totals.len(), workers);
            for round in 0..40 {
                phases.begin_step();
                let share = [Share::Stretch, Share::Turns][round % 2];
                let counts = totals
                    .map(|total: usize| (0..total).map(|_| AtomicU32::new(0)).collect::<Vec<_>>());
                let tails = AtomicUsize::new(0);
                pool.run(&|worker| {
                    for (phase, &total) in totals.iter().enumerate() {
                        let went_on = phases.run(
                            &pool,
                            (phase, worker),
                            (total, share),
                            &mut (),
                            |(), range| {
                                for unit in range {
                                    counts[phase][unit].fetch_add(1, Ordering::Relaxed);
                                }
                            },
                            |()| {
                                let all = |count: &AtomicU32| count.load(Ordering::Relaxed) == 1;
                                assert!(counts[phase].iter().all(all));
                                assert_eq!(tails.fetch_add(1, Ordering::Relaxed), phase);
                            },
                        );
                        assert!(went_on);
                        assert!(tails.load(Ordering::Relaxed) > phase);
                    }
                })
                .expect("no worker panics");
                assert_eq!(tails.load(Ordering::Relaxed), totals.len());
            }
        }
    }

    #[test]
    fn a_worker_that_sleeps_between_phases_delays_nobody() {
        let pool = Pool::new(2);
        let mut phases = Phases::new(4, 2);
        phases.begin_step();
        let (here, last) = (AtomicBool::new(false), AtomicBool::new(false));
        pool.run(&|worker| {
            if worker == 1 {
                here.store(true, Ordering::SeqCst);
                pool.notify();
                // It joins the first phase only when the others are through the last.
                assert!(pool.wait(|| last.load(Ordering::SeqCst)));
            } else {
                assert!(pool.wait(|| here.load(Ordering::SeqCst)));
            }
            for phase in 0..4 {
                let mut mine = 0_usize;
                phases.run(
                    &pool,
                    (phase, worker),
                    (10, Share::Stretch),
                    &mut mine,
                    |mine, range| *mine += range.len(),
                    |_| (),
                );
                assert_eq!(mine, if worker == 0 { 10 } else { 0 });
            }
            last.store(true, Ordering::SeqCst);
            pool.notify();
        })
        .expect("no worker panics");
    }

    #[test]
    fn a_stopped_step_is_left_by_all() {
        let pool = Pool::new(3);
        let mut phases = Phases::new(100, 3);
        phases.begin_step();
        let ran = AtomicUsize::new(0);
        pool.run(&|worker| {
            for phase in 0..100 {
                let go_on = phases.run(
                    &pool,
                    (phase, worker),
                    (6, Share::Turns),
                    &mut (),
                    |(), _| (),
                    |()| {
                        ran.fetch_add(1, Ordering::Relaxed);
                        if phase == 3 {
                            pool.stop();
                        }
                    },
                );
                if !go_on {
                    return;
                }
            }
        })
        .expect("a stop is no failure");
        assert_eq!(ran.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn the_numbers_of_steps_may_begin_anew() {
        let pool = Pool::new(2);
        let mut phases = Phases::new(1, 2);
        phases.step = u32::MAX - 2;
        for _ in 0..5 {
            phases.begin_step();
            let done = AtomicUsize::new(0);
            pool.run(&|worker| {
                let count = |(): &mut (), range: Range<usize>| {
                    done.fetch_add(range.len(), Ordering::Relaxed);
                };
                let units = (9, Share::Stretch);
                assert!(phases.run(&pool, (0, worker), units, &mut (), count, |()| ()));
            })
            .expect("no worker panics");
            assert_eq!(done.load(Ordering::Relaxed), 9);
            assert_ne!(phases.step, 0, "0 is what counters say that nobody touched");
        }
    }
}
