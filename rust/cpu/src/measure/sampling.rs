//! What it costs to draw a token.

use std::sync::Arc;
use std::time::Instant;

use inferlib_program::{LogitsRow, SampledRow, SamplingParams};

use crate::kernels::Kernels;
use crate::random_weights::Random;
use crate::sampling::Sampler;
use crate::tier::Tier;

/// Rows that take turns, so that none is in the fastest cache already.
const ROWS: usize = 4;

/// Rows of logits as a model gives them, and a tier's sampler.
#[derive(Debug)]
pub struct Sampling {
    kernels: Kernels,
    sampler: Sampler,
    rows: Vec<Vec<f32>>,
}

impl Sampling {
    /// Rows of `vocab_size` logits for the sampler of `tier`, which must be available. The probability of the `r`-th best
    /// token is proportional to `r^-exponent`: at 1.5 the best 60 have nine tenths, at 0.5 most of a vocabulary has.
    #[must_use]
    pub fn new(vocab_size: usize, tier: Tier, exponent: f32) -> Self {
        let mut random = Random::new(3);
        let mut shuffled = || {
            #[expect(clippy::cast_precision_loss, reason = "a vocabulary size")]
            let mut logits: Vec<f32> = (1..=vocab_size)
                .map(|rank| -exponent * (rank as f32).ln())
                .collect();
            for i in (1..vocab_size).rev() {
                #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
                logits.swap(i, random.next() as usize % (i + 1));
            }
            logits
        };
        Self {
            kernels: Kernels::of(tier),
            sampler: Sampler::new(vocab_size),
            rows: (0..ROWS).map(|_| shuffled()).collect(),
        }
    }

    /// Seconds of each of `repeats` draws with `params`, ascending. Logits are not edited: no bias, mask or penalty.
    ///
    /// # Panics
    /// If `params` edit logits.
    pub fn seconds(&mut self, params: &SamplingParams, repeats: usize) -> Vec<f64> {
        let params = Arc::new(params.clone());
        assert!(!params.needs_history() && params.logit_bias.is_empty());
        let mut seconds: Vec<f64> = (0..repeats)
            .map(|i| {
                let row = SampledRow {
                    kind: LogitsRow::Sample,
                    sequence: 0,
                    request: inferlib_program::RequestId(0),
                    params: Arc::clone(&params),
                    seed: 1,
                    sequence_index: 0,
                    position: u32::try_from(i).unwrap_or(0),
                    num_output_tokens: 0,
                    history_start: 0,
                    history_prompt_len: 0,
                    history_output_len: 0,
                    mirostat_mu: 0.0,
                    mask: None,
                    wants_logits: false,
                };
                let (logits, mut result) = (&mut self.rows[i % ROWS], None);
                let start = Instant::now();
                // SAFETY: the tier is available.
                unsafe { (self.kernels.sample)(&mut self.sampler, logits, &row, &[], &mut result) };
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    }
}
