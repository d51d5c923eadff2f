//! A log of decisions: damage and differences are errors.

use inferlib_core::decision_log;

/// What a replayed scheduler may need.
const MAX_BYTES: u64 = 4 << 20;

pub(crate) fn replay(data: &[u8]) -> bool {
    let result = decision_log::replay(data, MAX_BYTES);
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    result.is_ok()
}
