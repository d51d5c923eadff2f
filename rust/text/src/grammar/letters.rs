//! How much a description says once its repetitions are written out, and bounds on it.
//!
//! The parser has no limit for text that must follow: it makes all of it at once, a state for each letter of a terminal,
//! and twenty bytes of a grammar can ask for a billion. Repetitions count as often as they must come, and of
//! alternatives the longest counts. Here are expressions; `schema_bounds.rs` and `lark_bounds.rs` count what has them.

use regex_syntax::hir::{Hir, HirKind};

use super::GrammarError;

/// Most letters of a choice, an expression or a schema. Each is a state of the lexer: up to 900 bytes, and a row of as many
/// words as there are kinds of bytes in a table that doubles at 2^15 states.
pub(super) const MAX_LETTERS: usize = 32_000;

/// Refuse an expression that repeats too much. What does not parse is the parser's to report.
pub(super) fn check_expression(field: &'static str, pattern: &str) -> Result<(), GrammarError> {
    if of_expression(pattern).is_some_and(|count| count > MAX_LETTERS) {
        return Err(too_many(field, "an expression", MAX_LETTERS));
    }
    Ok(())
}

pub(super) fn too_many(field: &'static str, what: &str, most: usize) -> GrammarError {
    GrammarError::Invalid {
        field,
        problem: format!("written out {what} has more than {most} letters"),
    }
}

pub(super) fn of_expression(pattern: &str) -> Option<usize> {
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    parser.parse(pattern).ok().map(|expression| of(&expression))
}

/// Letters and classes of an expression. It nests 250 deep at most.
fn of(expression: &Hir) -> usize {
    match expression.kind() {
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Repetition(repeated) => {
            let least = usize::try_from(repeated.min).unwrap_or(usize::MAX).max(1);
            of(&repeated.sub).saturating_mul(least)
        }
        HirKind::Capture(capture) => of(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(of).fold(0, usize::saturating_add)
        }
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
    }
}
