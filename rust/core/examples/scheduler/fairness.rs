//! One tenant asks now and then; another floods. How long does the first one wait, in steps?
//!
//! The flooding tenant always has `--flood` requests in the scheduler. Nothing is timed: a step is a unit of time, so the
//! figures are the same on every machine.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;

use inferlib_core::scheduler::Policy;
use inferlib_core::{NewRequest, Scheduler};
use inferlib_program::{BLOCK_SIZE, RequestId, SamplingParams};

use crate::driving::{Executor, config, tokens};
use crate::options::Options;
use crate::report::Line;

/// Prompt tokens and generated tokens of each tenant's requests.
const QUIET: (usize, u32) = (64, 16);
const FLOODING: (usize, u32) = (200, 100);
/// Steps between the quiet tenant's requests; one that comes while others are not done joins them.
const GAP: u64 = 25;

struct Tenant {
    name: &'static str,
    num_prompt_tokens: usize,
    params: Arc<SamplingParams>,
    requests: VecDeque<RequestId>,
}

impl Tenant {
    fn new(name: &'static str, (num_prompt_tokens, max_tokens): (usize, u32)) -> Self {
        Self {
            name,
            num_prompt_tokens,
            params: Arc::new(SamplingParams {
                max_tokens,
                ..SamplingParams::default()
            }),
            requests: VecDeque::new(),
        }
    }

    fn submit(
        &mut self,
        scheduler: &mut Scheduler,
        seed: usize,
        now: f64,
    ) -> Result<(), Box<dyn Error>> {
        let prompt = tokens(seed, self.num_prompt_tokens);
        let mut new = NewRequest::new(prompt, Arc::clone(&self.params));
        new.tenant = Some(self.name.to_owned());
        self.requests.push_back(scheduler.submit(new, now)?);
        Ok(())
    }

    /// What ended goes; `ended` is told of steps from the arrival to the first token, and to the last.
    fn take_finished(&mut self, scheduler: &mut Scheduler, mut ended: impl FnMut(f64, f64)) {
        self.requests.retain(|&id| {
            let Some(output) = scheduler.take(id) else {
                return true;
            };
            let times = output.timestamps;
            if let (Some(first), Some(last)) = (times.first_token, times.finished) {
                ended(first - times.arrival, last - times.arrival);
            }
            false
        });
    }
}

pub(crate) fn measure(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let policy_name = options.text("--policy", "fair");
    let flood: usize = options.number("--flood", 64)?;
    let num_steps: u64 = options.number("--steps", 6000)?;
    let warm_up: u64 = options.number("--warm-up", 1000)?;
    let blocks: usize = options.number("--blocks", 320)?;
    let policy = Policy::from_name(&policy_name)
        .ok_or_else(|| format!("--policy cannot be {policy_name:?}"))?;
    let mut scheduler = Scheduler::new(inferlib_core::SchedulerConfig {
        policy,
        ..config(blocks, 16, 256)
    })?;
    let (mut quiet, mut flooding) = (Tenant::new("quiet", QUIET), Tenant::new("flood", FLOODING));
    let mut executor = Executor::default();
    let (mut waits, mut durations, mut num_flooded) = (Vec::new(), Vec::new(), 0);
    let mut before = scheduler.stats();
    for step in 0..warm_up + num_steps {
        let now = step as f64;
        if step == warm_up {
            before = scheduler.stats();
        }
        if step % GAP == 0 {
            quiet.submit(&mut scheduler, step as usize, now)?;
        }
        while flooding.requests.len() < flood {
            let seed = 1_000_000 + num_flooded;
            num_flooded += 1;
            flooding.submit(&mut scheduler, seed, now)?;
        }
        if let Some(batch) = scheduler.schedule(now) {
            let output = executor.run(batch);
            scheduler.update(output, now)?;
        }
        quiet.take_finished(&mut scheduler, |wait, duration| {
            if step >= warm_up {
                waits.push(wait);
                durations.push(duration);
            }
        });
        flooding.take_finished(&mut scheduler, |_, _| {});
    }
    // Whoever still waits has waited for that long already.
    for &id in &quiet.requests {
        let output = scheduler.output(id).ok_or("it was not taken")?;
        if output.timestamps.first_token.is_none() {
            waits.push((warm_up + num_steps) as f64 - output.timestamps.arrival);
        }
    }
    let stats = scheduler.stats();
    let per_step = |after: u64, before: u64| (after - before) as f64 / num_steps as f64;
    let input = per_step(
        stats.num_prompt_tokens - stats.num_cached_tokens,
        before.num_prompt_tokens - before.num_cached_tokens,
    );
    let output = per_step(stats.num_output_tokens, before.num_output_tokens);
    let served =
        f64::from(Policy::INPUT_WEIGHT) * input + f64::from(Policy::OUTPUT_WEIGHT) * output;
    let gap = 2.0
        * f64::max(
            f64::from(Policy::INPUT_WEIGHT) * FLOODING.0 as f64,
            f64::from(Policy::OUTPUT_WEIGHT) * (blocks * BLOCK_SIZE) as f64,
        );
    Line::of("fairness")
        .text("policy", &policy_name)
        .number("flood", flood as f64)
        .number("quiet_requests", waits.len() as f64)
        .number("wait_steps", quantile(&mut waits, 0.5))
        .number("wait_steps_p90", quantile(&mut waits, 0.9))
        .number("wait_steps_max", quantile(&mut waits, 1.0))
        .number("duration_steps", quantile(&mut durations, 0.5))
        .number(
            "preemptions",
            (stats.num_preemptions - before.num_preemptions) as f64,
        )
        .number("service_per_step", served)
        .number("service_gap_bound", gap)
        .number("wait_bound_steps", gap / served)
        .print();
    Ok(())
}

/// 0 without values.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let place = (last as f64 * share).round() as usize;
    values.get(place).copied().unwrap_or(0.0)
}
