//! Why a request waits, as a plain dict.

use inferlib_core::{Standing, WaitReason, Waiting};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What `Scheduler.why_waiting` says.
pub(super) fn as_dict(py: Python<'_>, waiting: Waiting) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("reason", waiting.reason.map(WaitReason::as_str))?;
    dict.set_item("num_ahead", waiting.num_ahead)?;
    dict.set_item("num_needed_blocks", waiting.num_needed_blocks)?;
    dict.set_item("num_free_blocks", waiting.num_free_blocks)?;
    dict.set_item("num_running_seqs", waiting.num_running_seqs)?;
    dict.set_item("is_preempted", waiting.is_preempted)?;
    describe_standing(&dict, waiting.standing)?;
    Ok(dict)
}

fn describe_standing(dict: &Bound<'_, PyDict>, standing: Standing) -> PyResult<()> {
    match standing {
        Standing::Arrival { priority } => {
            dict.set_item("policy", "fcfs")?;
            dict.set_item("priority", priority)
        }
        Standing::Priority {
            priority,
            effective,
        } => {
            dict.set_item("policy", "priority")?;
            dict.set_item("priority", priority)?;
            dict.set_item("effective_priority", effective)
        }
        Standing::FairShare {
            service,
            least_service,
        } => {
            dict.set_item("policy", "fair")?;
            dict.set_item("service", service)?;
            dict.set_item("least_service", least_service)
        }
        Standing::Deadline { due, is_own } => {
            dict.set_item("policy", "deadline")?;
            dict.set_item("due", due)?;
            dict.set_item("has_deadline", is_own)
        }
    }
}
