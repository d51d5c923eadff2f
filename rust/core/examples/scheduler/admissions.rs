//! Single calls on whole requests: a long prompt comes in, a held sequence is forked, a running request is cancelled.

use std::error::Error;
use std::sync::Arc;

use inferlib_core::{Continuation, NewRequest, Scheduler};
use inferlib_program::{BLOCK_SIZE, SamplingParams};

use crate::driving::{Executor, StepTimes, config, step, tokens};
use crate::options::Options;
use crate::report::{Line, Times};

fn params(max_tokens: u32) -> Arc<SamplingParams> {
    Arc::new(SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    })
}

/// Steps until nothing is left, and the results are gone.
fn drain(scheduler: &mut Scheduler, executor: &mut Executor) {
    let (mut times, mut finished) = (StepTimes::default(), Vec::new());
    while step(scheduler, executor, &mut times, &mut finished) {}
    for id in finished {
        scheduler.take(id);
    }
}

/// `submit` and the step that lets the prompt in: cold, then found whole in the cache.
pub(crate) fn measure_admission(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let count: usize = options.number("--tokens", 50_000)?;
    let repeats: usize = options.number("--repeats", 50)?;
    let mut scheduler = Scheduler::new(config(4 * count.div_ceil(BLOCK_SIZE), 256, 8192))?;
    let mut executor = Executor::default();
    // More than the cache holds: whichever comes next is not there any more.
    let prompts: Vec<_> = (0..6).map(|seed| tokens(seed, count)).collect();
    let mut both = [Times::default(), Times::default()];
    for turn in 0..repeats {
        let prompt = &prompts[turn % prompts.len()];
        for times in &mut both {
            let new = NewRequest::new(prompt.clone(), params(1));
            times.of(|| {
                scheduler.submit(new, 0.0)?;
                scheduler.schedule(0.0);
                Ok::<(), inferlib_core::SubmitError>(())
            })?;
            drain(&mut scheduler, &mut executor);
        }
    }
    Line::of("admission")
        .number("tokens", count as f64)
        .times("cold", &both[0], 1)
        .times("hit", &both[1], 1)
        .print();
    Ok(())
}

/// Forks of a held sequence, and their end.
pub(crate) fn measure_fork(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let count: usize = options.number("--tokens", 2000)?;
    let repeats: usize = options.number("--repeats", 2000)?;
    let mut scheduler = Scheduler::new(config(4 * count.div_ceil(BLOCK_SIZE), 256, 8192))?;
    let sequence = scheduler.open_sequence(None);
    let prefill = SamplingParams {
        max_tokens: 0,
        prompt_logprobs: Some(0),
        prompt_logprobs_start: count as u32,
        ..SamplingParams::default()
    };
    let mut new = NewRequest::new(tokens(1, count), Arc::new(prefill));
    new.continues = Some(Continuation {
        sequence,
        keep: true,
    });
    scheduler.submit(new, 0.0)?;
    drain(&mut scheduler, &mut Executor::default());
    let [mut fork, mut close] = std::array::from_fn(|_| Times::default());
    for _ in 0..repeats {
        let forked = fork.of(|| scheduler.fork_sequence(sequence))?;
        close.of(|| scheduler.close_sequence(forked));
    }
    let held = scheduler.sequence(sequence).ok_or("it was let go")?;
    if held.num_computed_tokens() != count {
        return Err("the sequence was not computed".into());
    }
    Line::of("fork")
        .number("tokens", count as f64)
        .times("fork", &fork, 1)
        .times("close", &close, 1)
        .print();
    Ok(())
}

/// Cancelling a request whose prompt is in the cache and shared by nobody.
pub(crate) fn measure_cancel(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let count: usize = options.number("--tokens", 2000)?;
    let repeats: usize = options.number("--repeats", 500)?;
    let mut scheduler = Scheduler::new(config(4 * count.div_ceil(BLOCK_SIZE), 256, 65_536))?;
    let mut executor = Executor::default();
    let mut times = Times::default();
    let prompts: Vec<_> = (0..6).map(|seed| tokens(seed, count)).collect();
    for turn in 0..repeats {
        let prompt = prompts[turn % prompts.len()].clone();
        let id = scheduler.submit(NewRequest::new(prompt, params(1000)), 0.0)?;
        step(
            &mut scheduler,
            &mut executor,
            &mut StepTimes::default(),
            &mut Vec::new(),
        );
        if !times.of(|| scheduler.cancel(id, 0.0)) {
            return Err("the request had ended".into());
        }
        scheduler.take(id);
    }
    Line::of("cancel")
        .number("tokens", count as f64)
        .number("blocks", count.div_ceil(BLOCK_SIZE) as f64)
        .times("cancel", &times, 1)
        .print();
    Ok(())
}
