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

/// Resolved sampling parameters, in the order in which they act: bias, allowed and bad words, penalties,
/// temperature, `top_k`, `top_p`, `min_p`, draw.
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
    }
}
