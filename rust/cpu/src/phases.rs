//! Who does what between two points where the workers of a step agree.
//!
//! A phase is a number of units. Each worker has a share of them, taken a piece at a time, and when its own is done it
//! takes from the others'. A phase is over when its units are, not when every worker was there: one that lost its core
//! delays the others by the piece it holds at most, and finds nothing left to do when it returns. Whoever finishes the
//! last unit also does the phase's tail, what is too small to be shared, before it lets the others go on.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::pool::Pool;

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
    done: AtomicUsize,
    over: AtomicBool,
}

/// The next piece of one worker's share of one phase, on its own cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

/// The phases of a step.
#[derive(Debug)]
pub(crate) struct Phases {
    progress: Vec<Progress>,
    /// `[phase][worker]`.
    next: Vec<Next>,
    workers: usize,
}

impl Phases {
    /// Room for `count` phases of `workers` workers.
    pub(crate) fn new(count: usize, workers: usize) -> Self {
        Self {
            progress: (0..count).map(|_| Progress::default()).collect(),
            next: (0..count * workers).map(|_| Next::default()).collect(),
            workers,
        }
    }

    /// Before a step: no unit of any phase is done.
    pub(crate) fn reset(&mut self) {
        for progress in &mut self.progress {
            *progress.done.get_mut() = 0;
            *progress.over.get_mut() = false;
        }
        for next in &mut self.next {
            *next.0.get_mut() = 0;
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
        if done > 0 && progress.done.fetch_add(done, Ordering::AcqRel) + done == units {
            tail(scratch);
            progress.over.store(true, Ordering::SeqCst);
            pool.notify();
            return !pool.stopped();
        }
        pool.wait(|| progress.over.load(Ordering::SeqCst))
    }

    /// The next piece of `owner`'s share, if any is left.
    fn take(
        &self,
        next: &AtomicUsize,
        owner: usize,
        total: usize,
        share: Share,
    ) -> Option<Range<usize>> {
        match share {
            Share::Stretch => {
                let bound = |owner: usize| total * owner / self.workers;
                let (start, end) = (bound(owner), bound(owner + 1));
                let size = (end - start).div_ceil(PIECES_PER_SHARE).max(1);
                let from = start + claim(next, (end - start).div_ceil(size))? * size;
                Some(from..(from + size).min(end))
            }
            Share::Turns => {
                let count = (total + self.workers - 1 - owner) / self.workers;
                let unit = claim(next, count)? * self.workers + owner;
                Some(unit..unit + 1)
            }
        }
    }
}

/// The next of `count`; looks before it writes, so that an exhausted counter's cache line stays shared.
fn claim(next: &AtomicUsize, count: usize) -> Option<usize> {
    if next.load(Ordering::Relaxed) >= count {
        return None;
    }
    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_unit_is_done_once_before_the_tail_and_the_tail_before_the_next_phase() {
        for workers in [1, 2, 3, 7] {
            let pool = Pool::new(workers);
            let totals = [0, 1, 2, 5, 7, 64, 257];
            let mut phases = Phases::new(totals.len(), workers);
            for round in 0..40 {
                phases.reset();
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
        phases.reset();
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
        phases.reset();
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
}
