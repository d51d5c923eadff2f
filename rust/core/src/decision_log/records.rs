//! One record per call of the scheduler: what it was told, and what came of it.

use super::codec::{Damage, Decoder};
use super::fields::{PlannedRow, read_output, read_reason, read_request, read_rows};
use crate::request::{FinishReason, NewRequest, SequenceId};
use inferlib_program::RequestId;
use inferlib_program::StepOutput;

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
            reason: read_reason(input)?,
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
