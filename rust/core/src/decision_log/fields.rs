//! What records consist of, as bytes and back: requests, planned rows, results.

use std::sync::Arc;

use super::codec::{Damage, Decoder, Encode};
use crate::request::{CapturePoint, Continuation, FinishReason, NewRequest, SequenceId};
use inferlib_program::program::Rows;
use inferlib_program::{Mirostat, SamplingParams};
use inferlib_program::{RequestId, RowLogprobs, RowStatus, StepOutput};

/// One sequence of a planned step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Whose.
    pub request_id: RequestId,
    /// Which of its sequences.
    pub sequence_index: u32,
    /// Tokens of it in the step, drafted ones included.
    pub num_tokens: u32,
    /// Of these, drafted.
    pub num_drafts: u32,
}

/// In the order of their codes.
const REASONS: [FinishReason; 6] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::Abort,
    FinishReason::Error,
    FinishReason::Deadline,
    FinishReason::Abstain,
];

pub(super) fn write_reason(reason: FinishReason, out: &mut Vec<u8>) {
    out.byte(match reason {
        FinishReason::Stop => 0,
        FinishReason::Length => 1,
        FinishReason::Abort => 2,
        FinishReason::Error => 3,
        FinishReason::Deadline => 4,
        FinishReason::Abstain => 5,
    });
}

pub(super) fn read_reason(input: &mut Decoder<'_>) -> Result<FinishReason, Damage> {
    let reason = REASONS.get(usize::from(input.byte("reason")?));
    reason.copied().ok_or(Damage::Field { field: "reason" })
}

/// All of a request that decides when and how long it runs.
pub(super) fn write_request(request: &NewRequest, out: &mut Vec<u8>) {
    out.tokens(&request.prompt);
    let params = &request.params;
    out.number(u64::from(params.max_tokens));
    out.number(u64::from(params.min_tokens));
    out.tokens(&params.eos_token_ids);
    out.tokens(&params.stop_token_ids);
    out.optional(params.logprobs.map(u64::from));
    out.optional(params.prompt_logprobs.map(u64::from));
    out.number(u64::from(params.prompt_logprobs_start));
    out.flag(params.needs_history());
    out.flag(params.mirostat.is_some());
    out.number(u64::from(request.n));
    out.text(request.cache_salt.as_deref());
    out.number(u64::from(request.adapter));
    out.signed(i64::from(request.priority));
    out.flag(request.background);
    out.text(request.tenant.as_deref());
    out.flag(request.deadline.is_some());
    if let Some(deadline) = request.deadline {
        out.float(deadline);
    }
    out.flag(request.closes);
    out.flag(request.speculation);
    out.flag(request.draft_model);
    out.flag(request.continues.is_some());
    if let Some(Continuation { sequence, keep }) = request.continues {
        out.number(sequence.0);
        out.flag(keep);
    }
    out.count(request.captures.points.len());
    for point in &request.captures.points {
        out.number(u64::from(point.point));
        out.byte(match point.rows {
            Rows::Tokens => 0,
            Rows::Sequences => 1,
            Rows::Sampled => 2,
        });
    }
    out.count(request.captures.start);
    out.optional(request.second_segment.map(|start| start as u64));
}

pub(super) fn read_request(input: &mut Decoder<'_>) -> Result<NewRequest, Damage> {
    let prompt = input.tokens("prompt")?;
    let mut params = SamplingParams {
        max_tokens: input.whole("max_tokens")?,
        min_tokens: input.whole("min_tokens")?,
        eos_token_ids: input.tokens("eos_token_ids")?,
        stop_token_ids: input.tokens("stop_token_ids")?,
        logprobs: input.optional("logprobs")?,
        prompt_logprobs: input.optional("prompt_logprobs")?,
        prompt_logprobs_start: input.whole("prompt_logprobs_start")?,
        ..SamplingParams::default()
    };
    if input.flag("needs_history")? {
        params.repetition_penalty = 2.0;
    }
    if input.flag("mirostat")? {
        params.mirostat = Some(Mirostat { tau: 1.0, eta: 0.0 });
    }
    let mut request = NewRequest::new(prompt, Arc::new(params));
    request.n = input.whole("n")?;
    request.cache_salt = input.text("cache_salt")?;
    request.adapter = input.whole("adapter")?;
    let priority = i32::try_from(input.signed("priority")?);
    request.priority = priority.map_err(|_| Damage::Field { field: "priority" })?;
    request.background = input.flag("background")?;
    request.tenant = input.text("tenant")?;
    if input.flag("deadline")? {
        request.deadline = Some(input.float("deadline")?);
    }
    request.closes = input.flag("closes")?;
    request.speculation = input.flag("speculation")?;
    request.draft_model = input.flag("draft_model")?;
    if input.flag("continues")? {
        request.continues = Some(Continuation {
            sequence: SequenceId(input.number("sequence")?),
            keep: input.flag("keep")?,
        });
    }
    for _ in 0..input.length("captures")? {
        request.captures.points.push(CapturePoint {
            point: input.whole("captures")?,
            rows: match input.byte("captures")? {
                0 => Rows::Tokens,
                1 => Rows::Sequences,
                2 => Rows::Sampled,
                _ => return Err(Damage::Field { field: "captures" }),
            },
        });
    }
    request.captures.start = input.whole("captures")?;
    request.second_segment = input.optional("second_segment")?;
    Ok(request)
}

pub(super) fn write_rows(rows: impl ExactSizeIterator<Item = PlannedRow>, out: &mut Vec<u8>) {
    out.count(rows.len());
    for row in rows {
        out.number(row.request_id.0);
        out.number(u64::from(row.sequence_index));
        out.number(u64::from(row.num_tokens));
        out.number(u64::from(row.num_drafts));
    }
}

pub(super) fn read_rows(input: &mut Decoder<'_>) -> Result<Vec<PlannedRow>, Damage> {
    let length = input.length("rows")?;
    let mut rows = Vec::with_capacity(length);
    for _ in 0..length {
        rows.push(PlannedRow {
            request_id: RequestId(input.number("request_id")?),
            sequence_index: input.whole("sequence_index")?,
            num_tokens: input.whole("num_tokens")?,
            num_drafts: input.whole("num_drafts")?,
        });
    }
    Ok(rows)
}

/// A step's result, as far as it decides anything: tokens, rows that failed, and where log-probabilities were given.
pub(super) fn write_output(output: &StepOutput, out: &mut Vec<u8>) {
    out.tokens(&output.token_ids);
    let flags = output.status.iter().zip(&output.logprobs);
    let flags = flags.map(|(status, logprobs)| {
        u8::from(*status == RowStatus::Failed)
            | u8::from(logprobs.is_some()) << 1
            | u8::from(*status == RowStatus::Redraw) << 2
    });
    let any = flags.clone().any(|flags| flags != 0);
    out.flag(any);
    if any {
        flags.for_each(|flags| out.byte(flags));
    }
    out.count(output.captures.len());
    for _ in &output.captures {
        out.byte(0); // what was captured decides nothing: how often is enough
    }
}

pub(super) fn read_output(input: &mut Decoder<'_>) -> Result<StepOutput, Damage> {
    let token_ids = input.tokens("token_ids")?;
    let mut output = StepOutput {
        status: vec![RowStatus::Ok; token_ids.len()],
        logprobs: vec![None; token_ids.len()],
        mirostat_mu: Vec::new(),
        token_ids,
        captures: Vec::new(),
        logits: Vec::new(),
    };
    if input.flag("flags")? {
        for (status, logprobs) in output.status.iter_mut().zip(&mut output.logprobs) {
            let flags = input.byte("flags")?;
            *status = match flags & !2 {
                0 => RowStatus::Ok,
                1 => RowStatus::Failed,
                4 => RowStatus::Redraw,
                _ => return Err(Damage::Field { field: "flags" }),
            };
            *logprobs = (flags & 2 != 0).then(RowLogprobs::default);
        }
    }
    for _ in 0..input.length("captures")? {
        if input.byte("captures")? != 0 {
            return Err(Damage::Field { field: "captures" });
        }
        output.captures.push(Vec::new());
    }
    Ok(output)
}
