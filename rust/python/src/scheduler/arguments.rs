//! What arguments of the scheduler's methods mean in `inferlib_core`, where that takes more than a name.

use std::hash::{BuildHasher, RandomState};

use inferlib_core::kv_cache::PrefixHash;
use inferlib_core::{CapturePoint, Captures, FinishReason, Policy};
use inferlib_program::program::Rows;
use pyo3::prelude::*;

use crate::errors::request_error;

/// The policy of that name, by what the arguments for it say; weights are of prompt tokens and of generated ones.
pub(super) fn policy(
    py: Python<'_>,
    name: &str,
    steps_per_class: u32,
    (input_weight, output_weight): (u32, u32),
    patience_seconds: f64,
) -> PyResult<Policy> {
    Ok(match name {
        "fcfs" => Policy::Fcfs,
        "priority" => Policy::Priority { steps_per_class },
        "fair" => Policy::FairShare {
            input_weight,
            output_weight,
        },
        "deadline" => Policy::Deadline { patience_seconds },
        _ => {
            let message = format!("policy is {name:?}; it can be one of {:?}", Policy::NAMES);
            return Err(request_error(py, "policy", message));
        }
    })
}

/// A hash with a random key, unless one is given.
pub(super) fn prefix_hash(key: Option<(u64, u64)>) -> PrefixHash {
    let (first, second) = key.unwrap_or_else(|| {
        let random = RandomState::new();
        (random.hash_one(0), random.hash_one(1))
    });
    PrefixHash {
        key: [first, second],
        ..PrefixHash::default()
    }
}

/// Capture points by number and kind of rows.
pub(super) fn captures(
    py: Python<'_>,
    points: Vec<(u32, String)>,
    start: usize,
) -> PyResult<Captures> {
    let point = |(point, rows): (u32, String)| {
        if let Some(rows) = Rows::from_name(&rows) {
            return Ok(CapturePoint { point, rows });
        }
        let message = format!(r#"rows must be "tokens", "sequences" or "sampled", not {rows:?}"#);
        Err(request_error(py, "captures", message))
    };
    Ok(Captures {
        points: points.into_iter().map(point).collect::<PyResult<_>>()?,
        start,
    })
}

pub(super) fn finish_reason(py: Python<'_>, name: &str) -> PyResult<FinishReason> {
    FinishReason::from_name(name).ok_or_else(|| {
        let message = format!(
            r#"reason is {name:?}; it can be "stop", "length", "abort", "error", "deadline" or "abstain""#
        );
        request_error(py, "reason", message)
    })
}
