//! How long a step takes, under every policy: a measurement, for people.

use std::time::{Duration, Instant};

use inferlib_core::{NewRequest, Policy, Scheduler, SchedulerConfig};
use inferlib_program::{RowStatus, StepOutput};

use crate::pretended_executor::{config, group, params, prompt, request};

/// `num_seqs` sequences of eight tenants decode, and as many requests wait; the median step, schedule and update.
fn median_step(policy: Policy, num_seqs: usize) -> Duration {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        policy,
        groups: vec![group(100_000)],
        max_num_seqs: num_seqs,
        max_num_batched_tokens: 8192,
        max_model_len: 2000,
        ..config()
    })
    .unwrap();
    for seed in 0..2 * num_seqs as u64 {
        let new = NewRequest {
            tenant: Some((seed % 8).to_string()),
            priority: i32::try_from(seed % 5).unwrap(),
            deadline: Some(1e6),
            ..request(prompt(seed, 40), params(1500))
        };
        scheduler.submit(new, 0.0).unwrap();
    }
    let mut output = StepOutput::default();
    let mut times = Vec::new();
    for _ in 0..400 {
        let start = Instant::now();
        let num_rows = scheduler.schedule(0.0).unwrap().num_sampled();
        let planned = start.elapsed();
        output.token_ids.resize(num_rows, 7);
        output.status.resize(num_rows, RowStatus::Ok);
        output.logprobs.resize(num_rows, None);
        let start = Instant::now();
        scheduler.update(&output, 0.0).unwrap();
        times.push(planned + start.elapsed());
    }
    let mut steps = times.split_off(50);
    steps.sort_unstable();
    steps[steps.len() / 2]
}

#[test]
#[ignore = "a measurement: run it in release with --nocapture"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn how_long_a_step_takes() {
    for num_seqs in [256, 1024] {
        for name in Policy::NAMES {
            let step = median_step(Policy::from_name(name).unwrap(), num_seqs);
            let each = step.as_nanos() / num_seqs as u128;
            println!("{name}, {num_seqs} running: {step:?} a step, {each} ns a sequence");
        }
    }
}
