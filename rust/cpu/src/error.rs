//! What can go wrong when an executor is built, loaded or run.

/// Errors of the CPU executor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CpuError {
    /// A tier that does not exist.
    #[error("unknown CPU tier {tier:?}; this machine runs {available}")]
    UnknownTier {
        /// As given.
        tier: String,
        /// Comma-separated names.
        available: String,
    },
    /// A tier that this machine cannot run.
    #[error("CPU tier {tier:?} needs instructions that this machine lacks; it runs {available}")]
    UnavailableTier {
        /// As given.
        tier: String,
        /// Comma-separated names.
        available: String,
    },
    /// An option outside its range.
    #[error("{field}={value}: {expected}")]
    Option {
        /// The argument.
        field: &'static str,
        /// As given.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A weight that the program does not declare.
    #[error("the program declares no weight named {name:?}")]
    UnknownWeight {
        /// As given.
        name: String,
    },
    /// An adapter for a weight that is no matrix which rows of tokens are multiplied with.
    #[error("the weight {name:?} cannot be adapted")]
    NotAdaptable {
        /// Canonical name.
        name: String,
    },
    /// A weight whose shape differs from the program's.
    #[error("weight {name:?} has shape {found:?} but the program declares {expected:?}")]
    WeightShape {
        /// Canonical name.
        name: String,
        /// Declared.
        expected: Vec<usize>,
        /// Given.
        found: Vec<usize>,
    },
    /// A tensor type that has no matrix kernel.
    #[error("weight {name:?} has type {dtype}, which cannot be used as a matrix")]
    WeightType {
        /// Canonical name.
        name: String,
        /// The type's name.
        dtype: String,
    },
    /// Weights that were never loaded.
    #[error("weights are missing: {names}")]
    MissingWeights {
        /// The first ten, comma-separated.
        names: String,
    },
    /// The operating system refused memory.
    #[error("{what} needs {required} bytes, which the system refused")]
    OutOfMemory {
        /// What for.
        what: &'static str,
        /// Bytes.
        required: usize,
    },
    /// The packed cache was asked for and cannot be read or written.
    #[error("packed_cache={folder:?}: {why}")]
    PackedCache {
        /// As given.
        folder: String,
        /// What is wrong.
        why: String,
    },
    /// A checkpoint's file was written to while it was loaded: what was packed of it is of no use.
    #[error("{path} was written to while it was loaded")]
    SourceChanged {
        /// The file.
        path: String,
    },
    /// A batch that exceeds what the executor was built for: a bug of the scheduler or of the caller.
    #[error("batch field {field} is invalid: {why}")]
    Batch {
        /// The array.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A worker panicked; the step was not completed.
    #[error("a kernel failed: {message}")]
    Panic {
        /// The panic's text.
        message: String,
    },
    /// The abort flag was raised; the step must be discarded.
    #[error("the step was aborted")]
    Aborted,
    /// The executor was closed.
    #[error("the executor is closed")]
    Closed,
}
