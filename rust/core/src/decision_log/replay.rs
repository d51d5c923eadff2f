//! The reader: a fresh scheduler is told the same, and must decide the same.

use std::io::{self, Read};

use super::codec::{Damage, ReadError, read_frame};
use super::config::read_config;
use super::digests::{batch_digest, events_digest, wanted_digest};
use super::fields::PlannedRow;
use super::records::{Record, read_record};
use super::{MAGIC, VERSION};
use crate::scheduler::{ConfigError, Scheduler, SchedulerConfig, Stats};
use inferlib_program::Batch;

/// Why a log does not replay. Everything in front of it did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("cannot read the log: {0}")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("record {record} (byte {offset}): {damage}")]
    Damaged {
        /// Number of the record, from 0, the header.
        record: u64,
        /// Where it begins in the file.
        offset: u64,
        /// What is wrong with it.
        damage: Damage,
    },
    /// No scheduler has such a configuration.
    #[error("the log's configuration: {0}")]
    Config(#[from] ConfigError),
    /// The scheduler did or said something else than the log says.
    #[error("record {record}, step {step}: `{call}` gives {found}, the log says {expected}")]
    Diverged {
        /// Number of the record.
        record: u64,
        /// Steps planned until then.
        step: u64,
        /// Which call.
        call: &'static str,
        /// As logged.
        expected: String,
        /// What came out now.
        found: String,
    },
}

/// What a log held, all of which came out the same.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Of the scheduler.
    pub config: SchedulerConfig,
    /// Calls, the header not counted.
    pub num_records: u64,
    /// The scheduler's counters at the end.
    pub stats: Stats,
}

/// Replay a log and verify every decision. `max_bytes` is about what the scheduler may need; a log that describes a larger
/// one is refused, and so is one that would make it larger.
pub fn replay(mut input: impl Read, max_bytes: u64) -> Result<Replay, ReplayError> {
    let mut offset = (MAGIC.len() + 1) as u64;
    read_magic(&mut input)?;
    let mut payload = Vec::new();
    let mut place = Place {
        record: 0,
        offset: 0,
    };
    let length = place.locate(read_frame(&mut input, &mut payload))?;
    let length = length.ok_or(place.damaged(Damage::Truncated))?;
    let config = place.locate(read_config(&payload).map_err(ReadError::from))?;
    if let Some(needed) = too_large(cache_bytes(&config), max_bytes) {
        return Err(place.damaged(needed));
    }
    let mut player = Player {
        scheduler: Scheduler::new(config.clone())?,
        batch: Batch::default(),
        max_bytes,
        estimated_bytes: 0,
    };
    offset += length;
    loop {
        place.record += 1;
        place.offset = offset;
        let Some(length) = place.locate(read_frame(&mut input, &mut payload))? else {
            return Ok(Replay {
                config,
                num_records: place.record - 1,
                stats: player.scheduler.stats(),
            });
        };
        offset += length;
        let record = place.locate(read_record(&payload).map_err(ReadError::from))?;
        player.play(record).map_err(|problem| match problem {
            Problem::Damage(damage) => place.damaged(damage),
            Problem::Differs {
                call,
                expected,
                found,
            } => ReplayError::Diverged {
                record: place.record,
                step: player.scheduler.stats().num_steps,
                call,
                expected,
                found,
            },
        })?;
    }
}

fn read_magic(input: &mut impl Read) -> Result<(), ReplayError> {
    let place = Place {
        record: 0,
        offset: 0,
    };
    let mut head = Vec::new();
    let length = (MAGIC.len() + 1) as u64;
    input.take(length).read_to_end(&mut head)?;
    match head.strip_prefix(MAGIC) {
        Some(&[VERSION]) => Ok(()),
        Some(&[found]) => Err(place.damaged(Damage::Version {
            found,
            known: VERSION,
        })),
        _ => Err(place.damaged(Damage::NotALog)),
    }
}

#[derive(Clone, Copy)]
struct Place {
    record: u64,
    offset: u64,
}

impl Place {
    fn damaged(self, damage: Damage) -> ReplayError {
        ReplayError::Damaged {
            record: self.record,
            offset: self.offset,
            damage,
        }
    }

    fn locate<T>(self, result: Result<T, ReadError>) -> Result<T, ReplayError> {
        result.map_err(|error| match error {
            ReadError::Damage(damage) => self.damaged(damage),
            ReadError::Io(error) => ReplayError::Io(error),
        })
    }
}

/// About what the KV cache's own arrays take, per block: `rust/core`'s, not the executor's.
fn cache_bytes(config: &SchedulerConfig) -> u64 {
    let blocks = config
        .groups
        .iter()
        .map(|group| u64::from(group.num_blocks));
    blocks.sum::<u64>() * 128
}

fn too_large(needed: u64, limit: u64) -> Option<Damage> {
    (needed > limit).then_some(Damage::TooLarge { needed, limit })
}

/// Why a record cannot be played.
enum Problem {
    Damage(Damage),
    Differs {
        call: &'static str,
        expected: String,
        found: String,
    },
}

struct Player {
    scheduler: Scheduler,
    batch: Batch,
    max_bytes: u64,
    /// At least what requests and held sequences take.
    estimated_bytes: u64,
}

impl Player {
    fn play(&mut self, record: Record) -> Result<(), Problem> {
        let scheduler = &mut self.scheduler;
        match record {
            Record::Submit { now, request, id } => {
                let needed = scheduler.request_bytes(&request);
                self.reserve(needed)?;
                let found = self.scheduler.submit(*request, now).ok();
                same("submit", id, found)
            }
            Record::Cancel { id, now, was_alive } => {
                same("cancel", was_alive, scheduler.cancel(id, now))
            }
            Record::Finish {
                id,
                sequence_index,
                reason,
                num_output_tokens,
                now,
                was_alive,
            } => {
                let found = scheduler.finish(id, sequence_index, reason, num_output_tokens, now);
                same("finish", was_alive, found)
            }
            Record::Schedule { now, rows, digest } => {
                scheduler.schedule_into(&mut self.batch, now);
                let found: Vec<PlannedRow> = scheduler.planned().collect();
                same("schedule", rows, found)?;
                same("schedule: the batch", digest, batch_digest(&self.batch))
            }
            Record::Update {
                now,
                output,
                digest,
            } => {
                let found = scheduler.update(&output, now).map(events_digest);
                same("update", Ok(digest), found)
            }
            Record::Discard => {
                scheduler.discard_step();
                Ok(())
            }
            Record::Take { id, existed } => same("take", existed, scheduler.take(id).is_some()),
            Record::Overdue { digest } => {
                same("overdue", digest, events_digest(scheduler.overdue()))
            }
            Record::Open { salt, id } => {
                let needed = salt.as_ref().map_or(0, String::len) as u64;
                self.reserve(needed)?;
                same("open_sequence", id, self.scheduler.open_sequence(salt))
            }
            Record::Fork { id, fork } => {
                let blocks = scheduler.sequence(id).map_or(0, |held| held.table(0).len());
                let groups = scheduler.config().groups.len();
                self.reserve((blocks * groups * 4) as u64)?;
                same("fork_sequence", fork, self.scheduler.fork_sequence(id).ok())
            }
            Record::Rewind {
                id,
                num_tokens,
                done,
            } => {
                let found = scheduler.rewind_sequence(id, num_tokens).is_ok();
                same("rewind_sequence", done, found)
            }
            Record::Close { id, existed } => {
                same("close_sequence", existed, scheduler.close_sequence(id))
            }
            Record::Force {
                id,
                sequence_index,
                tokens,
                was_alive,
            } => same(
                "force",
                was_alive,
                scheduler.force(id, sequence_index, &tokens),
            ),
            Record::Wanted { digest } => {
                let found = wanted_digest(scheduler.wanted_drafts());
                same("wanted_drafts", digest, found)
            }
            Record::Suggest {
                id,
                sequence_index,
                tokens,
                is_wanted,
            } => {
                let found = scheduler.suggest(id, sequence_index, &tokens);
                same("suggest", is_wanted, found)
            }
            Record::Restore {
                id,
                tokens,
                num_computed,
                has_room,
            } => {
                self.reserve(tokens.len() as u64 * 5)?;
                let found = self.scheduler.restore_sequence(id, tokens, num_computed);
                same("restore_sequence", has_room, found.ok())
            }
        }
    }

    /// Refuse what would make the scheduler larger than is allowed.
    fn reserve(&mut self, num_bytes: u64) -> Result<(), Problem> {
        // What everything takes by itself.
        let num_bytes = num_bytes.saturating_add(1024);
        self.estimated_bytes = self.estimated_bytes.saturating_add(num_bytes);
        if self.estimated_bytes > self.max_bytes {
            // Much of what was reserved may have been given back.
            self.estimated_bytes = self.scheduler.estimated_bytes().saturating_add(num_bytes);
        }
        match too_large(self.estimated_bytes, self.max_bytes) {
            Some(damage) => Err(Problem::Damage(damage)),
            None => Ok(()),
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "results of calls, as they come"
)]
fn same<T: PartialEq + std::fmt::Debug>(
    call: &'static str,
    expected: T,
    found: T,
) -> Result<(), Problem> {
    if expected == found {
        return Ok(());
    }
    Err(Problem::Differs {
        call,
        expected: shortened(&expected),
        found: shortened(&found),
    })
}

fn shortened(value: &impl std::fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
        text.push('…');
    }
    text
}
