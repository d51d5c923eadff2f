//! `submit`: what can never run is refused at once; the rest gets its rank and waits.

use super::requests::{MaxDrafts, Request, Requests};
use super::sequences::{Rank, SequenceStatus};
use super::{MAX_N, Scheduler};
use crate::request::{NewRequest, PromptLimit, SubmitError};
use inferlib_program::RequestId;
use std::borrow::Cow;

impl Scheduler {
    /// Queue a request, or refuse at once what can never run.
    ///
    /// `max_tokens` is capped where the context or the KV cache ends first; the request then ends with
    /// [`crate::FinishReason::Length`].
    pub fn submit(&mut self, new: NewRequest, now: f64) -> Result<RequestId, SubmitError> {
        if let Some(log) = &mut self.log {
            log.submit(&new, now);
        }
        let id = self.admit_to_queue(new, now);
        if let Some(log) = &mut self.log {
            log.submitted(id.as_ref().ok().copied());
        }
        id
    }

    fn admit_to_queue(&mut self, mut new: NewRequest, now: f64) -> Result<RequestId, SubmitError> {
        let max_tokens = self.check(&new)?;
        self.begin_continuation(&mut new)?;
        let num_prompt_tokens = new.prompt.len();
        let arrival = self.num_arrivals;
        self.num_arrivals += 1;
        self.num_waiting[usize::from(new.background)].add(num_prompt_tokens);
        self.totals.num_requests += 1;
        let n = new.n;
        let key = self.rank_key(&new, now);
        let class = self.class(&new);
        let deadline = new.deadline;
        let is_background = new.background;
        let tenants = self.tenants.as_mut().filter(|_| !is_background);
        let tenant = tenants.map_or(0, |tenants| tenants.find_or_add(new.tenant.as_ref()));
        let max_drafts = MaxDrafts::of(&self.config, &new);
        let continues = new.continues;
        let id = self
            .requests
            .insert(|id| Request::new(id, new, max_tokens, max_drafts, now));
        self.name_writer(id, continues);
        self.requests[Requests::index(id)].refusals = self.refusals;
        let index = Requests::index(id);
        for sequence_index in 0..n {
            let rank = Rank {
                is_background,
                key,
                arrival,
                sequence_index,
            };
            let slot = self
                .sequences
                .open(index, (tenant, class, rank), num_prompt_tokens);
            if let Some((tenants, tenant)) = self.tenant_of(slot) {
                tenants.open(tenant);
            }
            let request = &self.requests[index];
            let salt = root_salt(request.adapter, request.cache_salt.as_deref());
            self.kv
                .open(slot, salt.as_deref(), num_prompt_tokens + max_tokens);
            self.requests[index].slots.push(Some(slot));
            if sequence_index == 0 {
                self.enqueue(slot, SequenceStatus::Waiting);
            }
        }
        if let Some(deadline) = deadline {
            self.note_deadline(id, deadline);
        }
        Ok(id)
    }

    /// Validate a request; its effective `max_tokens`.
    fn check(&self, new: &NewRequest) -> Result<usize, SubmitError> {
        let prompt_tokens = new.prompt.len();
        if prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocab_size = self.config.vocab_size;
        let valid = |token: i32| usize::try_from(token).is_ok_and(|token| token < vocab_size);
        if let Some(index) = new.prompt.iter().position(|&token| !valid(token)) {
            let token = new.prompt[index];
            return Err(SubmitError::TokenOutOfRange {
                index,
                token,
                vocab_size,
            });
        }
        new.params.validate(Some(vocab_size))?;
        if !(1..=MAX_N).contains(&new.n) {
            return Err(SubmitError::InvalidN {
                n: new.n,
                limit: MAX_N,
            });
        }
        if let Some(deadline) = new.deadline
            && !deadline.is_finite()
        {
            return Err(SubmitError::InvalidDeadline);
        }
        self.check_whole(new)?;
        if new.adapter != 0 && new.continues.is_some() {
            return Err(SubmitError::AdaptedSequence);
        }
        let points = &new.captures.points;
        let in_order = points.is_sorted_by(|a, b| a.point < b.point);
        if !points.is_empty() && (new.captures.start >= prompt_tokens || !in_order) {
            return Err(SubmitError::InvalidCaptures);
        }
        // The last generated token's K and V are never needed: a sequence of T tokens computes T - 1.
        let wanted = new.params.max_tokens as usize;
        let context = self.config.max_model_len - wanted.min(1).min(self.config.max_model_len);
        let capacity = self.kv.capacity();
        let (mut limit, mut because) = if context <= capacity {
            (context, PromptLimit::Context)
        } else {
            (capacity, PromptLimit::KvCache)
        };
        if self.config.whole_prompts && self.config.max_num_batched_tokens < limit {
            (limit, because) = (self.config.max_num_batched_tokens, PromptLimit::Step);
        }
        if prompt_tokens > limit {
            return Err(SubmitError::PromptTooLong {
                prompt_tokens,
                limit,
                because,
            });
        }
        let full = |count: usize, more: usize, limit: Option<usize>| {
            limit.is_some_and(|limit| count + more > limit)
        };
        let waiting = self.num_waiting[usize::from(new.background)];
        let (max_requests, max_tokens) = (self.config.max_waiting, self.config.max_waiting_tokens);
        if full(waiting.requests, 1, max_requests)
            || waiting.requests > 0 && full(waiting.tokens, prompt_tokens, max_tokens)
        {
            return Err(SubmitError::Overloaded {
                waiting: waiting.requests,
                waiting_tokens: waiting.tokens,
            });
        }
        let room = (self.config.max_model_len - prompt_tokens).min(capacity + 1 - prompt_tokens);
        Ok(wanted.min(room))
    }

    /// Refuse what whole prompts cannot have.
    fn check_whole(&self, new: &NewRequest) -> Result<(), SubmitError> {
        let refused = [
            ("max_tokens", new.params.max_tokens > 0),
            ("prompt_logprobs", wants_scores(new)),
            ("n", new.n > 1),
            ("sequence", new.continues.is_some()),
        ];
        match refused.into_iter().find(|&(_, asked)| asked) {
            Some((field, _)) if self.config.whole_prompts => {
                Err(SubmitError::WholePrompts { field })
            }
            _ => Ok(()),
        }
    }
}

/// Whether log-probabilities of prompt tokens are wanted.
fn wants_scores(new: &NewRequest) -> bool {
    new.params.prompt_logprobs.is_some()
        && (new.params.prompt_logprobs_start.max(1) as usize) < new.prompt.len()
}

/// What the prefix cache tells prefixes apart by, besides their tokens: K and V depend on the adapter, too. Different for any
/// two pairs, whatever a caller's salt looks like.
fn root_salt(adapter: u32, salt: Option<&str>) -> Option<Cow<'_, str>> {
    match salt {
        None if adapter == 0 => None,
        None => Some(format!("\0{adapter}").into()),
        Some(salt) if adapter == 0 && !salt.starts_with('\0') => Some(salt.into()),
        Some(salt) => Some(format!("\0{adapter}\0{salt}").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::root_salt;

    #[test]
    fn no_adapter_shares_a_salt_with_another() {
        let salts = [
            None,
            Some(""),
            Some("a"),
            Some("\0"),
            Some("\x001"),
            Some("\x001\0"),
            Some("\x001\0a"),
            Some("\x000\0a"),
            Some("1\0a"),
        ];
        let pairs = (0..12).flat_map(|adapter| salts.map(|salt| (adapter, salt)));
        let found: HashSet<_> = pairs.map(|(id, salt)| root_salt(id, salt)).collect();
        assert_eq!(found.len(), 12 * salts.len());
        assert_eq!(root_salt(0, Some("a")).as_deref(), Some("a"));
    }
}
