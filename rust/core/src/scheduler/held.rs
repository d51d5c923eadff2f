//! Sequences that outlive their requests: tokens, and as many of their K and V as memory allows.
//!
//! A held sequence never runs and never writes: a request goes on from it, sharing its blocks, and at its end may leave
//! what it has in the sequence's place. So forking and rewinding are changes of a list of references, and a request
//! that fails leaves no trace. When somebody who runs needs blocks, the sequence that was not used for longest loses
//! all of its own; they stay cached as long as they are not overwritten, and the next request computes what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Scheduler;
use super::sequences::SequenceStatus;
use crate::kv_cache::{BlockId, HeldBlocks, TokenView};
use crate::request::{Continuation, FinishReason, NewRequest, SequenceError, SequenceId};
use inferlib_program::RequestId;

/// A sequence between its requests.
#[derive(Debug, Default)]
pub struct HeldSequence {
    /// Shared with forks until one of them changes its own.
    tokens: Arc<Vec<i32>>,
    /// Tokens whose K and V are in `blocks`.
    num_computed_tokens: usize,
    blocks: HeldBlocks,
    salt: Option<String>,
    /// Moment of its last use, in uses of any sequence.
    used: u64,
    /// The request that will leave, or has left, its tokens here.
    writer: Option<RequestId>,
    is_busy: bool,
}

impl HeldSequence {
    /// All its tokens.
    #[must_use]
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Tokens whose K and V it holds.
    #[must_use]
    pub fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    /// Its blocks in one KV group.
    #[must_use]
    pub fn table(&self, group: usize) -> &[BlockId] {
        self.blocks.table(group)
    }

    /// Whether a request that will change it is running.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Prefixes are shared only under this salt.
    #[must_use]
    pub fn salt(&self) -> Option<&str> {
        self.salt.as_deref()
    }
}

/// All held sequences.
#[derive(Debug, Default)]
pub(super) struct HeldSequences {
    entries: BTreeMap<SequenceId, HeldSequence>,
    next_id: u64,
    uses: u64,
}

impl HeldSequences {
    fn insert(&mut self, mut sequence: HeldSequence) -> SequenceId {
        self.uses += 1;
        sequence.used = self.uses;
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.entries.insert(id, sequence);
        id
    }

    fn find(&mut self, id: SequenceId) -> Result<&mut HeldSequence, SequenceError> {
        self.entries.get_mut(&id).ok_or(SequenceError::Closed)
    }

    /// A sequence that no request is about to change, used now.
    fn idle(&mut self, id: SequenceId) -> Result<&mut HeldSequence, SequenceError> {
        self.uses += 1;
        let uses = self.uses;
        let held = self.find(id)?;
        held.used = uses;
        if held.is_busy {
            return Err(SequenceError::Busy);
        }
        Ok(held)
    }

    /// The blocks of a sequence and how many tokens of K and V in them are those of `tokens`, at most `most`.
    pub(super) fn prefix(
        &self,
        id: Option<SequenceId>,
        tokens: TokenView<'_>,
        most: usize,
    ) -> Option<(&HeldBlocks, usize)> {
        let held = self.entries.get(&id?)?;
        let most = held.num_computed_tokens.min(most);
        let known = held.tokens[..most].iter().enumerate();
        let differs = |(position, &token): (usize, &i32)| tokens.get(position) != Some(token);
        let num_equal = known.clone().position(differs).unwrap_or(most);
        (num_equal > 0).then_some((&held.blocks, num_equal))
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (&HeldBlocks, usize)> {
        let entries = self.entries.values();
        entries.map(|held| (&held.blocks, held.num_computed_tokens))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there was never one.
    pub(super) fn is_fresh(&self) -> bool {
        self.next_id == 0
    }

    /// Tokens and blocks of each.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (usize, usize)> {
        let entries = self.entries.values();
        entries.map(|held| (held.tokens.len(), held.blocks.num_blocks()))
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.entries
            .values()
            .map(|held| held.blocks.num_blocks())
            .sum()
    }
}

impl Scheduler {
    /// Hold a sequence without tokens; a request gives it some.
    pub fn open_sequence(&mut self, salt: Option<String>) -> SequenceId {
        let id = self.held.insert(HeldSequence {
            salt,
            ..HeldSequence::default()
        });
        if let Some(log) = &mut self.log {
            let held = self.held.entries.get(&id);
            log.open(held.and_then(HeldSequence::salt), id);
        }
        id
    }

    /// Hold a sequence's tokens and blocks once more, as they are now. Costs a reference per block.
    pub fn fork_sequence(&mut self, id: SequenceId) -> Result<SequenceId, SequenceError> {
        let fork = self.fork_held(id);
        if let Some(log) = &mut self.log {
            log.fork(id, fork.ok());
        }
        fork
    }

    fn fork_held(&mut self, id: SequenceId) -> Result<SequenceId, SequenceError> {
        let held = self.held.find(id)?;
        let fork = HeldSequence {
            tokens: Arc::clone(&held.tokens),
            num_computed_tokens: held.num_computed_tokens,
            blocks: self.kv.fork_held(&held.blocks),
            salt: held.salt.clone(),
            ..HeldSequence::default()
        };
        Ok(self.held.insert(fork))
    }

    /// Take the last `num_tokens` tokens off a sequence.
    pub fn rewind_sequence(
        &mut self,
        id: SequenceId,
        num_tokens: usize,
    ) -> Result<(), SequenceError> {
        let done = self.rewind_held(id, num_tokens);
        if let Some(log) = &mut self.log {
            log.rewind(id, num_tokens, done.is_ok());
        }
        done
    }

    fn rewind_held(&mut self, id: SequenceId, num_tokens: usize) -> Result<(), SequenceError> {
        let held = self.held.idle(id)?;
        let Some(kept) = held.tokens.len().checked_sub(num_tokens) else {
            return Err(SequenceError::TooShort {
                num_tokens: held.tokens.len(),
                wanted: num_tokens,
            });
        };
        self.truncate_held(id, kept);
        Ok(())
    }

    /// Let a sequence go; whether there was one. Requests that go on from it are not affected, but have nowhere to
    /// leave their tokens.
    pub fn close_sequence(&mut self, id: SequenceId) -> bool {
        let held = self.held.entries.remove(&id);
        let existed = held.is_some();
        if let Some(held) = held {
            self.kv.drop_held(held.blocks);
        }
        if let Some(log) = &mut self.log {
            log.close(id, existed);
        }
        existed
    }

    /// A held sequence.
    #[must_use]
    pub fn sequence(&self, id: SequenceId) -> Option<&HeldSequence> {
        self.held.entries.get(&id)
    }

    /// Give an idle sequence tokens, of the first `num_computed` of which somebody has K and V: returns whether there
    /// is room for them. The caller then writes them into the blocks of [`HeldSequence::table`] before the next step;
    /// they are never published. Without room the sequence is as if it had been evicted.
    pub fn restore_sequence(
        &mut self,
        id: SequenceId,
        tokens: Vec<i32>,
        num_computed: usize,
    ) -> Result<bool, SequenceError> {
        if let Some(log) = &mut self.log {
            log.restore(id, &tokens, num_computed);
        }
        let has_room = self.restore_held(id, tokens, num_computed);
        if let Some(log) = &mut self.log {
            log.restored(has_room.ok());
        }
        has_room
    }

    fn restore_held(
        &mut self,
        id: SequenceId,
        tokens: Vec<i32>,
        num_computed: usize,
    ) -> Result<bool, SequenceError> {
        self.held.idle(id)?;
        self.truncate_held(id, 0);
        let num_computed = num_computed.min(tokens.len());
        let needed = num_computed.div_ceil(inferlib_program::BLOCK_SIZE);
        let mut blocks = self.kv.take_private(num_computed);
        while blocks.is_none() && self.can_evict(needed) {
            self.evict_held(Some(id));
            blocks = self.kv.take_private(num_computed);
        }
        let held = self.held.find(id)?;
        held.tokens = Arc::new(tokens);
        let has_room = blocks.is_some();
        if let Some(blocks) = blocks {
            held.blocks = blocks;
            held.num_computed_tokens = num_computed;
        }
        Ok(has_room)
    }

    /// A request is submitted: the sequence that it goes on from gives its salt, and is taken if it is to be changed.
    pub(super) fn begin_continuation(&mut self, new: &mut NewRequest) -> Result<(), SequenceError> {
        let Some(Continuation { sequence, keep }) = new.continues else {
            return Ok(());
        };
        if keep && new.n != 1 {
            return Err(SequenceError::SeveralSequences { n: new.n });
        }
        let held = match self.held.idle(sequence) {
            Err(SequenceError::Busy) if !keep => self.held.find(sequence)?,
            found => found?,
        };
        if keep && !new.prompt.starts_with(&held.tokens) {
            return Err(SequenceError::Changed);
        }
        held.is_busy |= keep;
        new.cache_salt.clone_from(&held.salt);
        Ok(())
    }

    /// [`Scheduler::begin_continuation`]'s request has its id.
    pub(super) fn name_writer(&mut self, id: RequestId, continues: Option<Continuation>) {
        if let Some(Continuation {
            sequence,
            keep: true,
        }) = continues
            && let Ok(held) = self.held.find(sequence)
        {
            held.writer = Some(id);
        }
    }

    /// A request's sequence in `slot` ends: what it has is the held sequence's now, unless it was given up or failed.
    pub(super) fn end_continuation(&mut self, slot: usize, reason: FinishReason) {
        let request = &self.requests[self.sequences.request[slot]];
        let Some(Continuation {
            sequence,
            keep: true,
        }) = request.continues
        else {
            return;
        };
        self.held.uses += 1;
        let uses = self.held.uses;
        let Ok(held) = self.held.find(sequence) else {
            return; // it was closed meanwhile
        };
        held.is_busy = false;
        if !matches!(
            reason,
            FinishReason::Stop
                | FinishReason::Length
                | FinishReason::Deadline
                | FinishReason::Abstain
        ) {
            return;
        }
        held.used = uses;
        let tokens = request.tokens(0);
        held.tokens = Arc::new([tokens.prompt, tokens.output].concat());
        let (blocks, num_computed) = if self.sequences.status[slot] == SequenceStatus::Running {
            self.kv.hold(slot, self.sequences.num_computed_tokens[slot])
        } else {
            (HeldBlocks::default(), 0)
        };
        held.num_computed_tokens = num_computed;
        self.kv
            .drop_held(std::mem::replace(&mut held.blocks, blocks));
    }

    /// A request's output was cut to `num_output_tokens`: so is the held sequence that it left it to.
    pub(super) fn cut_held(&mut self, index: usize, num_output_tokens: usize) {
        let request = &self.requests[index];
        let (id, num_prompt_tokens) = (request.output.request_id, request.num_prompt_tokens());
        if let Some(Continuation {
            sequence,
            keep: true,
        }) = request.continues
            && let Some(held) = self.held.entries.get(&sequence)
            && held.writer == Some(id)
            && !held.is_busy
        {
            self.truncate_held(sequence, num_prompt_tokens + num_output_tokens);
        }
    }

    fn truncate_held(&mut self, id: SequenceId, num_tokens: usize) {
        if let Ok(held) = self.held.find(id) {
            if num_tokens < held.tokens.len() {
                Arc::make_mut(&mut held.tokens).truncate(num_tokens);
            }
            held.num_computed_tokens = held.num_computed_tokens.min(num_tokens);
            self.kv
                .shrink_held(&mut held.blocks, held.num_computed_tokens);
        }
    }

    /// Whether `num_blocks` blocks could be free if no sequence held any: an upper bound, since forks share.
    pub(super) fn can_evict(&self, num_blocks: usize) -> bool {
        let held = self.held.num_blocks();
        held > 0 && self.kv.can_grow(num_blocks.saturating_sub(held))
    }

    /// Take the blocks of the held sequence that was not used for longest; `spared` comes last. Whether there was one.
    pub(super) fn evict_held(&mut self, spared: Option<SequenceId>) -> bool {
        let holders = self.held.entries.iter_mut();
        let Some((_, victim)) = holders
            .filter(|(_, held)| held.blocks.num_blocks() > 0)
            .min_by_key(|(id, held)| (Some(**id) == spared, held.used))
        else {
            return false;
        };
        victim.num_computed_tokens = 0;
        self.kv.drop_held(std::mem::take(&mut victim.blocks));
        self.totals.num_evictions += 1;
        true
    }

    /// Every sequence's K and V are those of its tokens, and who is busy has a living request.
    pub(super) fn check_held(&self) -> Result<(), String> {
        for (id, held) in &self.held.entries {
            if held.num_computed_tokens > held.tokens.len() {
                return Err(format!("{id:?} has more K and V than tokens"));
            }
            let writer = held.writer.and_then(|writer| self.output(writer));
            if held.is_busy && writer.is_none_or(crate::RequestOutput::is_finished) {
                return Err(format!("{id:?} is busy and nobody works on it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::samples::{config, request};

    fn found(damage: fn(&mut HeldSequence)) -> String {
        let mut scheduler = Scheduler::new(config()).unwrap();
        let id = scheduler.open_sequence(None);
        scheduler.check_integrity().unwrap();
        damage(scheduler.held.find(id).unwrap());
        scheduler.check_held().unwrap_err()
    }

    #[test]
    fn a_held_sequence_that_contradicts_itself_is_found() {
        assert_eq!(
            found(|held| held.num_computed_tokens = 1),
            "SequenceId(0) has more K and V than tokens"
        );
        assert_eq!(
            found(|held| held.is_busy = true),
            "SequenceId(0) is busy and nobody works on it"
        );
    }

    #[test]
    fn a_sequence_is_busy_only_as_long_as_its_request_lives() {
        let mut scheduler = Scheduler::new(config()).unwrap();
        let sequence = scheduler.open_sequence(None);
        let new = NewRequest {
            continues: Some(Continuation {
                sequence,
                keep: true,
            }),
            ..request(1)
        };
        let id = scheduler.submit(new, 0.0).unwrap();
        assert!(scheduler.sequence(sequence).unwrap().is_busy());
        scheduler.check_integrity().unwrap();
        scheduler.cancel(id, 1.0);
        assert!(!scheduler.sequence(sequence).unwrap().is_busy());
        scheduler.held.find(sequence).unwrap().is_busy = true;
        assert_eq!(
            scheduler.check_integrity().unwrap_err(),
            "SequenceId(0) is busy and nobody works on it"
        );
    }

    #[test]
    fn restored_tokens_can_be_read_and_cut_until_the_sequence_is_closed() {
        let mut scheduler = Scheduler::new(config()).unwrap();
        let id = scheduler.open_sequence(None);
        let tokens: Vec<i32> = (0..20).collect();
        assert_eq!(scheduler.restore_sequence(id, tokens, 18), Ok(true));
        let sizes = |scheduler: &Scheduler| {
            let held = scheduler.sequence(id).unwrap();
            let num_blocks = held.table(0).len();
            (held.tokens().len(), held.num_computed_tokens(), num_blocks)
        };
        assert_eq!(sizes(&scheduler), (20, 18, 2));
        scheduler.truncate_held(id, 16);
        assert_eq!(sizes(&scheduler), (16, 16, 1));
        scheduler.check_integrity().unwrap();
        assert!(scheduler.close_sequence(id));
        scheduler.truncate_held(id, 3);
        assert!(scheduler.sequence(id).is_none());
        scheduler.check_integrity().unwrap();
    }
}
