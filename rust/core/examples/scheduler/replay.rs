//! A trace from beginning to end: all requests queued at once, one thread. `seconds` is processor time, the pretended
//! executor's few milliseconds included.
//!
//! A row on stdin is `input_length output_length hash_id …`, one id per 512 tokens of the prompt; equal ids are equal
//! tokens after an equal prefix (Mooncake's format).

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;

use inferlib_core::{NewRequest, Scheduler};
use inferlib_program::SamplingParams;

use crate::driving::{Executor, StepTimes, config, step};
use crate::options::Options;
use crate::report::{Line, Times, processor_seconds};

/// Tokens that one hash id stands for.
const HASH_BLOCK: usize = 512;

struct Row {
    prompt: Vec<i32>,
    params: Arc<SamplingParams>,
}

pub(crate) fn measure(options: &mut Options) -> Result<(), Box<dyn Error>> {
    let blocks: usize = options.number("--blocks", 60_000)?;
    let max_num_seqs: usize = options.number("--max-num-seqs", 256)?;
    let max_num_batched_tokens: usize = options.number("--max-num-batched-tokens", 8192)?;
    let repeats: usize = options.number("--repeats", 1)?;
    let rows: Vec<Row> = std::io::stdin()
        .lock()
        .lines()
        .map(|line| row(&line?))
        .collect::<Result<_, _>>()?;
    // One block less: vLLM's first one is never given out.
    let config = config(blocks - 1, max_num_seqs, max_num_batched_tokens);
    for _ in 0..repeats {
        replay(&rows, Scheduler::new(config.clone())?)?;
    }
    Ok(())
}

fn replay(rows: &[Row], mut scheduler: Scheduler) -> Result<(), Box<dyn Error>> {
    let [mut submit, mut take] = std::array::from_fn(|_| Times::default());
    let requests: Vec<_> = rows
        .iter()
        .map(|row| NewRequest::new(row.prompt.clone(), Arc::clone(&row.params)))
        .collect();
    let before = processor_seconds();
    for new in requests {
        submit.of(|| scheduler.submit(new, 0.0))?;
    }
    let (mut times, mut finished) = (StepTimes::default(), Vec::new());
    let mut executor = Executor::default();
    let mut num_output_tokens = 0;
    while step(&mut scheduler, &mut executor, &mut times, &mut finished) {
        for id in finished.drain(..) {
            let output = take.of(|| scheduler.take(id)).ok_or("it had ended")?;
            num_output_tokens += output.sequences[0].token_ids.len();
        }
    }
    let on_processor = before.zip(processor_seconds()).map(|(a, b)| b - a);
    let stats = scheduler.stats();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let whole = times.schedule.and(&times.update);
    let total = submit.sum() + times.schedule.sum() + times.update.sum() + take.sum();
    Line::of("replay")
        .number("requests", rows.len() as f64)
        .number("prompt_tokens", stats.num_prompt_tokens as f64)
        .number("output_tokens", num_output_tokens as f64)
        .number("hit_tokens", stats.num_cached_tokens as f64)
        .number("steps", stats.num_steps as f64)
        .number("request_steps", times.num_seqs as f64)
        .number("preemptions", stats.num_preemptions as f64)
        .number("submit_seconds", seconds(submit.sum()))
        .number("schedule_seconds", seconds(times.schedule.sum()))
        .number("update_seconds", seconds(times.update.sum()))
        .number("take_seconds", seconds(take.sum()))
        .number("wall_seconds", seconds(total))
        .number("seconds", on_processor.unwrap_or(seconds(total)))
        .times("step", &whole, 1)
        .print();
    Ok(())
}

fn row(line: &str) -> Result<Row, Box<dyn Error>> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<usize>);
    let (Some(input), Some(output)) = (numbers.next(), numbers.next()) else {
        return Err(format!("a row has at least two numbers: {line:?}").into());
    };
    let mut prompt = Vec::new();
    for id in numbers {
        let id = id?;
        // The id itself is spelled out, so that no two blocks are equal by chance.
        prompt.extend([(id & 0xffff) as i32, (id >> 16 & 0xffff) as i32]);
        let base = id.wrapping_mul(2_654_435_761) % 100_003;
        prompt.extend((2..HASH_BLOCK).map(|place| ((base + place * 31) % 120_000) as i32));
    }
    let input = input?;
    if prompt.len() < input || input == 0 {
        return Err(format!("{input} tokens have other hash ids: {line:?}").into());
    }
    prompt.truncate(input);
    Ok(Row {
        prompt,
        params: Arc::new(SamplingParams {
            max_tokens: output?.max(1) as u32,
            ..SamplingParams::default()
        }),
    })
}
