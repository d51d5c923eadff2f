//! What callers describe, turned into what the parser reads.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::GrammarError;

/// Longest description: 1 MB.
pub const MAX_GRAMMAR_BYTES: usize = 1_000_000;
/// Most choices.
pub const MAX_CHOICES: usize = 10_000;

/// A description of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrammarSource {
    /// A JSON schema (draft 2020-12), as JSON. Output is compact: no whitespace between tokens of JSON.
    JsonSchema(String),
    /// A regular expression in the syntax of the `regex` crate, for the whole text. Neither look-around nor
    /// references to groups.
    Regex(String),
    /// A grammar in Lark's syntax; it begins at the rule `start`.
    Lark(String),
    /// One of these texts.
    Choices(Vec<String>),
}

impl GrammarSource {
    /// The request's field that it comes from.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "schema",
            Self::Regex(_) => "regex",
            Self::Lark(_) => "grammar",
            Self::Choices(_) => "choices",
        }
    }

    pub(super) fn description(&self) -> Result<TopLevelGrammar, GrammarError> {
        self.check_size()?;
        Ok(match self {
            Self::JsonSchema(text) => TopLevelGrammar::from_json_schema(compact(text)?),
            Self::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Self::Choices(choices) => {
                let alternatives: Vec<String> = choices.iter().map(|each| literal(each)).collect();
                // A terminal: an automaton, however many there are; the parser itself branches 2,000 times at most.
                let grammar = format!("start: CHOICE\nCHOICE: {}", alternatives.join(" | "));
                TopLevelGrammar::from_grammar(GrammarWithLexer::from_lark(grammar))
            }
        })
    }

    fn check_size(&self) -> Result<(), GrammarError> {
        let bytes = match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choices(choices) => {
                let problem = match choices.len() {
                    0 => Some("is empty; at least one is needed".to_owned()),
                    count if count > MAX_CHOICES => Some(format!(
                        "has {count} entries; at most {MAX_CHOICES} are allowed"
                    )),
                    _ => choices
                        .iter()
                        .position(String::is_empty)
                        .map(|index| format!("[{index}] is empty")),
                };
                if let Some(problem) = problem {
                    return Err(GrammarError::Choices { problem });
                }
                choices.iter().map(String::len).sum()
            }
        };
        if bytes > MAX_GRAMMAR_BYTES {
            return Err(GrammarError::TooLong {
                field: self.field(),
                bytes,
                limit: MAX_GRAMMAR_BYTES,
            });
        }
        Ok(())
    }
}

/// The schema with our options. `x-guidance` is the parser's own keyword: it is not part of JSON schema, and taking it
/// from callers would let them undo the limits.
fn compact(text: &str) -> Result<Value, GrammarError> {
    let invalid = |problem: String| GrammarError::Invalid {
        field: "schema",
        problem,
    };
    let schema: Value = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(invalid("no text satisfies it".into())),
        schema @ Value::Object(_) => schema,
        _ => {
            return Err(invalid(
                "a JSON schema is an object or a boolean".to_owned(),
            ));
        }
    };
    if schema.get("x-guidance").is_some() {
        return Err(invalid(
            "/x-guidance is not a keyword of JSON schema".into(),
        ));
    }
    schema["x-guidance"] = json!({ "whitespace_flexible": false });
    Ok(schema)
}

/// A text as a string of Lark, which are JSON's.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
