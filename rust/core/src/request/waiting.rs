//! Where a request is, and why it does not run.

/// Where a request is. One of several sequences may be elsewhere; this is the one that is furthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestStatus {
    /// Never scheduled.
    Waiting,
    /// At least one sequence has blocks.
    Running,
    /// Scheduled once, but every unfinished sequence lost its blocks and waits.
    Preempted,
    /// Every sequence ended.
    Finished,
}

impl RequestStatus {
    /// In lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Preempted => "preempted",
            Self::Finished => "finished",
        }
    }
}

/// Why those who wait for blocks are not let in by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// Too few free blocks for the first of them, beside a spare one for everybody who runs.
    Blocks,
    /// `max_num_seqs` sequences run.
    MaxNumSeqs,
    /// Those who run use `max_num_batched_tokens` up.
    TokenBudget,
    /// The step had to take somebody's blocks away.
    Preemption,
    /// They are in the background, and others have prompts to read.
    Foreground,
}

impl WaitReason {
    /// All reasons, in the order of [`super::RunRecord::waited_for`].
    pub const ALL: [Self; 5] = [
        Self::Blocks,
        Self::MaxNumSeqs,
        Self::TokenBudget,
        Self::Preemption,
        Self::Foreground,
    ];

    /// In lower case, words joined by `_`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::MaxNumSeqs => "max_num_seqs",
            Self::TokenBudget => "token_budget",
            Self::Preemption => "preemption",
            Self::Foreground => "foreground",
        }
    }
}

/// What a waiting request's place comes from, by policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// When it came, among those of its priority.
    Arrival {
        /// As submitted.
        priority: i32,
    },
    /// Its priority, bettered by what it waited.
    Priority {
        /// As submitted.
        priority: i32,
        /// Less a class for every `steps_per_class` steps since, rounded down.
        effective: i64,
    },
    /// What its tenant got so far.
    FairShare {
        /// Its tenant's counter, in weighted tokens.
        service: u64,
        /// The smallest counter of those who wait.
        least_service: u64,
    },
    /// When it must be done.
    Deadline {
        /// On the caller's clock, in seconds.
        due: f64,
        /// Whether that is its own deadline, or what the policy gives those without one.
        is_own: bool,
    },
}

/// Why a request does not run now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// Of the latest step; `None`: no step was planned since, or it let everybody in.
    pub reason: Option<WaitReason>,
    /// Sequences that wait in front of it.
    pub num_ahead: usize,
    /// Blocks for its tokens, if none were shared.
    pub num_needed_blocks: usize,
    /// Free ones of the smallest KV group.
    pub num_free_blocks: usize,
    /// Sequences that run.
    pub num_running_seqs: usize,
    /// Whether it ran before and was preempted.
    pub is_preempted: bool,
    /// What its place in the queue comes from.
    pub standing: Standing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_name() {
        let all = [
            RequestStatus::Waiting,
            RequestStatus::Running,
            RequestStatus::Preempted,
            RequestStatus::Finished,
        ];
        let names = ["waiting", "running", "preempted", "finished"];
        assert_eq!(all.map(RequestStatus::as_str), names);
    }

    #[test]
    fn every_reason_has_its_name_and_stands_at_its_own_place() {
        let names = [
            "blocks",
            "max_num_seqs",
            "token_budget",
            "preemption",
            "foreground",
        ];
        assert_eq!(WaitReason::ALL.map(WaitReason::as_str), names);
        for (place, reason) in WaitReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
