//! Rust errors as the Python classes of `errors.py`. One match per crate's enum without `_ =>`, so that a new
//! variant does not compile until it has a class.

use std::path::Path;

use inferlib_core::decision_log::ReplayError;
use inferlib_core::{ConfigError, SequenceError, SubmitError, UpdateError};
use inferlib_cpu::CpuError;
use inferlib_program::RecordError;
use inferlib_program::validation::InvalidParam;
use inferlib_text::{GrammarError, TemplateProblem, TextError};
use inferlib_weights::WeightsError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::boundary::{silence_panics, with_place};
use crate::decision_log;

/// Name → class, handed over by `inferlib/__init__.py`.
static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// Receive the exception classes of `errors.py`, by name. Called once, at import.
#[pyfunction]
#[pyo3(signature = (classes: "dict[str, Any]"))]
pub(crate) fn set_error_classes(py: Python<'_>, classes: Bound<'_, PyDict>) {
    // A second import of the same module hands over the same classes.
    let _ = CLASSES.set(py, classes.unbind());
    silence_panics();
}

/// Every error that crosses the boundary.
#[derive(Debug)]
pub(crate) enum Error {
    /// A panic: a bug of ours.
    Internal(String),
    /// A checkpoint that cannot be opened or read.
    Weights(WeightsError),
    /// A vocabulary, text or template that was refused.
    Text(TextError),
    /// A description of structured output that was refused.
    Grammar(GrammarError),
    /// An op or a program that the recorder refused.
    Record(RecordError),
    /// A buffer, weight, rotary table or KV layer of another recorder.
    ForeignHandle,
    /// A recorder that was used after `finish`.
    RecorderFinished,
    /// Limits or memory that a scheduler cannot work with.
    Config(ConfigError),
    /// A request that was refused.
    Submit(SubmitError),
    /// A step's result that is not the step's: a bug of the executor.
    Update(UpdateError),
    /// A decision log that does not replay.
    Replay(ReplayError),
    /// The CPU executor.
    Cpu(CpuError),
    /// An invalid argument: field and message.
    Request {
        field: &'static str,
        message: String,
    },
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// A class of `errors.py` with its message and keyword attributes.
pub(crate) struct PyError {
    class: &'static str,
    message: String,
    /// Set on the instance after construction.
    attributes: Vec<(&'static str, Attribute)>,
}

/// Value of an attribute of an exception.
pub(crate) enum Attribute {
    /// A string.
    Text(String),
    /// A byte count or index.
    Number(u64),
}

impl PyError {
    pub(crate) fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            attributes: Vec::new(),
        }
    }

    pub(crate) fn with_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, Attribute::Text(value.into())));
        self
    }

    pub(crate) fn with_number(mut self, name: &'static str, value: u64) -> Self {
        self.attributes.push((name, Attribute::Number(value)));
        self
    }
}

/// `RequestError` about one argument.
pub(crate) fn request_error(py: Python<'_>, field: &'static str, message: String) -> PyErr {
    to_py_err(py, Error::Request { field, message })
}

/// The exception for `error`.
pub(crate) fn to_py_err(py: Python<'_>, error: Error) -> PyErr {
    raise(py, describe(error)).unwrap_or_else(|failure| failure)
}

fn describe(error: Error) -> PyError {
    match error {
        Error::Internal(message) => PyError::new(
            "InternalError",
            format!("inferlib failed internally: {message}"),
        )
        .with_text("hint", "this is a bug; please report it"),
        Error::Weights(error) => describe_weights(&error),
        Error::Text(error) => describe_text(&error),
        Error::Grammar(error) => describe_grammar(&error),
        Error::Record(error) => PyError::new("ModelError", error.to_string()),
        Error::ForeignHandle => PyError::new(
            "ModelError",
            "a buffer, weight, rotary table or KV layer belongs to another recorder",
        ),
        Error::RecorderFinished => PyError::new(
            "ModelError",
            "this recorder has finished; record another program with a new one",
        ),
        Error::Config(error) => {
            let field = match error {
                ConfigError::NoGroups | ConfigError::NumBlocks { .. } => "groups",
                ConfigError::Limit { field, value: _ }
                | ConfigError::Policy { field, value: _ } => field,
                ConfigError::PromptLookup { .. } => "prompt_lookup_max",
            };
            PyError::new("RequestError", error.to_string()).with_text("field", field)
        }
        Error::Submit(error) => describe_submit(&error),
        Error::Update(error) => match error {
            UpdateError::NoStep
            | UpdateError::Length { .. }
            | UpdateError::MissingLogprobs { row: _ } => {
                PyError::new("InternalError", format!("wrong step output: {error}"))
            }
        },
        Error::Replay(error) => decision_log::describe(&error),
        Error::Cpu(error) => describe_cpu(&error),
        Error::Request { field, message } => {
            PyError::new("RequestError", message).with_text("field", field)
        }
    }
}

impl From<CpuError> for Error {
    fn from(error: CpuError) -> Self {
        Self::Cpu(error)
    }
}

fn describe_cpu(error: &CpuError) -> PyError {
    let message = error.to_string();
    match error {
        CpuError::UnknownTier { .. } | CpuError::UnavailableTier { .. } => {
            PyError::new("RequestError", message).with_text("field", "tier")
        }
        CpuError::Option { field, .. } => {
            PyError::new("RequestError", message).with_text("field", *field)
        }
        CpuError::NotAdaptable { .. }
        | CpuError::UnknownWeight { .. }
        | CpuError::WeightShape { .. }
        | CpuError::MissingWeights { .. } => PyError::new("ModelFormatError", message),
        CpuError::WeightType { .. } => PyError::new("UnsupportedModelError", message),
        CpuError::OutOfMemory { required, .. } => PyError::new("OutOfMemoryError", message)
            .with_number("required", u64::try_from(*required).unwrap_or(u64::MAX)),
        CpuError::PackedCache { .. } => PyError::new("RequestError", message)
            .with_text("field", "packed_cache")
            .with_text(
                "hint",
                "give a folder that can be written to and has room, or leave it out",
            ),
        CpuError::SourceChanged { path } => {
            with_path(PyError::new("ModelFormatError", &message), Path::new(path))
                .with_text("hint", "load it again once it is complete")
        }
        CpuError::Panic { .. } => PyError::new("InternalError", with_place(&message))
            .with_text("hint", "this is a bug; please report it"),
        CpuError::Batch { .. } => PyError::new("InternalError", message)
            .with_text("hint", "this is a bug; please report it"),
        CpuError::Aborted => PyError::new("ExecutorError", message),
        CpuError::Closed => PyError::new("ClosedError", message),
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        Self::Submit(error)
    }
}

impl From<InvalidParam> for Error {
    fn from(error: InvalidParam) -> Self {
        Self::Submit(error.into())
    }
}

impl From<ReplayError> for Error {
    fn from(error: ReplayError) -> Self {
        Self::Replay(error)
    }
}

impl From<UpdateError> for Error {
    fn from(error: UpdateError) -> Self {
        Self::Update(error)
    }
}

fn describe_submit(error: &SubmitError) -> PyError {
    let message = error.to_string();
    let request = |field| PyError::new("RequestError", &message).with_text("field", field);
    match error {
        SubmitError::PromptTooLong { .. } => {
            PyError::new("PromptTooLongError", &message).with_text("field", "prompt")
        }
        SubmitError::EmptyPrompt | SubmitError::TokenOutOfRange { .. } => request("prompt"),
        SubmitError::InvalidParams(error) => request(error.field),
        SubmitError::InvalidN { .. } => request("n"),
        SubmitError::InvalidDeadline => request("deadline"),
        SubmitError::InvalidCaptures => request("captures"),
        SubmitError::WholePrompts { field } => request(field),
        SubmitError::AdaptedSequence => request("adapter"),
        SubmitError::Overloaded { .. } => PyError::new("OverloadedError", &message),
        SubmitError::Sequence(error) => describe_sequence(*error),
    }
}

impl From<SequenceError> for Error {
    fn from(error: SequenceError) -> Self {
        Self::Submit(error.into())
    }
}

fn describe_sequence(error: SequenceError) -> PyError {
    let message = error.to_string();
    match error {
        SequenceError::Closed => PyError::new("ClosedError", message),
        SequenceError::Busy | SequenceError::Changed => PyError::new("SequenceBusyError", message),
        SequenceError::TooShort { .. } => {
            PyError::new("RequestError", message).with_text("field", "num_tokens")
        }
        SequenceError::SeveralSequences { .. } => {
            PyError::new("RequestError", message).with_text("field", "n")
        }
    }
}

impl From<WeightsError> for Error {
    fn from(error: WeightsError) -> Self {
        Self::Weights(error)
    }
}

fn describe_weights(error: &WeightsError) -> PyError {
    use WeightsError as E;
    let message = error.to_string();
    let not_found = |path: &Path| with_path(PyError::new("ModelNotFoundError", &message), path);
    let format = |path: &Path| with_path(PyError::new("ModelFormatError", &message), path);
    let unsupported =
        |path: &Path| with_path(PyError::new("UnsupportedModelError", &message), path);
    let differs = |path: &Path, expected: &u64, found: &u64| {
        format(path)
            .with_text("expected", expected.to_string())
            .with_text("found", found.to_string())
    };
    match error {
        E::NotFound { path, near: _ }
        | E::NoWeights { path, found: _ }
        | E::MissingShard { path, shard: _ } => not_found(path),
        E::Unreadable { path, source: _ } | E::NotAFile { path } => {
            with_path(PyError::new("ModelReadError", &message), path)
        }
        E::ManyCheckpoints { path, found: _ }
        | E::Empty { path }
        | E::GitLfsPointer { path, size: _ }
        | E::HtmlPage { path }
        | E::DuplicateKey { path, key: _ }
        | E::DuplicateTensor { path, tensor: _ }
        | E::ShapeTooLarge { path, .. }
        | E::PartialBlock { path, .. }
        | E::ShardPath { path, shard: _ }
        | E::ShardMismatch { path, .. } => format(path),
        E::Pickle { path }
        | E::Archive { path, kind: _ }
        | E::LegacyGgml { path, magic: _ }
        | E::UnsupportedVersion { path, version: _ }
        | E::BigEndian { path }
        | E::UnsupportedDtype { path, .. } => unsupported(path),
        E::UnknownFormat { path, found } => format(path)
            .with_text("expected", "GGUF or safetensors")
            .with_text("found", found),
        E::Truncated {
            path,
            what: _,
            offset,
            expected,
            found,
        } => differs(path, expected, found).with_number("offset", *offset),
        E::Malformed {
            path,
            offset,
            expected,
            found,
        } => format(path)
            .with_number("offset", *offset)
            .with_text("expected", expected)
            .with_text("found", found),
        E::TrailingBytes {
            path,
            expected,
            found,
        }
        | E::Changed {
            path,
            expected,
            found,
        }
        | E::TensorSize {
            path,
            expected,
            found,
            ..
        }
        | E::TensorOffset {
            path,
            expected,
            found,
            tensor: _,
        }
        | E::HeaderTooLarge {
            path,
            found,
            limit: expected,
        } => differs(path, expected, found),
        E::OutOfMemory { path: _, required } | E::ArrayOutOfMemory { required } => {
            PyError::new("OutOfMemoryError", message).with_number("required", *required)
        }
        E::BlockLength { .. } => PyError::new("RequestError", message).with_text("field", "bytes"),
    }
}

impl From<TextError> for Error {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}

fn describe_text(error: &TextError) -> PyError {
    use TextError as E;
    let message = error.to_string();
    let request = |field: &str| PyError::new("RequestError", &message).with_text("field", field);
    match error {
        E::InvalidVocabulary { .. }
        | E::InvalidTokenizerJson { .. }
        | E::InvalidTokenizerConfig { .. } => PyError::new("ModelFormatError", message),
        E::UnsupportedTokenizer { .. } => PyError::new("UnsupportedModelError", message),
        E::UnknownTokenId { .. } | E::LengthMismatch { .. } => request("token_ids"),
        E::TextTooLong { .. } | E::Unencodable { .. } => request("text"),
        E::InvalidStop { .. } | E::TooManyStops { .. } => request("stop"),
        E::UnknownStream { .. } | E::DuplicateStream { .. } => request("key"),
        E::Template(template) => {
            let field = match template.problem {
                TemplateProblem::Argument => "variables",
                TemplateProblem::Raised => "messages",
                TemplateProblem::Syntax | TemplateProblem::Limit | TemplateProblem::Failed => {
                    "chat_template"
                }
            };
            let error = PyError::new("TemplateError", message).with_text("field", field);
            match template.line.and_then(|line| u64::try_from(line).ok()) {
                Some(line) => error.with_number("line", line),
                None => error,
            }
        }
    }
}

impl From<GrammarError> for Error {
    fn from(error: GrammarError) -> Self {
        Self::Grammar(error)
    }
}

fn describe_grammar(error: &GrammarError) -> PyError {
    use GrammarError as E;
    let field = match error {
        E::TooLong { field, .. } | E::Invalid { field, .. } => *field,
        E::Choices { .. } => "choices",
        E::Stuck { .. } => "",
    };
    PyError::new("GrammarError", error.to_string()).with_text("field", field)
}

fn with_path(error: PyError, path: &Path) -> PyError {
    error.with_text("path", path.to_string_lossy())
}

fn raise(py: Python<'_>, error: PyError) -> PyResult<PyErr> {
    let Some(classes) = CLASSES.get(py) else {
        return Ok(PyRuntimeError::new_err(error.message));
    };
    let class = classes
        .bind(py)
        .get_item(error.class)?
        .ok_or_else(|| PyRuntimeError::new_err(error.message.clone()))?;
    let instance = class.call1((error.message,))?;
    for (name, value) in error.attributes {
        match value {
            Attribute::Text(text) => instance.setattr(name, text)?,
            Attribute::Number(number) => instance.setattr(name, number)?,
        }
    }
    Ok(PyErr::from_value(instance))
}
