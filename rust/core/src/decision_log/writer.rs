//! What the scheduler calls when a log is on. Every record is written at once and as a whole: the file of a process that
//! died ends with its last call, and a forked child, which has the file open too, has nothing left to write.

use std::fmt;
use std::io::{self, Write};

use super::codec::{Encode, write_frame};
use super::config::write_config;
use super::digests::{batch_digest, events_digest, wanted_digest};
use super::fields::{PlannedRow, write_output, write_reason, write_request, write_rows};
use super::records::tag;
use super::{MAGIC, VERSION};
use crate::request::{FinishReason, NewRequest, SequenceId};
use crate::scheduler::{Events, SchedulerConfig, WantedDraft};
use inferlib_program::RequestId;
use inferlib_program::{Batch, StepOutput};

/// Writes the log of one scheduler.
pub(crate) struct DecisionLog {
    out: Box<dyn Write + Send>,
    /// The record being made.
    record: Vec<u8>,
    /// The same as it is written.
    frame: Vec<u8>,
    /// Why the log ended early; nothing is written any more.
    error: Option<io::Error>,
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DecisionLog")
            .finish_non_exhaustive()
    }
}

impl DecisionLog {
    /// Write the header.
    pub(crate) fn begin(
        mut out: Box<dyn Write + Send>,
        config: &SchedulerConfig,
    ) -> io::Result<Self> {
        let mut record = Vec::new();
        write_config(config, &mut record);
        let mut frame = MAGIC.to_vec();
        frame.push(VERSION);
        write_frame(&record, &mut frame);
        out.write_all(&frame)?;
        out.flush()?;
        Ok(Self {
            out,
            record,
            frame,
            error: None,
        })
    }

    /// Why the log ended early, if it did.
    pub(crate) fn end(self) -> Option<io::Error> {
        self.error
    }

    fn begin_record(&mut self, tag: u8) -> &mut Vec<u8> {
        self.record.clear();
        self.record.push(tag);
        &mut self.record
    }

    fn end_record(&mut self) {
        if self.error.is_some() {
            return;
        }
        self.frame.clear();
        write_frame(&self.record, &mut self.frame);
        let written = self.out.write_all(&self.frame);
        if let Err(error) = written.and_then(|()| self.out.flush()) {
            self.error = Some(error); // the model runs on without its log
        }
    }

    /// A request comes, with what `submit` is about to consume; [`DecisionLog::submitted`] follows.
    pub(crate) fn submit(&mut self, request: &NewRequest, now: f64) {
        let record = self.begin_record(tag::SUBMIT);
        record.float(now);
        write_request(request, record);
    }

    pub(crate) fn submitted(&mut self, id: Option<RequestId>) {
        self.record.optional(id.map(|id| id.0));
        self.end_record();
    }

    pub(crate) fn cancel(&mut self, id: RequestId, now: f64, was_alive: bool) {
        let record = self.begin_record(tag::CANCEL);
        record.number(id.0);
        record.float(now);
        record.flag(was_alive);
        self.end_record();
    }

    pub(crate) fn finish(
        &mut self,
        (id, sequence_index): (RequestId, u32),
        reason: FinishReason,
        num_output_tokens: Option<usize>,
        now: f64,
        was_alive: bool,
    ) {
        let record = self.begin_record(tag::FINISH);
        record.number(id.0);
        record.number(u64::from(sequence_index));
        write_reason(reason, record);
        record.optional(num_output_tokens.map(|count| count as u64));
        record.float(now);
        record.flag(was_alive);
        self.end_record();
    }

    pub(crate) fn schedule(
        &mut self,
        rows: impl ExactSizeIterator<Item = PlannedRow>,
        batch: &Batch,
        now: f64,
    ) {
        let record = self.begin_record(tag::SCHEDULE);
        record.float(now);
        write_rows(rows, record);
        record.fixed(batch_digest(batch));
        self.end_record();
    }

    pub(crate) fn update(&mut self, output: &StepOutput, events: &Events, now: f64) {
        let record = self.begin_record(tag::UPDATE);
        record.float(now);
        write_output(output, record);
        record.fixed(events_digest(events));
        self.end_record();
    }

    pub(crate) fn force(
        &mut self,
        (id, sequence_index): (RequestId, u32),
        tokens: &[i32],
        was_alive: bool,
    ) {
        let record = self.begin_record(tag::FORCE);
        record.number(id.0);
        record.number(u64::from(sequence_index));
        record.tokens(tokens);
        record.flag(was_alive);
        self.end_record();
    }

    pub(crate) fn wanted(&mut self, wanted: &[WantedDraft]) {
        let record = self.begin_record(tag::WANTED);
        record.fixed(wanted_digest(wanted));
        self.end_record();
    }

    pub(crate) fn suggest(
        &mut self,
        (id, sequence_index): (RequestId, u32),
        tokens: &[i32],
        is_wanted: bool,
    ) {
        let record = self.begin_record(tag::SUGGEST);
        record.number(id.0);
        record.number(u64::from(sequence_index));
        record.tokens(tokens);
        record.flag(is_wanted);
        self.end_record();
    }

    pub(crate) fn discard(&mut self) {
        self.begin_record(tag::DISCARD);
        self.end_record();
    }

    pub(crate) fn take(&mut self, id: RequestId, existed: bool) {
        let record = self.begin_record(tag::TAKE);
        record.number(id.0);
        record.flag(existed);
        self.end_record();
    }

    pub(crate) fn overdue(&mut self, events: &Events) {
        let record = self.begin_record(tag::OVERDUE);
        record.fixed(events_digest(events));
        self.end_record();
    }

    pub(crate) fn open(&mut self, salt: Option<&str>, id: SequenceId) {
        let record = self.begin_record(tag::OPEN);
        record.text(salt);
        record.number(id.0);
        self.end_record();
    }

    pub(crate) fn fork(&mut self, id: SequenceId, fork: Option<SequenceId>) {
        let record = self.begin_record(tag::FORK);
        record.number(id.0);
        record.optional(fork.map(|fork| fork.0));
        self.end_record();
    }

    pub(crate) fn rewind(&mut self, id: SequenceId, num_tokens: usize, done: bool) {
        let record = self.begin_record(tag::REWIND);
        record.number(id.0);
        record.count(num_tokens);
        record.flag(done);
        self.end_record();
    }

    pub(crate) fn close(&mut self, id: SequenceId, existed: bool) {
        let record = self.begin_record(tag::CLOSE);
        record.number(id.0);
        record.flag(existed);
        self.end_record();
    }

    /// Tokens come from a file, which `restore_sequence` is about to consume; [`DecisionLog::restored`] follows.
    pub(crate) fn restore(&mut self, id: SequenceId, tokens: &[i32], num_computed: usize) {
        let record = self.begin_record(tag::RESTORE);
        record.number(id.0);
        record.tokens(tokens);
        record.count(num_computed);
    }

    pub(crate) fn restored(&mut self, has_room: Option<bool>) {
        self.record.flag(has_room.is_some());
        if let Some(has_room) = has_room {
            self.record.flag(has_room);
        }
        self.end_record();
    }
}
