//! Limits of sampling parameters, checked once at submit.

use crate::sampling::SamplingParams;

/// A sampling parameter that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidParam {
    /// Name of the parameter.
    pub field: &'static str,
    /// What was given, and what is possible.
    pub problem: String,
}

/// Most alternatives per token that can be reported.
pub const MAX_LOGPROBS: u32 = 1024;

impl SamplingParams {
    /// Check every value, and every token id against `vocab_size` where that is known.
    pub fn validate(&self, vocab_size: Option<usize>) -> Result<(), InvalidParam> {
        let within = |field, value: f32, low: f32, high: f32, what: &str| {
            if value.is_finite() && value >= low && value <= high {
                return Ok(());
            }
            let problem = format!("is {value}; it must be {what}");
            Err(InvalidParam { field, problem })
        };
        within("temperature", self.temperature, 0.0, f32::MAX, "0 or more")?;
        within(
            "top_p",
            self.top_p,
            f32::MIN_POSITIVE,
            1.0,
            "above 0 and at most 1",
        )?;
        within("min_p", self.min_p, 0.0, 1.0, "between 0 and 1")?;
        within(
            "presence_penalty",
            self.presence_penalty,
            -2.0,
            2.0,
            "between -2 and 2",
        )?;
        within(
            "frequency_penalty",
            self.frequency_penalty,
            -2.0,
            2.0,
            "between -2 and 2",
        )?;
        within(
            "repetition_penalty",
            self.repetition_penalty,
            f32::MIN_POSITIVE,
            f32::MAX,
            "above 0",
        )?;
        self.validate_further(within)?;
        let refuse = |field, problem: &str| {
            Err(InvalidParam {
                field,
                problem: problem.to_owned(),
            })
        };
        if self.top_k == Some(0) {
            return refuse(
                "top_k",
                "is 0; it must be 1 or more, or None to keep all tokens",
            );
        }
        if self.max_tokens == 0 && self.prompt_logprobs.is_none() {
            return refuse(
                "max_tokens",
                "is 0; that needs prompt_logprobs, otherwise nothing is computed",
            );
        }
        if self.min_tokens > self.max_tokens {
            let (field, problem) = (
                "min_tokens",
                format!(
                    "is {}; max_tokens is only {}",
                    self.min_tokens, self.max_tokens
                ),
            );
            return Err(InvalidParam { field, problem });
        }
        for (field, count) in [
            ("logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
        ] {
            if count.is_some_and(|count| count > MAX_LOGPROBS) {
                return refuse(field, "is above 1024, the most alternatives per token");
            }
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return refuse(
                "allowed_token_ids",
                "is empty; give at least one token, or None for all",
            );
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return refuse("bad_words", "holds an empty word");
        }
        if let Some((token, _)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            let problem = format!("of token {token} is not a number");
            return Err(InvalidParam {
                field: "logit_bias",
                problem,
            });
        }
        self.validate_token_ids(vocab_size)
    }

    fn validate_further(
        &self,
        within: impl Fn(&'static str, f32, f32, f32, &str) -> Result<(), InvalidParam>,
    ) -> Result<(), InvalidParam> {
        let above = "above 0";
        if let Some(count) = self.top_n_sigma {
            within("top_n_sigma", count, f32::MIN_POSITIVE, f32::MAX, above)?;
        }
        let (low, what) = (f32::MIN_POSITIVE, "above 0 and at most 1");
        within("typical_p", self.typical_p, low, 1.0, what)?;
        let what = "between 0 and 1";
        within("xtc_probability", self.xtc_probability, 0.0, 1.0, what)?;
        within("xtc_threshold", self.xtc_threshold, 0.0, 1.0, what)?;
        if let Some(mirostat) = self.mirostat {
            within("mirostat_tau", mirostat.tau, f32::MIN_POSITIVE, 1e3, above)?;
            within("mirostat_eta", mirostat.eta, 0.0, 10.0, "0 to 10")?;
        }
        if let Some(dry) = &self.dry {
            within("dry_multiplier", dry.multiplier, 0.0, 1e4, "0 to 10,000")?;
            within("dry_base", dry.base, 1.0, 1e4, "1 to 10,000")?;
        }
        Ok(())
    }

    fn validate_token_ids(&self, vocab_size: Option<usize>) -> Result<(), InvalidParam> {
        let known = |token: i32| {
            usize::try_from(token).is_ok_and(|token| vocab_size.is_none_or(|size| token < size))
        };
        let ascending = |tokens: &[i32]| tokens.is_sorted_by(|a, b| a < b);
        let bias: Vec<i32> = self.logit_bias.iter().map(|&(token, _)| token).collect();
        let breakers = self.dry.as_ref().map_or(&[][..], |dry| &dry.breaker_ids);
        let sorted: [(&'static str, &[i32]); 5] = [
            ("dry_sequence_breakers", breakers),
            ("eos_token_ids", &self.eos_token_ids),
            ("stop_token_ids", &self.stop_token_ids),
            ("logit_bias", &bias),
            (
                "allowed_token_ids",
                self.allowed_token_ids.as_deref().unwrap_or(&[]),
            ),
        ];
        for (field, tokens) in sorted {
            if !ascending(tokens) {
                let problem = "must be ascending without repetition".to_owned();
                return Err(InvalidParam { field, problem });
            }
        }
        let words = self
            .bad_words
            .iter()
            .map(|word| ("bad_words", word.as_slice()));
        for (field, tokens) in sorted.into_iter().chain(words) {
            if let Some(token) = tokens.iter().find(|&&token| !known(token)) {
                let problem = match vocab_size {
                    Some(size) => format!("holds token {token}; the model's ids are below {size}"),
                    None => format!("holds token {token}; ids are not negative"),
                };
                return Err(InvalidParam { field, problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Dry, Mirostat};

    fn field(change: impl FnOnce(&mut SamplingParams)) -> &'static str {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate(Some(100)).unwrap_err().field
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(SamplingParams::default().validate(Some(100)), Ok(()));
    }

    #[test]
    fn every_limit_names_its_field() {
        assert_eq!(field(|p| p.temperature = -0.1), "temperature");
        assert_eq!(field(|p| p.temperature = f32::NAN), "temperature");
        assert_eq!(field(|p| p.top_p = 0.0), "top_p");
        assert_eq!(field(|p| p.top_k = Some(0)), "top_k");
        assert_eq!(field(|p| p.min_p = 1.5), "min_p");
        assert_eq!(field(|p| p.top_n_sigma = Some(0.0)), "top_n_sigma");
        assert_eq!(field(|p| p.typical_p = 0.0), "typical_p");
        assert_eq!(field(|p| p.xtc_probability = 1.5), "xtc_probability");
        assert_eq!(field(|p| p.xtc_threshold = -0.1), "xtc_threshold");
        let mirostat = |tau, eta| Some(Mirostat { tau, eta });
        assert_eq!(field(|p| p.mirostat = mirostat(0.0, 0.1)), "mirostat_tau");
        assert_eq!(field(|p| p.mirostat = mirostat(5.0, -1.0)), "mirostat_eta");
        let dry = |multiplier, base, breaker| {
            Some(Dry {
                multiplier,
                base,
                allowed_length: 2,
                last_n: None,
                breaker_ids: vec![breaker],
            })
        };
        assert_eq!(field(|p| p.dry = dry(-1.0, 1.5, 3)), "dry_multiplier");
        assert_eq!(field(|p| p.dry = dry(1.0, 0.5, 3)), "dry_base");
        assert_eq!(
            field(|p| p.dry = dry(1.0, 1.5, 100)),
            "dry_sequence_breakers"
        );
        assert_eq!(field(|p| p.presence_penalty = 2.5), "presence_penalty");
        assert_eq!(field(|p| p.frequency_penalty = -2.5), "frequency_penalty");
        assert_eq!(field(|p| p.repetition_penalty = 0.0), "repetition_penalty");
        assert_eq!(field(|p| p.max_tokens = 0), "max_tokens");
        assert_eq!(field(|p| p.min_tokens = 257), "min_tokens");
        assert_eq!(field(|p| p.logprobs = Some(2000)), "logprobs");
        assert_eq!(field(|p| p.prompt_logprobs = Some(2000)), "prompt_logprobs");
        assert_eq!(
            field(|p| p.allowed_token_ids = Some(vec![])),
            "allowed_token_ids"
        );
        assert_eq!(field(|p| p.bad_words = vec![vec![]]), "bad_words");
        assert_eq!(field(|p| p.bad_words = vec![vec![1, 100]]), "bad_words");
        assert_eq!(field(|p| p.stop_token_ids = vec![100]), "stop_token_ids");
        assert_eq!(field(|p| p.stop_token_ids = vec![3, 3]), "stop_token_ids");
        assert_eq!(field(|p| p.eos_token_ids = vec![-1]), "eos_token_ids");
        assert_eq!(field(|p| p.logit_bias = vec![(5, f32::NAN)]), "logit_bias");
        assert_eq!(field(|p| p.logit_bias = vec![(100, 1.0)]), "logit_bias");
    }
}
