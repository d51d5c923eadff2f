//! Sparse changes to a row of logits before the distribution is formed: bias, masks, penalties and DRY, in that order.
//! They cost what they touch: biased, masked and seen tokens; only `allowed_token_ids` and a grammar write the whole row.

use inferlib_program::{SampledRow, SamplingParams};

use super::repeats::{self, Repeats};

/// A token of the prompt, beside the count of the token among the output.
const IN_PROMPT: u32 = 1 << 31;

/// Scratch of the edits.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// `[vocab_size]`, zero between rows: occurrences in the output, and `IN_PROMPT`.
    counts: Vec<u32>,
    /// Logits of the allowed tokens while the row is masked.
    allowed: Vec<f32>,
    repeats: Repeats,
}

impl Edits {
    /// Room for `vocab_size` tokens: address space, touched only as far as it is used.
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        Self {
            counts: vec![0; vocab_size],
            allowed: Vec::new(),
            repeats: Repeats::default(),
        }
    }

    /// Change `logits` as the request asks. Token ids outside the vocabulary are passed over.
    pub(super) fn apply(&mut self, logits: &mut [f32], row: &SampledRow, history: &[i32]) {
        let params = &*row.params;
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = at(logits, token) {
                *logit += bias;
            }
        }
        if let Some(allowed) = &params.allowed_token_ids {
            self.mask_all_but(logits, allowed);
        }
        for run in &params.bad_words {
            if let Some((&last, prefix)) = run.split_last()
                && history.ends_with(prefix)
            {
                mask(logits, last);
            }
        }
        if params.no_repeat_ngram_size > 0 {
            for token in repeats::completions(history, params.no_repeat_ngram_size as usize) {
                mask(logits, token);
            }
        }
        if let Some(words) = &row.mask {
            keep_only(logits, words);
        }
        if row.num_output_tokens < params.min_tokens {
            for &token in params.eos_token_ids.iter().chain(&params.stop_token_ids) {
                mask(logits, token);
            }
        }
        self.penalize(logits, row, history);
        if let Some(dry) = &params.dry {
            for (token, penalty) in self.repeats.penalties(history, dry) {
                if let Some(logit) = at(logits, token) {
                    *logit -= penalty;
                }
            }
        }
    }

    fn mask_all_but(&mut self, logits: &mut [f32], allowed: &[i32]) {
        self.allowed.clear();
        self.allowed.extend(
            allowed
                .iter()
                .filter_map(|&token| at(logits, token).map(|logit| *logit)),
        );
        logits.fill(f32::NEG_INFINITY);
        let mut kept = self.allowed.iter();
        for &token in allowed {
            if let Some(logit) = at(logits, token)
                && let Some(&value) = kept.next()
            {
                *logit = value;
            }
        }
    }

    /// Each distinct token of the history once: first all are counted, then each is changed where it is met first.
    fn penalize(&mut self, logits: &mut [f32], row: &SampledRow, history: &[i32]) {
        let params = &*row.params;
        if !(has_repetition_penalty(params) || has_output_penalty(params)) {
            return;
        }
        if self.counts.len() < logits.len() {
            self.counts.resize(logits.len(), 0);
        }
        let counts = &mut self.counts[..logits.len()];
        let (prompt, output) = history.split_at(history.len().min(row.history_prompt_len as usize));
        for &token in prompt {
            if let Some(count) = at(counts, token) {
                *count |= IN_PROMPT;
            }
        }
        for &token in output {
            if let Some(count) = at(counts, token) {
                *count += 1;
            }
        }
        for &token in history {
            let Some(count) = at(counts, token) else {
                continue;
            };
            let seen = std::mem::take(count);
            if seen != 0
                && let Some(logit) = at(logits, token)
            {
                *logit = penalized(*logit, seen & !IN_PROMPT, params);
            }
        }
    }
}

/// Whether `apply` may change anything.
pub(super) fn are_wanted(row: &SampledRow, history: &[i32]) -> bool {
    let params = &*row.params;
    let stops = !(params.eos_token_ids.is_empty() && params.stop_token_ids.is_empty());
    !params.logit_bias.is_empty()
        || params.allowed_token_ids.is_some()
        || row.mask.is_some()
        || !params.bad_words.is_empty()
        || (row.num_output_tokens < params.min_tokens && stops)
        || (!history.is_empty() && repeats::are_wanted(params))
        || (!history.is_empty() && (has_repetition_penalty(params) || has_output_penalty(params)))
}

#[expect(clippy::float_cmp, reason = "the neutral value is exact")]
fn has_repetition_penalty(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
}

fn has_output_penalty(params: &SamplingParams) -> bool {
    params.presence_penalty != 0.0 || params.frequency_penalty != 0.0
}

/// Sources: Keskar et al. 2019 (repetition; the form for negative logits is Hugging Face's), `OpenAI`'s API
/// reference (frequency and presence).
#[expect(
    clippy::cast_precision_loss,
    reason = "a count above 2^24 is penalised as its neighbour"
)]
fn penalized(mut logit: f32, output_count: u32, params: &SamplingParams) -> f32 {
    if has_repetition_penalty(params) {
        if logit < 0.0 {
            logit *= params.repetition_penalty;
        } else {
            logit /= params.repetition_penalty;
        }
    }
    if output_count > 0 {
        logit -= params.frequency_penalty * output_count as f32;
        logit -= params.presence_penalty;
    }
    logit
}

/// Tokens whose bit is set keep their logits; what the mask does not reach is masked.
fn keep_only(logits: &mut [f32], words: &[u32]) {
    let (known, behind) = logits.split_at_mut(logits.len().min(32 * words.len()));
    behind.fill(f32::NEG_INFINITY);
    for (logits, &word) in known.chunks_mut(32).zip(words) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn mask(logits: &mut [f32], token: i32) {
    if let Some(logit) = at(logits, token) {
        *logit = f32::NEG_INFINITY;
    }
}

fn at<T>(values: &mut [T], token: i32) -> Option<&mut T> {
    usize::try_from(token)
        .ok()
        .and_then(|token| values.get_mut(token))
}
