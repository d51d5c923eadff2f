//! The sampler against a naive float64 oracle, and against what its documentation says.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "test values are small, and equal means equal"
)]

mod behaviour;
mod draw;
mod edits;
mod further;
mod oracle;
mod properties;

use std::sync::Arc;

use inferlib_program::{LogitsRow, SampledRow, SamplingParams};

use super::{RowResult, Sampler};

/// A row to sample with `params`, the same key every time.
pub(crate) fn row(params: SamplingParams) -> SampledRow {
    SampledRow {
        kind: LogitsRow::Sample,
        sequence: 0,
        request: inferlib_program::RequestId(0),
        params: Arc::new(params),
        seed: 0x5eed,
        sequence_index: 0,
        position: 17,
        num_output_tokens: 0,
        history_start: 0,
        history_prompt_len: 0,
        history_output_len: 0,
        mirostat_mu: 0.0,
        mask: None,
        wants_logits: false,
    }
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

/// Run `row` on a sampler of its own.
fn run(logits: &[f32], row: &SampledRow, history: &[i32]) -> RowResult {
    Sampler::new(logits.len()).run(&mut logits.to_vec(), row, history)
}

/// Pseudo-random words without a library: the same on every machine.
fn words(seed: u64) -> impl Iterator<Item = u32> {
    (0..).map(move |i| super::philox::philox4x32_10([i, 0, 0, 1], [seed as u32, 2])[0])
}

/// Roughly bell-shaped logits around zero, with `spread` as standard deviation.
pub(crate) fn bell(len: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut words = words(seed);
    let mut byte_sum = || {
        words.next().map_or(0.0, |word| {
            word.to_le_bytes().iter().map(|&b| f32::from(b)).sum()
        })
    };
    (0..len)
        .map(|_| (byte_sum() + byte_sum() - 1020.0) / 209.0 * spread)
        .collect()
}
