//! Thousands of orders each; under shuttle, a failure prints the schedule, for `shuttle::replay`.
#![cfg(any(feature = "shuttle", feature = "threads"))]

use inferlib_schedules::scenarios;

#[cfg(feature = "shuttle")]
fn check(scenario: fn(usize), workers: usize) {
    shuttle::check_random(move || scenario(workers), 3_000);
    shuttle::check_pct(move || scenario(workers), 1_000, 3);
}

#[cfg(not(feature = "shuttle"))]
fn check(scenario: fn(usize), workers: usize) {
    for _ in 0..200 {
        scenario(workers);
    }
}

#[test]
fn phases_of_two() {
    check(scenarios::phases_are_done_in_order, 2);
}

#[test]
fn phases_of_three() {
    check(scenarios::phases_are_done_in_order, 3);
}

#[test]
fn stopped_steps() {
    check(scenarios::a_stopped_step_is_left, 3);
}

#[test]
fn panics() {
    check(scenarios::a_panic_fails_the_job, 3);
}
