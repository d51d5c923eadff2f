//! Hot per-sequence state as parallel arrays indexed by slot: a step reads a few of them for every running sequence,
//! so each is dense on its own. Slots are reused; the generation tells a step in flight that its sequence is gone.

use super::fair::TenantIndex;

/// Order of service: smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Behind everybody who is not.
    pub(super) is_background: bool,
    /// By policy, for good.
    pub(super) key: i64,
    /// Number of the request in order of submission.
    pub(super) arrival: u64,
    pub(super) sequence_index: u32,
}

/// Where a sequence stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// 0 where tenants do not count.
    pub(super) tenant: TenantIndex,
    /// Among those of its tenant; 0 where tenants do not count.
    pub(super) class: i64,
    pub(super) rank: Rank,
    pub(super) slot: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceStatus {
    /// The slot is unused.
    Free,
    /// Waits for its request's prompt to be computed, to share it.
    Forking,
    /// Waits for its first blocks.
    Waiting,
    /// Lost its blocks, waits for new ones.
    Preempted,
    /// Has blocks for all its tokens but the one that comes next.
    Running,
}

#[derive(Debug, Default)]
pub(super) struct Sequences {
    pub(super) generation: Vec<u32>,
    pub(super) status: Vec<SequenceStatus>,
    pub(super) rank: Vec<Rank>,
    /// 0 where tenants do not count: in the background, and but under fair share.
    pub(super) tenant: Vec<TenantIndex>,
    class: Vec<i64>,
    /// Index of the request.
    pub(super) request: Vec<usize>,
    /// Prompt and output.
    pub(super) num_tokens: Vec<usize>,
    /// Tokens whose K and V are in the cache.
    pub(super) num_computed_tokens: Vec<usize>,
    free: Vec<usize>,
}

impl Sequences {
    /// A slot for a sequence that holds its prompt only.
    pub(super) fn open(
        &mut self,
        request: usize,
        (tenant, class, rank): (TenantIndex, i64, Rank),
        num_prompt_tokens: usize,
    ) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generation.push(0);
            self.status.push(SequenceStatus::Free);
            self.rank.push(rank);
            self.tenant.push(tenant);
            self.class.push(class);
            self.request.push(request);
            self.num_tokens.push(0);
            self.num_computed_tokens.push(0);
            self.status.len() - 1
        });
        self.status[slot] = SequenceStatus::Forking;
        self.rank[slot] = rank;
        self.tenant[slot] = tenant;
        self.class[slot] = class;
        self.request[slot] = request;
        self.num_tokens[slot] = num_prompt_tokens;
        self.num_computed_tokens[slot] = 0;
        slot
    }

    pub(super) fn close(&mut self, slot: usize) {
        self.status[slot] = SequenceStatus::Free;
        self.generation[slot] = self.generation[slot].wrapping_add(1);
        self.free.push(slot);
    }

    pub(super) fn place(&self, slot: usize) -> Place {
        Place {
            tenant: self.tenant[slot],
            class: self.class[slot],
            rank: self.rank[slot],
            slot,
        }
    }

    /// Tokens that are still to be computed; one means a decode row.
    pub(super) fn remaining(&self, slot: usize) -> usize {
        self.num_tokens[slot] - self.num_computed_tokens[slot]
    }

    pub(super) fn len(&self) -> usize {
        self.status.len()
    }

    pub(super) fn num_free(&self) -> usize {
        self.free.len()
    }
}
