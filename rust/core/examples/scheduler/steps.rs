//! `schedule` and `update` of steps in which everybody decodes. Lengths differ by up to a block, so that every step has
//! its share of block crossings: of blocks taken, hashed and published.

use std::error::Error;
use std::sync::Arc;

use inferlib_core::scheduler::Policy;
use inferlib_core::{NewRequest, PromptLookup, Scheduler};
use inferlib_program::{BLOCK_SIZE, SamplingParams};

use crate::driving::{Executor, StepTimes, config, step, tokens};
use crate::options::Options;
use crate::report::{Line, processor_seconds};

/// That the requests belong to.
const NUM_TENANTS: usize = 16;

pub(crate) fn measure(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let running: usize = options.number("--running", 256)?;
    let context: usize = options.number("--context", 128)?;
    let num_steps: usize = options.number("--steps", 256)?;
    let warm_up: usize = options.number("--warm-up", 32)?;
    let rows = options.text("--rows", "plain");
    let policy = options.text("--policy", "fcfs");

    // While others' prompts are computed, at some thousand tokens a step, one is decoding already.
    let num_prefills = running * (context + BLOCK_SIZE) / 4096;
    let longest = context + 2 * BLOCK_SIZE + warm_up + num_steps + num_prefills;
    let blocks = running * (longest.div_ceil(BLOCK_SIZE) + 1);
    let speculation = (rows == "speculation").then(PromptLookup::default);
    let mut scheduler = Scheduler::new(inferlib_core::SchedulerConfig {
        speculation,
        policy: Policy::from_name(&policy)
            .ok_or_else(|| format!("--policy cannot be {policy:?}"))?,
        ..config(blocks, running, running.max(16_384))
    })?;
    let params = Arc::new(params(&rows, longest - context)?);
    for seed in 0..running {
        let prompt = tokens(seed, context + seed % BLOCK_SIZE);
        let mut new = NewRequest::new(prompt, Arc::clone(&params));
        new.tenant = Some(format!("tenant {}", seed % NUM_TENANTS));
        scheduler.submit(new, 0.0)?;
    }
    let mut executor = Executor::default();
    let mut finished = Vec::new();
    let mut unmeasured = StepTimes::default();
    // Chunks of prompts until all are done, then decode steps.
    while scheduler.stats().num_running_seqs < running {
        step(
            &mut scheduler,
            &mut executor,
            &mut unmeasured,
            &mut finished,
        );
    }
    for _ in 0..=warm_up {
        step(
            &mut scheduler,
            &mut executor,
            &mut unmeasured,
            &mut finished,
        );
    }
    let mut times = StepTimes::default();
    let before = processor_seconds();
    for _ in 0..num_steps {
        step(&mut scheduler, &mut executor, &mut times, &mut finished);
    }
    let on_processor = before.zip(processor_seconds()).map(|(a, b)| (b - a) * 1e9);
    if times.num_seqs != (running * num_steps) as u64 || !finished.is_empty() {
        return Err("not everybody was decoding".into());
    }
    let whole = times.schedule.and(&times.update);
    let line = Line::of("steps")
        .text("rows", &rows)
        .text("policy", &policy)
        .number("running", running as f64)
        .number("context", context as f64)
        .number("steps", num_steps as f64)
        .times("schedule", &times.schedule, 1)
        .times("update", &times.update, 1)
        .times("step", &whole, 1)
        .times("request_step", &whole, running);
    match on_processor {
        Some(ns) => line.number("processor_step_ns", ns / num_steps as f64),
        None => line,
    }
    .print();
    Ok(())
}

/// What requests ask for: end tokens always, and as many tokens as the steps give.
fn params(rows: &str, max_tokens: usize) -> Result<SamplingParams, String> {
    let usual = SamplingParams {
        max_tokens: max_tokens as u32,
        eos_token_ids: vec![2, 9],
        stop_token_ids: vec![11, 12, 13],
        ..SamplingParams::default()
    };
    Ok(match rows {
        "plain" | "speculation" => usual,
        "penalties" => SamplingParams {
            frequency_penalty: 0.5,
            ..usual
        },
        "logprobs" => SamplingParams {
            logprobs: Some(2),
            ..usual
        },
        other => return Err(format!("--rows cannot be {other:?}")),
    })
}
