//! What is cut off after `top_k`, `top_p` and `min_p`: `top_n_sigma`, `typical_p`, XTC and mirostat, in that order.
//!
//! None of these keeps a prefix of the ranking in general, and all are rare: they work on a list of candidates, in
//! float64, with sums in the order of ids. So they are the same everywhere, and cost a pass or a sort of what is left;
//! without another cut that is the whole vocabulary. Every one leaves a token.
//!
//! Sources: Tang et al. 2024 (top-nσ); Meister et al. 2022 (locally typical sampling); p-e-w 2024 (XTC,
//! text-generation-webui #6335); Basu et al. 2021 (mirostat, algorithm 2).

use inferlib_program::{Mirostat, SampledRow};

use super::candidates::Candidates;
use super::exp_ln::ln;
use super::mass::Softmax;
use super::philox;

/// Scratch.
#[derive(Debug, Default)]
pub(super) struct Further {
    weights: Vec<f32>,
    order: Vec<(f64, u32)>,
    kept: Vec<bool>,
}

impl Further {
    /// Drop candidates as the request asks. There is one at least, above `-inf`.
    pub(super) fn cut(&mut self, candidates: &mut Candidates, row: &SampledRow, softmax: &Softmax) {
        let params = &*row.params;
        if let Some(count) = params.top_n_sigma {
            keep_within_deviations(candidates, f64::from(count));
        }
        if params.typical_p < 1.0 {
            self.keep_typical(candidates, softmax, f64::from(params.typical_p));
        }
        if params.xtc_probability > 0.0 {
            let uniform = philox::second_uniform(row.seed, row.sequence_index, row.position);
            if uniform < f64::from(params.xtc_probability) {
                self.drop_top_choices(candidates, softmax, f64::from(params.xtc_threshold));
            }
        }
        if params.mirostat.is_some() {
            self.keep_unsurprising(candidates, softmax, f64::from(row.mirostat_mu));
        }
    }

    /// `top_n_sigma`'s, `typical_p`'s … probabilities are of what is left: weights and their sum, in order of ids.
    fn weigh(&mut self, candidates: &Candidates, softmax: &Softmax) -> f64 {
        softmax.weights_into(candidates.logits(), &mut self.weights);
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    /// The fewest tokens whose surprise is nearest to the entropy and whose probability together reaches `share`.
    fn keep_typical(&mut self, candidates: &mut Candidates, softmax: &Softmax, share: f64) {
        let total = self.weigh(candidates, softmax);
        let log_total = ln(total);
        let logits = candidates.logits();
        let surprises = || {
            logits
                .iter()
                .map(|&logit| log_total - softmax.log_weight(logit))
        };
        let entropy: f64 = surprises()
            .zip(&self.weights)
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(surprise, &weight)| f64::from(weight) / total * surprise)
            .sum();
        self.order.clear();
        let shifts = surprises().map(|surprise| (surprise - entropy).abs());
        self.order.extend(shifts.zip(0u32..));
        // A shift of nothing at all (`-inf - …`) is never typical.
        self.order
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.kept.clear();
        self.kept.resize(logits.len(), false);
        let mut sum = 0.0;
        for &(_, index) in &self.order {
            self.kept[index as usize] = true;
            sum += f64::from(self.weights[index as usize]);
            if sum >= share * total {
                break;
            }
        }
        candidates.keep_marked(&self.kept);
    }

    /// Of tokens of at least this probability only the least likely stays.
    fn drop_top_choices(&mut self, candidates: &mut Candidates, softmax: &Softmax, threshold: f64) {
        let total = self.weigh(candidates, softmax);
        let is_top = |weight: f32| f64::from(weight) >= threshold * total;
        let mut least: Option<usize> = None;
        for (index, &weight) in self.weights.iter().enumerate() {
            // Of equal ones that of the highest id is the least.
            if is_top(weight) && least.is_none_or(|least| weight <= self.weights[least]) {
                least = Some(index);
            }
        }
        self.kept.clear();
        let weights = self.weights.iter().enumerate();
        self.kept
            .extend(weights.map(|(index, &weight)| !is_top(weight) || least == Some(index)));
        candidates.keep_marked(&self.kept);
    }

    /// Tokens whose surprise in bits is at most `mu`; the most likely one in any case.
    fn keep_unsurprising(&mut self, candidates: &mut Candidates, softmax: &Softmax, mu: f64) {
        let log_total = ln(self.weigh(candidates, softmax));
        let limit = mu * std::f64::consts::LN_2;
        let best = best_of(candidates.logits());
        self.kept.clear();
        let logits = candidates.logits().iter().enumerate();
        self.kept.extend(logits.map(|(index, &logit)| {
            index == best || log_total - softmax.log_weight(logit) <= limit
        }));
        candidates.keep_marked(&self.kept);
    }

    /// Mirostat's state behind the token `index` of what was left.
    #[expect(clippy::cast_possible_truncation, reason = "one rounding, at the end")]
    pub(super) fn next_mu(
        &mut self,
        candidates: &Candidates,
        softmax: &Softmax,
        index: usize,
        (mirostat, mu): (Mirostat, f32),
    ) -> f32 {
        let log_total = ln(self.weigh(candidates, softmax));
        let logit = candidates.logits()[index];
        let surprise = (log_total - softmax.log_weight(logit)) / std::f64::consts::LN_2;
        let error = surprise - f64::from(mirostat.tau);
        (f64::from(mu) - f64::from(mirostat.eta) * error) as f32
    }
}

/// Tokens whose logit is at most `count` standard deviations (of what is left) below the largest.
#[expect(clippy::cast_precision_loss, reason = "a vocabulary size")]
fn keep_within_deviations(candidates: &mut Candidates, count: f64) {
    let logits = candidates.logits();
    let max = f64::from(logits[best_of(logits)]);
    let number = logits.len() as f64;
    // From the largest one, so that nothing overflows.
    let depths = || logits.iter().map(|&logit| f64::from(logit) - max);
    let mean = depths().sum::<f64>() / number;
    let variance = depths()
        .map(|depth| (depth - mean) * (depth - mean))
        .sum::<f64>()
        / number;
    let floor = -count * variance.sqrt();
    let kept: Vec<bool> = depths().map(|depth| depth >= floor).collect();
    candidates.keep_marked(&kept);
}

/// The place of the largest logit, the first one of several.
fn best_of(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best
}
