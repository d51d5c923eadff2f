//! `_core.replay_decisions`: a scheduler's log, verified.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use inferlib_core::decision_log::{ReplayError, replay};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::boundary::enter;
use crate::errors::{Error, PyError};

/// Replay a decision log through a fresh scheduler and verify that every decision comes out the same; what the log held,
/// as a plain dict. `DecisionLogError` if it is damaged, `ReplayError` if something else comes out. A log whose scheduler
/// would need more than `max_bytes` is refused.
#[pyfunction]
#[pyo3(signature = (path, *, max_bytes = 1 << 32) -> "dict[str, object]")]
pub(crate) fn replay_decisions(
    py: Python<'_>,
    path: PathBuf,
    max_bytes: u64,
) -> PyResult<Bound<'_, PyDict>> {
    let replayed = enter(py, || {
        let file = File::open(path).map_err(ReplayError::Io)?;
        Ok::<_, Error>(replay(BufReader::new(file), max_bytes)?)
    })?;
    let dict = PyDict::new(py);
    let (config, stats) = (replayed.config, replayed.stats);
    dict.set_item("policy", config.policy.name())?;
    dict.set_item("max_num_seqs", config.max_num_seqs)?;
    dict.set_item("max_num_batched_tokens", config.max_num_batched_tokens)?;
    dict.set_item("max_model_len", config.max_model_len)?;
    let blocks = config.groups.iter().map(|group| group.num_blocks);
    dict.set_item("num_blocks", blocks.collect::<Vec<_>>())?;
    for (name, count) in [
        ("num_records", replayed.num_records),
        ("num_steps", stats.num_steps),
        ("num_requests", stats.num_requests),
        ("num_finished", stats.num_finished),
        ("num_scheduled_tokens", stats.num_scheduled_tokens),
        ("num_cached_tokens", stats.num_cached_tokens),
        ("num_output_tokens", stats.num_output_tokens),
        ("num_preemptions", stats.num_preemptions),
        ("num_evictions", stats.num_evictions),
    ] {
        dict.set_item(name, count)?;
    }
    dict.set_item(
        "num_unfinished_seqs",
        stats.num_running_seqs + stats.num_waiting_seqs,
    )?;
    Ok(dict)
}

pub(crate) fn describe(error: &ReplayError) -> PyError {
    let message = error.to_string();
    match error {
        ReplayError::Io(_) | ReplayError::Config(_) => PyError::new("DecisionLogError", message),
        ReplayError::Damaged { record, offset, .. } => PyError::new("DecisionLogError", message)
            .with_number("record", *record)
            .with_number("offset", *offset),
        ReplayError::Diverged {
            call,
            expected,
            found,
            ..
        } => PyError::new("ReplayError", message)
            .with_text("field", *call)
            .with_text("expected", expected)
            .with_text("found", found),
    }
}
