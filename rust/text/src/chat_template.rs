//! Chat templates.

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chat template: {message}")]
pub struct TemplateError {
    /// Line.
    pub line: Option<usize>,
    /// Message.
    pub message: String,
}
