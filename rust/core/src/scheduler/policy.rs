//! Who comes first.
//!
//! Every policy but fair share gives a sequence one key when it is submitted, and the key never changes: all who wait
//! age alike, so ageing and deadlines order them once and for all. Nothing is sorted in a step. Under fair share the
//! key orders a tenant's own sequences, and counters the tenants (`fair.rs`).

use super::Scheduler;
use crate::request::NewRequest;

/// In which order sequences are admitted, computed while the budget lasts, and (backwards) preempted. Equal ones go in
/// order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Policy {
    /// In order of arrival. A request's `priority` counts all the same, and strictly: whoever has a smaller one is first,
    /// however long others wait.
    #[default]
    Fcfs,
    /// By `priority`, smaller first, and better by one class for every so many steps since the request came: who waits
    /// long enough is in front of every later request.
    Priority {
        /// Steps that are worth one class.
        steps_per_class: u32,
    },
    /// The tenant that was served least is next, and a tenant's own requests are in the order of
    /// [`Policy::Priority`].
    ///
    /// While two tenants both have something waiting, the difference of what they get stays below
    /// `2 * max(input_weight * longest input, output_weight * tokens in the KV cache)`, if a token drawn weighs at least
    /// twice as much as a token read. Source: Sheng et al. 2024, "Fairness in Serving Large Language Models" (VTC).
    FairShare {
        /// What a prompt token costs that is not found in the cache, charged when the request is admitted.
        input_weight: u32,
        /// What a generated token costs.
        output_weight: u32,
    },
    /// By `deadline`, the earliest first. A request without one counts as if it had to be done so many seconds after it
    /// came, and so waits for no longer than that for those who come later.
    Deadline {
        /// Seconds.
        patience_seconds: f64,
    },
}

impl Policy {
    /// Steps that are worth a class, unless somebody says otherwise: a few seconds of decoding.
    pub const STEPS_PER_CLASS: u32 = 256;
    /// What a prompt token costs, unless somebody says otherwise.
    pub const INPUT_WEIGHT: u32 = 1;
    /// What a generated token costs, unless somebody says otherwise.
    pub const OUTPUT_WEIGHT: u32 = 2;
    /// When a request without a deadline should be done, unless somebody says otherwise.
    pub const PATIENCE_SECONDS: f64 = 60.0;

    /// All names, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["fcfs", "priority", "fair", "deadline"];

    /// A policy by its name, with the usual numbers.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "fcfs" => Self::Fcfs,
            "priority" => Self::Priority {
                steps_per_class: Self::STEPS_PER_CLASS,
            },
            "fair" => Self::FairShare {
                input_weight: Self::INPUT_WEIGHT,
                output_weight: Self::OUTPUT_WEIGHT,
            },
            "deadline" => Self::Deadline {
                patience_seconds: Self::PATIENCE_SECONDS,
            },
            _ => return None,
        })
    }

    /// The reverse of [`Policy::from_name`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fcfs => "fcfs",
            Self::Priority { .. } => "priority",
            Self::FairShare { .. } => "fair",
            Self::Deadline { .. } => "deadline",
        }
    }

    /// The number that cannot work, and its name.
    pub(super) fn invalid(&self) -> Option<(&'static str, f64)> {
        match *self {
            Self::Fcfs => None,
            Self::Priority { steps_per_class } => {
                (steps_per_class == 0).then_some(("steps_per_class", 0.0))
            }
            Self::FairShare {
                input_weight,
                output_weight,
            } => [
                ("input_weight", input_weight),
                ("output_weight", output_weight),
            ]
            .into_iter()
            .find(|&(_, weight)| weight == 0 || weight > MAX_WEIGHT)
            .map(|(field, weight)| (field, f64::from(weight))),
            Self::Deadline { patience_seconds } => {
                let works = patience_seconds.is_finite() && patience_seconds >= 0.0;
                (!works).then_some(("patience_seconds", patience_seconds))
            }
        }
    }
}

/// Most that a token can cost: counters of 64 bits then last for ever.
const MAX_WEIGHT: u32 = 1 << 16;

/// A moment of the caller's clock in whole microseconds; what is too far away counts as the end of time.
#[expect(
    clippy::cast_possible_truncation,
    reason = "casts of floats saturate, and that is what is wanted"
)]
pub(super) fn microseconds(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

impl Scheduler {
    /// The key of a request's sequences: smaller first.
    pub(super) fn rank_key(&self, new: &NewRequest, now: f64) -> i64 {
        match self.config.policy {
            Policy::Fcfs => i64::from(new.priority),
            Policy::Priority { steps_per_class } => self.aged(new.priority, steps_per_class),
            Policy::FairShare { .. } => 0, // across tenants by arrival; see `class`
            Policy::Deadline { patience_seconds } => {
                microseconds(new.deadline.unwrap_or(now + patience_seconds))
            }
        }
    }

    /// The place of a request among those of its tenant.
    pub(super) fn class(&self, new: &NewRequest) -> i64 {
        match self.config.policy {
            Policy::FairShare { .. } => self.aged(new.priority, Policy::STEPS_PER_CLASS),
            _ => 0,
        }
    }

    /// `(key - steps) / steps_per_class` is the priority less a class for every `steps_per_class` steps since the
    /// request came. All keys lose alike with every step, so their order stands.
    fn aged(&self, priority: i32, steps_per_class: u32) -> i64 {
        i64::from(priority) * i64::from(steps_per_class)
            + i64::try_from(self.totals.num_steps).unwrap_or(i64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_policies_are_one_to_one() {
        for name in Policy::NAMES {
            assert_eq!(Policy::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Policy::from_name("sjf"), None);
    }

    #[test]
    fn moments_keep_their_order_and_never_wrap() {
        let moments = [
            f64::MIN,
            -1.0,
            0.0,
            1e-6,
            1.0,
            1.000_001,
            3.2e9,
            1e18,
            f64::MAX,
        ];
        assert!(moments.map(microseconds).is_sorted());
        assert_eq!(microseconds(f64::MAX), i64::MAX);
    }
}
