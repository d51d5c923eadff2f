//! One record per call of the scheduler: what it was told, and what came of it.

use std::sync::Arc;

use super::codec::{Damage, Decoder, Digest, Encode};
use crate::request::{CapturePoint, Continuation, FinishReason, NewRequest, SequenceId};
use crate::scheduler::{Events, WantedDraft};
use inferlib_program::RequestId;
use inferlib_program::program::Rows;
use inferlib_program::{Batch, LogitsRow, RowLogprobs, RowStatus, StepOutput};
use inferlib_program::{Mirostat, SamplingParams};

/// What a record begins with.
pub(super) mod tag {
    pub(in super::super) const SUBMIT: u8 = 1;
    pub(in super::super) const CANCEL: u8 = 2;
    pub(in super::super) const FINISH: u8 = 3;
    pub(in super::super) const SCHEDULE: u8 = 4;
    pub(in super::super) const UPDATE: u8 = 5;
    pub(in super::super) const DISCARD: u8 = 6;
    pub(in super::super) const TAKE: u8 = 7;
    pub(in super::super) const OVERDUE: u8 = 8;
    pub(in super::super) const OPEN: u8 = 9;
    pub(in super::super) const FORK: u8 = 10;
    pub(in super::super) const REWIND: u8 = 11;
    pub(in super::super) const CLOSE: u8 = 12;
    pub(in super::super) const RESTORE: u8 = 13;
    pub(in super::super) const FORCE: u8 = 14;
    pub(in super::super) const WANTED: u8 = 15;
    pub(in super::super) const SUGGEST: u8 = 16;
}

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

#[derive(Debug)]
pub(super) enum Record {
    Submit {
        now: f64,
        request: Box<NewRequest>,
        id: Option<RequestId>,
    },
    Cancel {
        id: RequestId,
        now: f64,
        was_alive: bool,
    },
    Finish {
        id: RequestId,
        sequence_index: u32,
        reason: FinishReason,
        num_output_tokens: Option<usize>,
        now: f64,
        was_alive: bool,
    },
    Schedule {
        now: f64,
        rows: Vec<PlannedRow>,
        digest: u64,
    },
    Update {
        now: f64,
        output: StepOutput,
        digest: u64,
    },
    Discard,
    Take {
        id: RequestId,
        existed: bool,
    },
    Overdue {
        digest: u64,
    },
    Open {
        salt: Option<String>,
        id: SequenceId,
    },
    Fork {
        id: SequenceId,
        fork: Option<SequenceId>,
    },
    Rewind {
        id: SequenceId,
        num_tokens: usize,
        done: bool,
    },
    Close {
        id: SequenceId,
        existed: bool,
    },
    Force {
        id: RequestId,
        sequence_index: u32,
        tokens: Vec<i32>,
        was_alive: bool,
    },
    Wanted {
        digest: u64,
    },
    Suggest {
        id: RequestId,
        sequence_index: u32,
        tokens: Vec<i32>,
        is_wanted: bool,
    },
    Restore {
        id: SequenceId,
        tokens: Vec<i32>,
        num_computed: usize,
        /// Whether there was room; `None` if it was refused.
        has_room: Option<bool>,
    },
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

fn read_request(input: &mut Decoder<'_>) -> Result<NewRequest, Damage> {
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

fn read_rows(input: &mut Decoder<'_>) -> Result<Vec<PlannedRow>, Damage> {
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

fn read_output(input: &mut Decoder<'_>) -> Result<StepOutput, Damage> {
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

/// Everything in a batch that the executor acts on, but for how a token is drawn.
pub(super) fn batch_digest(batch: &Batch) -> u64 {
    let mut digest = Digest::new();
    digest.add(batch.step);
    for array in [
        &batch.token_ids,
        &batch.positions,
        &batch.query_start_loc,
        &batch.seq_lens,
        &batch.logits_indices,
        &batch.history,
        &batch.segment_ids,
    ] {
        digest.add_all(array);
    }
    for group in &batch.groups {
        digest.add_all(&group.slot_mapping);
        digest.add_all(&group.block_table_start_loc);
        digest.add_all(&group.block_tables);
        digest.add_all(&group.block_copies);
    }
    for rows in &batch.captures {
        digest.add(u64::from(rows.point));
        digest.add(u64::from(rows.start) << 32 | u64::from(rows.end));
    }
    for row in &batch.sampled {
        digest.add(match row.kind {
            LogitsRow::Sample => 0,
            LogitsRow::Score { target } => 1 | u64::from(target.cast_unsigned()) << 1,
        });
        digest.add(u64::from(row.position) << 32 | u64::from(row.sequence_index));
    }
    digest.value()
}

pub(super) fn events_digest(events: &Events) -> u64 {
    let mut digest = Digest::new();
    digest.add(events.token_ids.len() as u64);
    for index in 0..events.token_ids.len() {
        digest.add(events.request_ids[index].0);
        digest.add(u64::from(events.sequence_indices[index]));
        digest.add(u64::from(events.token_indices[index]) << 1 | u64::from(events.finished[index]));
        digest.add(u64::from(events.token_ids[index].cast_unsigned()));
    }
    for id in &events.finished_requests {
        digest.add(id.0);
    }
    digest.value()
}

pub(super) fn wanted_digest(wanted: &[WantedDraft]) -> u64 {
    let mut digest = Digest::new();
    for draft in wanted {
        digest.add(draft.request_id.0);
        digest.add(u64::from(draft.sequence_index));
        digest.add(draft.num_tokens as u64);
        digest.add(draft.num_drafts as u64);
    }
    digest.value()
}

pub(super) fn read_record(payload: &[u8]) -> Result<Record, Damage> {
    let mut input = Decoder::new(payload);
    let input = &mut input;
    let record = match input.byte("record")? {
        tag::SUBMIT => Record::Submit {
            now: input.float("now")?,
            request: Box::new(read_request(input)?),
            id: input.optional("request_id")?.map(RequestId),
        },
        tag::CANCEL => Record::Cancel {
            id: RequestId(input.number("request_id")?),
            now: input.float("now")?,
            was_alive: input.flag("was_alive")?,
        },
        tag::FINISH => Record::Finish {
            id: RequestId(input.number("request_id")?),
            sequence_index: input.whole("sequence_index")?,
            reason: *REASONS
                .get(usize::from(input.byte("reason")?))
                .ok_or(Damage::Field { field: "reason" })?,
            num_output_tokens: input.optional("num_output_tokens")?,
            now: input.float("now")?,
            was_alive: input.flag("was_alive")?,
        },
        tag::SCHEDULE => Record::Schedule {
            now: input.float("now")?,
            rows: read_rows(input)?,
            digest: input.fixed("digest")?,
        },
        tag::UPDATE => Record::Update {
            now: input.float("now")?,
            output: read_output(input)?,
            digest: input.fixed("digest")?,
        },
        tag::DISCARD => Record::Discard,
        tag::TAKE => Record::Take {
            id: RequestId(input.number("request_id")?),
            existed: input.flag("existed")?,
        },
        tag::OVERDUE => Record::Overdue {
            digest: input.fixed("digest")?,
        },
        tag::OPEN => Record::Open {
            salt: input.text("cache_salt")?,
            id: SequenceId(input.number("sequence")?),
        },
        tag::FORK => Record::Fork {
            id: SequenceId(input.number("sequence")?),
            fork: input.optional("fork")?.map(SequenceId),
        },
        tag::REWIND => Record::Rewind {
            id: SequenceId(input.number("sequence")?),
            num_tokens: input.whole("num_tokens")?,
            done: input.flag("done")?,
        },
        tag::CLOSE => Record::Close {
            id: SequenceId(input.number("sequence")?),
            existed: input.flag("existed")?,
        },
        tag::FORCE => Record::Force {
            id: RequestId(input.number("request_id")?),
            sequence_index: input.whole("sequence_index")?,
            tokens: input.tokens("tokens")?,
            was_alive: input.flag("was_alive")?,
        },
        tag::WANTED => Record::Wanted {
            digest: input.fixed("digest")?,
        },
        tag::SUGGEST => Record::Suggest {
            id: RequestId(input.number("request_id")?),
            sequence_index: input.whole("sequence_index")?,
            tokens: input.tokens("tokens")?,
            is_wanted: input.flag("is_wanted")?,
        },
        tag::RESTORE => Record::Restore {
            id: SequenceId(input.number("sequence")?),
            tokens: input.tokens("tokens")?,
            num_computed: input.whole("num_computed")?,
            has_room: if input.flag("restored")? {
                Some(input.flag("has_room")?)
            } else {
                None
            },
        },
        _ => return Err(Damage::Field { field: "record" }),
    };
    input.end()?;
    Ok(record)
}
