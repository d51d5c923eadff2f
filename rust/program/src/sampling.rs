//! How a request's tokens are drawn: every value resolved, validated once at submit.

/// Which distribution `logprobs` reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogprobsMode {
    /// Log-softmax of the model's own logits.
    #[default]
    Raw,
    /// After bias, penalties, temperature and truncation.
    Processed,
}

/// DRY: "don't repeat yourself", a penalty for going on with a run of tokens that was there before.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// What the logit loses at a match of `allowed_length`.
    pub multiplier: f32,
    /// By what the loss grows with every further token.
    pub base: f32,
    /// Shorter matches cost nothing.
    pub allowed_length: u32,
    /// Only so many last tokens are looked at; `None` looks at all.
    pub last_n: Option<u32>,
    /// Tokens that no match holds, ascending.
    pub breaker_ids: Vec<i32>,
}

/// Mirostat 2: the surprise of what is drawn is held at a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// Wanted surprise in bits.
    pub tau: f32,
    /// How fast the limit follows.
    pub eta: f32,
}

impl Mirostat {
    /// The limit of surprise that a sequence begins with.
    #[must_use]
    pub fn first_mu(&self) -> f32 {
        2.0 * self.tau
    }
}

/// Resolved sampling parameters, in the order in which they act: bias, allowed and bad words, repeated n-grams,
/// structure, penalties, DRY, temperature, `top_k`, `top_p`, `min_p`, `top_n_sigma`, `typical_p`, XTC, mirostat, draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy: argmax after bias, masks and penalties, lowest id on a tie.
    pub temperature: f32,
    /// Keep the `k` largest; `None` keeps all. Ties at the k-th value keep the lower ids.
    pub top_k: Option<u32>,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Keep tokens whose logit is at most so many standard deviations below the best one's; `None` keeps all.
    pub top_n_sigma: Option<f32>,
    /// Keep the set of this probability whose surprise is nearest to the entropy; 1 keeps all.
    pub typical_p: f32,
    /// How often XTC acts; 0 is never.
    pub xtc_probability: f32,
    /// XTC drops tokens of at least this probability but for the least likely of them.
    pub xtc_threshold: f32,
    /// Holds the surprise of what is drawn at a target. No tokens are drafted then: what is kept depends on the draws.
    pub mirostat: Option<Mirostat>,
    /// Runs of so many tokens do not occur twice; 0 lets them.
    pub no_repeat_ngram_size: u32,
    /// A penalty for repeated runs.
    pub dry: Option<Dry>,
    /// Subtracted once from every generated token's logit (`OpenAI`).
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the generated tokens (`OpenAI`).
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of prompt and generated tokens (CTRL, Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Stop tokens are masked until this many tokens were generated.
    pub min_tokens: u32,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// End-of-sequence tokens (empty with `ignore_eos`), ascending.
    pub eos_token_ids: Vec<i32>,
    /// Further stop tokens, ascending.
    pub stop_token_ids: Vec<i32>,
    /// Added to logits, by token, ascending.
    pub logit_bias: Vec<(i32, f32)>,
    /// If present, only these tokens may be drawn, ascending.
    pub allowed_token_ids: Option<Vec<i32>>,
    /// Token runs that may not be completed.
    pub bad_words: Vec<Vec<i32>>,
    /// Log-probabilities of the best `k` (and the drawn token) per output token.
    pub logprobs: Option<u32>,
    /// The same per prompt token, from `prompt_logprobs_start` on.
    pub prompt_logprobs: Option<u32>,
    /// First prompt position that is scored.
    pub prompt_logprobs_start: u32,
    /// Which distribution is reported.
    pub logprobs_mode: LogprobsMode,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            top_n_sigma: None,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: None,
            no_repeat_ngram_size: 0,
            dry: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            min_tokens: 0,
            max_tokens: 256,
            eos_token_ids: Vec::new(),
            stop_token_ids: Vec::new(),
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            prompt_logprobs_start: 0,
            logprobs_mode: LogprobsMode::Raw,
        }
    }
}

impl SamplingParams {
    /// Whether sampling needs the tokens seen so far.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "neutral values are exact")]
    pub fn needs_history(&self) -> bool {
        self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.repetition_penalty != 1.0
            || !self.bad_words.is_empty()
            || self.no_repeat_ngram_size > 0
            || self.dry.is_some()
    }

    /// Whether tokens are cut off in another way than by `top_k`, `top_p` and `min_p`.
    #[must_use]
    pub fn cuts_further(&self) -> bool {
        self.temperature > 0.0
            && (self.top_n_sigma.is_some()
                || self.typical_p < 1.0
                || self.xtc_probability > 0.0
                || self.mirostat.is_some())
    }
}
