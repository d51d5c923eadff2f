//! `_core.SamplingParams`: resolved and validated, shared by all rows of a request.

use std::sync::Arc;

use inferlib_program::{Dry, LogprobsMode, Mirostat, SamplingParams};
use pyo3::prelude::*;

use crate::errors::{Error, to_py_err};

/// How a request's tokens are drawn: every value resolved. Raises `RequestError` with `field` for what cannot work.
#[pyclass(frozen, eq, module = "inferlib._core", name = "SamplingParams")]
#[derive(PartialEq)]
pub(crate) struct PySamplingParams {
    params: Arc<SamplingParams>,
}

impl PySamplingParams {
    pub(crate) fn shared(&self) -> Arc<SamplingParams> {
        Arc::clone(&self.params)
    }

    pub(crate) fn from_shared(params: Arc<SamplingParams>) -> Self {
        Self { params }
    }
}

/// Multiplier, base, allowed length, how many tokens back, breakers.
type DryOptions = (f32, f32, i64, Option<i64>, Vec<i64>);

#[pymethods]
impl PySamplingParams {
    /// `mirostat` is `(tau, eta)`; `dry` is `(multiplier, base, allowed_length, last_n, breaker_ids)`.
    #[new]
    #[pyo3(signature = (
        *, temperature = 1.0, top_k = None, top_p = 1.0, min_p = 0.0, top_n_sigma = None, typical_p = 1.0,
        xtc_probability = 0.0, xtc_threshold = 0.1, mirostat = None, no_repeat_ngram_size = 0, dry = None, presence_penalty = 0.0, frequency_penalty = 0.0,
        repetition_penalty = 1.0, min_tokens = 0, max_tokens = 256, eos_token_ids = Vec::new(),
        stop_token_ids = Vec::new(), logit_bias = Vec::new(), allowed_token_ids = None, bad_words = Vec::new(),
        logprobs = None, prompt_logprobs = None, prompt_logprobs_start = 0, logprobs_mode = "raw",
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "pyo3 converts into owned values"
    )]
    fn new(
        py: Python<'_>,
        temperature: f32,
        top_k: Option<i64>,
        top_p: f32,
        min_p: f32,
        top_n_sigma: Option<f32>,
        typical_p: f32,
        xtc_probability: f32,
        xtc_threshold: f32,
        mirostat: Option<(f32, f32)>,
        no_repeat_ngram_size: i64,
        dry: Option<DryOptions>,
        presence_penalty: f32,
        frequency_penalty: f32,
        repetition_penalty: f32,
        min_tokens: i64,
        max_tokens: i64,
        eos_token_ids: Vec<i64>,
        stop_token_ids: Vec<i64>,
        logit_bias: Vec<(i64, f32)>,
        allowed_token_ids: Option<Vec<i64>>,
        bad_words: Vec<Vec<i64>>,
        logprobs: Option<i64>,
        prompt_logprobs: Option<i64>,
        prompt_logprobs_start: i64,
        logprobs_mode: &str,
    ) -> PyResult<Self> {
        let build = || -> Result<SamplingParams, Error> {
            let bias = logit_bias
                .iter()
                .map(|&(token, bias)| Ok((token_id("logit_bias", token)?, bias)));
            let mut logit_bias = bias.collect::<Result<Vec<_>, Error>>()?;
            logit_bias.sort_by_key(|&(token, _)| token);
            let words = bad_words
                .into_iter()
                .map(|word| token_ids("bad_words", word));
            let params = SamplingParams {
                temperature,
                top_k: top_k.map(|value| count("top_k", value)).transpose()?,
                top_p,
                min_p,
                top_n_sigma,
                typical_p,
                xtc_probability,
                xtc_threshold,
                mirostat: mirostat.map(|(tau, eta)| Mirostat { tau, eta }),
                no_repeat_ngram_size: count("no_repeat_ngram_size", no_repeat_ngram_size)?,
                dry: dry.map(read_dry).transpose()?,
                presence_penalty,
                frequency_penalty,
                repetition_penalty,
                min_tokens: count("min_tokens", min_tokens)?,
                max_tokens: count("max_tokens", max_tokens)?,
                eos_token_ids: token_set("eos_token_ids", eos_token_ids)?,
                stop_token_ids: token_set("stop_token_ids", stop_token_ids)?,
                logit_bias,
                allowed_token_ids: allowed_token_ids
                    .map(|tokens| token_set("allowed_token_ids", tokens))
                    .transpose()?,
                bad_words: words.collect::<Result<_, _>>()?,
                logprobs: logprobs.map(|value| count("logprobs", value)).transpose()?,
                prompt_logprobs: prompt_logprobs
                    .map(|value| count("prompt_logprobs", value))
                    .transpose()?,
                prompt_logprobs_start: count("prompt_logprobs_start", prompt_logprobs_start)?,
                logprobs_mode: match logprobs_mode {
                    "raw" => LogprobsMode::Raw,
                    "processed" => LogprobsMode::Processed,
                    other => {
                        let message = format!(
                            r#"logprobs_mode is {other:?}; it can be "raw" or "processed""#
                        );
                        return Err(Error::Request {
                            field: "logprobs_mode",
                            message,
                        });
                    }
                },
            };
            params.validate(None)?;
            Ok(params)
        };
        let params = Arc::new(build().map_err(|error| to_py_err(py, error))?);
        Ok(Self { params })
    }

    /// 0 is greedy.
    #[getter]
    fn temperature(&self) -> f32 {
        self.params.temperature
    }

    /// Keep the `k` most likely; `None` keeps all.
    #[getter]
    fn top_k(&self) -> Option<u32> {
        self.params.top_k
    }

    /// Keep the smallest set whose probability reaches this.
    #[getter]
    fn top_p(&self) -> f32 {
        self.params.top_p
    }

    /// Keep tokens with at least this share of the best one's probability.
    #[getter]
    fn min_p(&self) -> f32 {
        self.params.min_p
    }

    /// Keep tokens whose logit is at most so many standard deviations below the best one's.
    #[getter]
    fn top_n_sigma(&self) -> Option<f32> {
        self.params.top_n_sigma
    }

    /// Keep the set of this probability whose surprise is nearest to the entropy.
    #[getter]
    fn typical_p(&self) -> f32 {
        self.params.typical_p
    }

    /// How often XTC acts.
    #[getter]
    fn xtc_probability(&self) -> f32 {
        self.params.xtc_probability
    }

    /// Tokens of at least this probability are XTC's.
    #[getter]
    fn xtc_threshold(&self) -> f32 {
        self.params.xtc_threshold
    }

    /// Wanted surprise in bits, and how fast the limit follows.
    #[getter]
    fn mirostat(&self) -> Option<(f32, f32)> {
        self.params
            .mirostat
            .map(|mirostat| (mirostat.tau, mirostat.eta))
    }

    /// Runs of so many tokens do not occur twice.
    #[getter]
    fn no_repeat_ngram_size(&self) -> u32 {
        self.params.no_repeat_ngram_size
    }

    /// Subtracted once from every generated token's logit.
    #[getter]
    fn presence_penalty(&self) -> f32 {
        self.params.presence_penalty
    }

    /// Subtracted per occurrence in the generated tokens.
    #[getter]
    fn frequency_penalty(&self) -> f32 {
        self.params.frequency_penalty
    }

    /// Divides positive and multiplies negative logits of all tokens so far.
    #[getter]
    fn repetition_penalty(&self) -> f32 {
        self.params.repetition_penalty
    }

    /// Stop tokens are masked until this many tokens were generated.
    #[getter]
    fn min_tokens(&self) -> u32 {
        self.params.min_tokens
    }

    /// Most tokens to generate.
    #[getter]
    fn max_tokens(&self) -> u32 {
        self.params.max_tokens
    }

    /// End-of-sequence tokens, ascending.
    #[getter]
    fn eos_token_ids(&self) -> Vec<i32> {
        self.params.eos_token_ids.clone()
    }

    /// Further stop tokens, ascending.
    #[getter]
    fn stop_token_ids(&self) -> Vec<i32> {
        self.params.stop_token_ids.clone()
    }

    /// Added to logits, by token, ascending.
    #[getter]
    fn logit_bias(&self) -> Vec<(i32, f32)> {
        self.params.logit_bias.clone()
    }

    /// If present, only these tokens may be drawn.
    #[getter]
    fn allowed_token_ids(&self) -> Option<Vec<i32>> {
        self.params.allowed_token_ids.clone()
    }

    /// Token runs that may not be completed.
    #[getter]
    fn bad_words(&self) -> Vec<Vec<i32>> {
        self.params.bad_words.clone()
    }

    /// Log-probabilities of the best `k` per output token.
    #[getter]
    fn logprobs(&self) -> Option<u32> {
        self.params.logprobs
    }

    /// The same per prompt token.
    #[getter]
    fn prompt_logprobs(&self) -> Option<u32> {
        self.params.prompt_logprobs
    }

    /// First prompt position that is scored.
    #[getter]
    fn prompt_logprobs_start(&self) -> u32 {
        self.params.prompt_logprobs_start
    }

    /// `"raw"` or `"processed"`.
    #[getter]
    fn logprobs_mode(&self) -> &'static str {
        match self.params.logprobs_mode {
            LogprobsMode::Raw => "raw",
            LogprobsMode::Processed => "processed",
        }
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.params)
    }
}

fn read_dry(
    (multiplier, base, allowed_length, last_n, breaker_ids): (f32, f32, i64, Option<i64>, Vec<i64>),
) -> Result<Dry, Error> {
    Ok(Dry {
        multiplier,
        base,
        allowed_length: count("dry_allowed_length", allowed_length)?,
        last_n: last_n
            .map(|value| count("dry_penalty_last_n", value))
            .transpose()?,
        breaker_ids: token_set("dry_sequence_breakers", breaker_ids)?,
    })
}

fn count(field: &'static str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Request {
        field,
        message: format!("{field} is {value}; it must be 0 to {}", u32::MAX),
    })
}

fn token_id(field: &'static str, token: i64) -> Result<i32, Error> {
    i32::try_from(token).map_err(|_| Error::Request {
        field,
        message: format!("{field} holds {token}, which is no token id"),
    })
}

fn token_ids(field: &'static str, tokens: Vec<i64>) -> Result<Vec<i32>, Error> {
    tokens
        .into_iter()
        .map(|token| token_id(field, token))
        .collect()
}

fn token_set(field: &'static str, tokens: Vec<i64>) -> Result<Vec<i32>, Error> {
    let mut tokens = token_ids(field, tokens)?;
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}
