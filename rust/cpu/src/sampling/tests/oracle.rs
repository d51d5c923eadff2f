//! The sampler as one would first write it: dense loops, one sort, float64. Where a decision hangs on a rounding error
//! it gives a range.

use inferlib_program::{SampledRow, SamplingParams};

/// Relative slack of a decision on a sum of float32 weights.
const SLACK: f64 = 4e-6;

/// Logits after bias, masks and penalties.
pub(super) fn edited(logits: &[f32], row: &SampledRow, history: &[i32]) -> Vec<f32> {
    let params = &*row.params;
    let (prompt, output) = history.split_at(row.history_prompt_len as usize);
    let masked_until_min = row.num_output_tokens < params.min_tokens;
    let edit = |(token, &logit): (usize, &f32)| {
        let token = token as i32;
        let mut x = logit;
        for &(_, bias) in params.logit_bias.iter().filter(|(id, _)| *id == token) {
            x += bias;
        }
        let is_stop =
            params.eos_token_ids.contains(&token) || params.stop_token_ids.contains(&token);
        let completes_bad_words = params.bad_words.iter().any(|run| {
            run.last() == Some(&token)
                && history
                    .iter()
                    .rev()
                    .zip(run.iter().rev().skip(1))
                    .all(|(a, b)| a == b)
                && history.len() + 1 >= run.len()
        });
        let is_refused = params
            .allowed_token_ids
            .as_ref()
            .is_some_and(|allowed| !allowed.contains(&token));
        let is_outside = row.mask.as_ref().is_some_and(|mask| {
            let word = mask.get(token as usize / 32).copied().unwrap_or(0);
            word >> (token % 32) & 1 == 0
        });
        if is_refused || is_outside || completes_bad_words || (masked_until_min && is_stop) {
            x = f32::NEG_INFINITY;
        }
        let in_output = output.iter().filter(|&&id| id == token).count();
        if in_output > 0 || prompt.contains(&token) {
            let penalty = params.repetition_penalty;
            x = if penalty == 1.0 {
                x
            } else if x < 0.0 {
                x * penalty
            } else {
                x / penalty
            };
        }
        if in_output > 0 {
            x -= params.frequency_penalty * in_output as f32;
            x -= params.presence_penalty;
        }
        x
    };
    logits.iter().enumerate().map(edit).collect()
}

/// Ids above `-inf`, best first.
pub(super) fn ranking(logits: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len())
        .filter(|&id| logits[id] > f32::NEG_INFINITY)
        .collect();
    ids.sort_by(|&a, &b| {
        logits[b]
            .partial_cmp(&logits[a])
            .expect("no NaN")
            .then(a.cmp(&b))
    });
    ids
}

/// `exp((x - max) / temperature)` of each id.
pub(super) fn weights(logits: &[f32], ids: &[usize], temperature: f32) -> Vec<f64> {
    let max = ids
        .iter()
        .map(|&id| f64::from(logits[id]))
        .fold(f64::NEG_INFINITY, f64::max);
    ids.iter()
        .map(|&id| ((f64::from(logits[id]) - max) / f64::from(temperature)).exp())
        .collect()
}

/// How many of the ranking `params` keep: at least and at most.
pub(super) fn kept(logits: &[f32], ranking: &[usize], params: &SamplingParams) -> (usize, usize) {
    let count = params
        .top_k
        .map_or(ranking.len(), |k| ranking.len().min(k as usize));
    let weights = weights(logits, &ranking[..count], params.temperature);
    let total: f64 = weights.iter().sum();
    let nucleus = |share: f64| {
        let mut sum = 0.0;
        let end = weights.iter().position(|weight| {
            sum += weight / total;
            sum >= share
        });
        if params.top_p >= 1.0 {
            count
        } else {
            end.map_or(count, |end| end + 1)
        }
    };
    let best = |share: f64| {
        if params.min_p > 0.0 {
            weights.iter().filter(|&&w| w >= share).count()
        } else {
            count
        }
    };
    let (top_p, min_p) = (f64::from(params.top_p), f64::from(params.min_p));
    let least = nucleus(top_p - SLACK).min(best(min_p * (1.0 + SLACK)));
    let most = nucleus(top_p + SLACK).min(best(min_p * (1.0 - SLACK)));
    (least.max(1), most.max(1))
}
