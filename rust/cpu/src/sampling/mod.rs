//! From a row of logits to a token: one [`Sampler`] per worker, one call per row.
//!
//! In this order: soundness check, raw log-probabilities, bias, allowed tokens, bad words, repeated n-grams, structure,
//! `min_tokens`, penalties, DRY, temperature, `top_k`, `top_p`, `min_p`, what `further` cuts off, draw. The result is a function of the row, its parameters, its history and
//! the key `(seed, sequence_index, position)` alone: no state, no libm, fixed orders of sums (`tiles`), integer masses
//! where a decision hangs on a sum (`cut`). So it is the same in every batch, thread, vector width and machine.
//!
//! What a row of V tokens costs, in passes over V: greedy one (maximum and check); `top_k` or `min_p` one and a few
//! tiles; no truncation, `top_p` alone or log-probabilities one more, of exponentials; edits one more to scan again.
//!
//! Every pass is `#[inline(always)]`, down from [`Sampler::run`], and written for LLVM to vectorise: call `run` from a
//! `#[target_feature]` function, and they are compiled for its features. A pass may not stand in a closure, which can
//! be compiled apart and without them (it cost half of the speed of `top_p`): hence `if` and `match` here, and no
//! `map`. Multiplications and additions stay separate, since a fused one is slow where there is no instruction for it.
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "a pass must take the target features of its caller"
)]

mod candidates;
mod cut;
mod deciding;
mod edits;
mod exp_ln;
mod further;
mod logprobs;
mod mass;
mod philox;
mod repeats;
mod scan;
#[cfg(test)]
pub(crate) mod tests;
mod tiles;
mod truncate;

use inferlib_program::{LogitsRow, LogprobsMode, RowLogprobs, RowStatus, SampledRow};

use candidates::Candidates;
use cut::PrefixEnd;
pub(crate) use deciding::Deciding;
use edits::Edits;
use further::Further;
use logprobs::Report;
use mass::{Softmax, TileSums};
use scan::Scan;
use truncate::{Workspace, truncate};

/// The result of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowResult {
    /// The drawn token, or the target of a scored row. Of no meaning if the status is `Failed`.
    pub token_id: i32,
    /// Whether there is a token.
    pub status: RowStatus,
    /// Present where the request asked for log-probabilities and the status is `Ok`.
    pub logprobs: Option<RowLogprobs>,
    /// Mirostat's next limit, where it was asked for.
    pub mirostat_mu: Option<f32>,
    /// The model's logits, of a row that wants them; its status is then `Failed`.
    pub logits: Option<Vec<f32>>,
}

/// Draws tokens. Holds scratch only: any row may go to any sampler.
#[derive(Debug)]
pub struct Sampler {
    scan: Scan,
    sums: TileSums,
    candidates: Candidates,
    prefix_end: PrefixEnd,
    edits: Edits,
    further: Further,
    /// The model's own logits, where edits would overwrite what log-probabilities still need.
    raw: Vec<f32>,
}

impl Sampler {
    /// With scratch for rows of `vocab_size` logits (longer rows let it grow): address space of 13 bytes per token,
    /// committed only as far as rows need it.
    #[must_use]
    pub fn new(vocab_size: usize) -> Self {
        Self {
            scan: Scan::with_capacity(vocab_size),
            sums: TileSums::with_capacity(vocab_size),
            candidates: Candidates::with_capacity(vocab_size),
            prefix_end: PrefixEnd::default(),
            edits: Edits::with_capacity(vocab_size),
            further: Further::default(),
            raw: Vec::new(),
        }
    }

    /// Draw or score one row.
    ///
    /// `logits` holds the model's logits, one per token, and is overwritten where the request asks for bias, masks or
    /// penalties. `history` holds the row's prompt and output tokens, `row.history_prompt_len` of the prompt first; it
    /// may be empty where `SamplingParams::needs_history` is false. Tokens outside the vocabulary are passed over.
    ///
    /// `Failed` means that a logit is NaN or `+inf`, that no token is left to draw, that the target of a scored row is
    /// outside the vocabulary, or that the row wants its logits and nothing else. A scored row reports the model's own
    /// distribution (`LogprobsMode::Raw`): nothing was drawn from any other. Log-probabilities of a processed greedy row
    /// are those after bias, masks and penalties. Lists hold tokens of positive probability only, so they may be shorter
    /// than asked for.
    #[inline(always)]
    pub fn run(&mut self, logits: &mut [f32], row: &SampledRow, history: &[i32]) -> RowResult {
        let failed = RowResult {
            token_id: 0,
            status: RowStatus::Failed,
            logprobs: None,
            mirostat_mu: None,
            logits: None,
        };
        if row.wants_logits {
            return RowResult {
                logits: Some(logits.to_vec()),
                ..failed
            };
        }
        match self.token(logits, row, history) {
            Some((token_id, logprobs, mirostat_mu)) => RowResult {
                token_id,
                status: RowStatus::Ok,
                logprobs,
                mirostat_mu,
                logits: None,
            },
            None => failed,
        }
    }

    /// `None` if the row fails.
    #[inline(always)]
    #[expect(clippy::manual_map, reason = "a pass must not stand in a closure")]
    fn token(
        &mut self,
        logits: &mut [f32],
        row: &SampledRow,
        history: &[i32],
    ) -> Option<(i32, Option<RowLogprobs>, Option<f32>)> {
        let params = &*row.params;
        let is_raw = params.logprobs_mode == LogprobsMode::Raw;
        let raw_count = match row.kind {
            LogitsRow::Score { .. } => Some(params.prompt_logprobs.unwrap_or(0)),
            LogitsRow::Sample => params.logprobs.filter(|_| is_raw),
        };
        let max = self.scan.run(logits)?;
        let raw_report = match raw_count {
            Some(count) => Some(self.report(logits, Softmax::new(max, 1.0), count)),
            None => None,
        };

        let mut is_edited = false;
        let (token, processed_report, mu) = match row.kind {
            LogitsRow::Score { target } => (
                usize::try_from(target)
                    .ok()
                    .filter(|&token| token < logits.len())?,
                None,
                None,
            ),
            LogitsRow::Sample => {
                is_edited = edits::are_wanted(row, history);
                if is_edited {
                    self.raw.clear();
                    if raw_report.is_some() {
                        self.raw.extend_from_slice(logits);
                    }
                    self.edits.apply(logits, row, history);
                }
                let max = if is_edited {
                    self.scan.run(logits)?
                } else {
                    max
                };
                self.sample(logits, max, row, params.logprobs.filter(|_| !is_raw))
            }
        };

        let reported_logits = if is_edited && is_raw {
            self.raw.as_slice()
        } else {
            logits
        };
        let report = raw_report.or(processed_report);
        let logprobs = match report {
            Some(report) => Some(report.finish(reported_logits, token)),
            None => None,
        };
        i32::try_from(token).ok().map(|token| (token, logprobs, mu))
    }

    /// Pick a token, and describe the distribution that it came from if `count` is present.
    #[inline(always)]
    fn sample(
        &mut self,
        logits: &[f32],
        max: f32,
        row: &SampledRow,
        count: Option<u32>,
    ) -> (usize, Option<Report>, Option<f32>) {
        let params = &*row.params;
        let is_greedy = params.temperature <= 0.0;
        let softmax = Softmax::new(max, if is_greedy { 1.0 } else { params.temperature });
        let mut is_truncated =
            !is_greedy && truncate(&mut self.workspace(), logits, params, &softmax);
        if params.cuts_further() {
            if !is_truncated {
                self.candidates.collect(logits, &self.scan, f32::MIN);
                is_truncated = true;
            }
            self.further.cut(&mut self.candidates, row, &softmax);
        }
        let values = if is_truncated {
            self.candidates.logits()
        } else {
            logits
        };
        let total = if is_greedy && count.is_none() {
            1.0
        } else {
            self.sums.fill(values, &softmax)
        };
        let index = if is_greedy {
            self.scan.argmax(logits, max)
        } else {
            let uniform = philox::uniform(row.seed, row.sequence_index, row.position);
            self.sums.draw(values, &softmax, uniform)
        };
        let token = if is_truncated {
            self.candidates.id(index)
        } else {
            index
        };
        let mu = match params.mirostat {
            Some(mirostat) if !is_greedy => {
                let state = (mirostat, row.mirostat_mu);
                let candidates = &self.candidates;
                Some(self.further.next_mu(candidates, &softmax, index, state))
            }
            _ => None,
        };
        let report = match count {
            Some(count) => {
                if !is_truncated {
                    self.candidates.collect_best(
                        logits,
                        count as usize,
                        &mut self.scan,
                        &mut self.prefix_end,
                    );
                }
                Some(Report::of_candidates(
                    &mut self.candidates,
                    &mut self.prefix_end,
                    softmax,
                    total,
                    count as usize,
                ))
            }
            None => None,
        };
        (token, report, mu)
    }

    /// Describe the distribution over a whole row that was scanned. Overwrites sums and candidates.
    #[inline(always)]
    fn report(&mut self, logits: &[f32], softmax: Softmax, count: u32) -> Report {
        let total = self.sums.fill(logits, &softmax);
        self.candidates
            .collect_best(logits, count as usize, &mut self.scan, &mut self.prefix_end);
        Report::of_candidates(
            &mut self.candidates,
            &mut self.prefix_end,
            softmax,
            total,
            count as usize,
        )
    }

    fn workspace(&mut self) -> Workspace<'_> {
        Workspace {
            scan: &mut self.scan,
            sums: &mut self.sums,
            candidates: &mut self.candidates,
            prefix_end: &mut self.prefix_end,
        }
    }
}
