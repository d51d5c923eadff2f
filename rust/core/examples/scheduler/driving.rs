//! A scheduler and an executor that only pretends: the same token for every row, at no cost that is measured.

use inferlib_core::scheduler::{BACKGROUND_TOKENS, Policy, ROWS_PER_PASS};
use inferlib_core::{GroupConfig, PrefixHash, Scheduler, SchedulerConfig};
use inferlib_program::{Batch, LogitsRow, RowLogprobs, RowStatus, StepOutput};

use crate::report::Times;

/// Token ids of prompts are below this.
pub(crate) const VOCAB_SIZE: usize = 131_072;

/// One KV group of `num_blocks`, no limit on the queue, prefix caching on, first come, first served.
pub(crate) fn config(
    num_blocks: usize,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
) -> SchedulerConfig {
    SchedulerConfig {
        groups: vec![GroupConfig {
            num_blocks: num_blocks as u32,
            window: None,
        }],
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len: VOCAB_SIZE,
        vocab_size: VOCAB_SIZE,
        speculation: None,
        draft_model: None,
        rows_per_pass: ROWS_PER_PASS,
        policy: Policy::Fcfs,
        enable_prefix_caching: true,
        whole_prompts: false,
        background_tokens: BACKGROUND_TOKENS,
        max_chunk: None,
        max_waiting: None,
        max_waiting_tokens: None,
        prefix_hash: PrefixHash::default(),
    }
}

/// `count` tokens of which no 16 are those of another seed.
pub(crate) fn tokens(seed: usize, count: usize) -> Vec<i32> {
    (0..count)
        .map(|position| ((seed * 7919 + position * 31) % 100_003) as i32)
        .collect()
}

/// Answers every row of a batch with the token 7, and with log-probabilities where they were asked for.
#[derive(Default)]
pub(crate) struct Executor {
    output: StepOutput,
}

impl Executor {
    pub(crate) fn run(&mut self, batch: &Batch) -> &StepOutput {
        let count = batch.num_sampled();
        self.output.token_ids.resize(count, 7);
        self.output.status.resize(count, RowStatus::Ok);
        self.output.logprobs.resize(count, None);
        for (logprobs, row) in self.output.logprobs.iter_mut().zip(&batch.sampled) {
            let top = match row.kind {
                LogitsRow::Sample => row.params.logprobs,
                LogitsRow::Score { .. } => row.params.prompt_logprobs,
            };
            if top.is_some() != logprobs.is_some() {
                *logprobs = top.map(|top| RowLogprobs {
                    logprob: -1.0,
                    rank: 1,
                    top_ids: vec![7; top as usize],
                    top_logprobs: vec![-1.0; top as usize],
                });
            }
        }
        &self.output
    }
}

/// Times of both halves of each step, and what was in it.
#[derive(Default)]
pub(crate) struct StepTimes {
    pub(crate) schedule: Times,
    pub(crate) update: Times,
    pub(crate) num_seqs: u64,
}

/// One step; the ids of the requests that ended go to `finished`. Whether there was one.
pub(crate) fn step(
    scheduler: &mut Scheduler,
    executor: &mut Executor,
    times: &mut StepTimes,
    finished: &mut Vec<inferlib_program::RequestId>,
) -> bool {
    let StepTimes {
        schedule, update, ..
    } = times;
    let Some(batch) = schedule.of(|| scheduler.schedule(0.0)) else {
        return false;
    };
    times.num_seqs += batch.num_seqs() as u64;
    let output = executor.run(batch);
    let events = update
        .of(|| scheduler.update(output, 0.0))
        .expect("the output has the batch's rows");
    finished.extend_from_slice(&events.finished_requests);
    true
}
