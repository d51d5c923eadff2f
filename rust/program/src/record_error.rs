//! Why an op or a whole program was refused by the recorder.

use thiserror::Error;

use crate::program::Rows;

/// Why an op or a whole program was refused.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RecordError {
    /// An id that this recorder did not give out.
    #[error("{op}: {what} {id} does not belong to this program")]
    UnknownId {
        /// The op that names it.
        op: &'static str,
        /// `buffer`, `weight`, `rope`, `KV group` or `KV layer`.
        what: &'static str,
        /// The id.
        id: usize,
    },
    /// A declaration that differs from an earlier one of the same name.
    #[error("{what} {name:?} is declared twice, as {first} and as {second}")]
    Redeclared {
        /// `buffer`, `weight` or `capture point`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The first declaration.
        first: String,
        /// The other one.
        second: String,
    },
    /// A size or scale that makes no sense.
    #[error("{what} must be {expected}, not {found}")]
    InvalidValue {
        /// Whose value it is.
        what: String,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A buffer of the wrong width.
    #[error("{op}: buffer {buffer:?} is {found} wide, not {expected}")]
    Width {
        /// The op.
        op: &'static str,
        /// The buffer's name.
        buffer: String,
        /// Its width.
        found: usize,
        /// The width that the op needs.
        expected: usize,
    },
    /// A slice that reaches beyond its row.
    #[error("{op}: elements {start}..{end} reach beyond the {width} of buffer {buffer:?}")]
    BeyondRow {
        /// The op.
        op: &'static str,
        /// The buffer's name.
        buffer: String,
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
        /// The buffer's width.
        width: usize,
    },
    /// A buffer whose rows count something else than the op needs.
    #[error("{op}: buffer {buffer:?} has one row per {found:?}, not {expected:?}")]
    WrongRows {
        /// The op.
        op: &'static str,
        /// The buffer's name.
        buffer: String,
        /// What its rows count.
        found: Rows,
        /// What they should count.
        expected: Rows,
    },
    /// A weight of the wrong shape.
    #[error("{op}: weight {weight:?} has shape {found:?}, not {expected:?}")]
    WeightShape {
        /// The op.
        op: &'static str,
        /// The weight's name.
        weight: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the op needs.
        expected: Vec<usize>,
    },
    /// An op that cannot work in place was given one buffer twice.
    #[error("{op}: cannot write to its input {buffer:?}")]
    InPlace {
        /// The op.
        op: &'static str,
        /// The buffer's name.
        buffer: String,
    },
    /// A number that has to be a multiple of another.
    #[error("{op}: {what} {value} is not a multiple of {divisor}")]
    NotAMultiple {
        /// The op.
        op: &'static str,
        /// What is counted.
        what: &'static str,
        /// The number.
        value: usize,
        /// What has to divide it.
        divisor: usize,
    },
    /// A buffer that is read before anything was written to it.
    #[error("{op}: buffer {buffer:?} is read before it is written")]
    ReadBeforeWrite {
        /// The op.
        op: &'static str,
        /// The buffer's name.
        buffer: String,
    },
    /// A KV layer that is written twice, or read before it is written.
    #[error("{op}: layer {layer} of KV group {group} {problem}")]
    KvOrder {
        /// The op.
        op: &'static str,
        /// The group.
        group: usize,
        /// The layer within the group.
        layer: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something that was declared and never used.
    #[error("{what} {name:?} is declared but never used")]
    Unused {
        /// `buffer`, `weight` or `KV layer`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A program without any result, or with two heads.
    #[error("a program has one lm_head, or none and a capture point; this one has {found}")]
    LmHeads {
        /// How many there are.
        found: usize,
    },
}
