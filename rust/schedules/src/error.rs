//! As much of `rust/cpu`'s errors as the pool has.

/// What a job came to.
#[derive(Debug)]
pub(crate) enum CpuError {
    /// A worker panicked.
    Panic {
        /// Its message.
        message: String,
    },
}
