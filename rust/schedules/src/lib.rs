//! The thread pool and the phases of `rust/cpu` under shuttle: their own files, with threads, locks and atomics that a
//! scheduler of shuttle switches between, at random or with few preemptions. Never part of the product.
//!
//! Orders of events are explored, orders of memory are not: all atomics are sequentially consistent here. With the feature
//! `threads` the same is played by real threads, for `make test-tsan`, which compiles little else.
#![cfg(any(feature = "shuttle", feature = "threads"))]

mod error;
#[path = "../../cpu/src/phases.rs"]
mod phases;
#[path = "../../cpu/src/pool.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the product's file, not all of it played"
)]
mod pool;
pub mod scenarios;
#[cfg(feature = "shuttle")]
#[path = "shuttle_sync.rs"]
mod sync;
#[cfg(not(feature = "shuttle"))]
#[path = "../../cpu/src/sync.rs"]
mod sync;
