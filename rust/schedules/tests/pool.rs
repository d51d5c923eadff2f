//! Thousands of orders each; a failure prints the schedule, for `shuttle::replay`.
#![cfg(feature = "shuttle")]

use inferlib_schedules::scenarios;

const RANDOM: usize = 3_000;
const PREEMPTED: usize = 1_000;

fn check(scenario: fn(usize), workers: usize) {
    shuttle::check_random(move || scenario(workers), RANDOM);
    shuttle::check_pct(move || scenario(workers), PREEMPTED, 3);
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
