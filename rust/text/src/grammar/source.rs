//! What callers describe, turned into what the parser reads.

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::derivre::RegexAst;
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::earley::{Grammar, SymbolProps};
use llguidance::panic_utils::catch_unwind;
use serde_json::{Value, json};

use super::letters::{self, MAX_LETTERS};
use super::{GrammarError, lark_bounds, schema_bounds};

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

    pub(super) fn description(&self, limits: &ParserLimits) -> Result<GrammarInit, GrammarError> {
        self.check_size()?;
        let regex = match self {
            Self::JsonSchema(text) => {
                let grammar = TopLevelGrammar::from_json_schema(compact(text)?);
                return Ok(GrammarInit::Serialized(grammar));
            }
            Self::Lark(grammar) => {
                lark_bounds::check(grammar)?;
                let grammar = TopLevelGrammar::from_lark(grammar.clone());
                return Ok(GrammarInit::Serialized(grammar));
            }
            Self::Regex(pattern) => {
                letters::check_expression(self.field(), pattern)?;
                RegexAst::Regex(pattern.clone())
            }
            Self::Choices(choices) => {
                RegexAst::Or(choices.iter().cloned().map(RegexAst::Literal).collect())
            }
        };
        catch_unwind(|| terminal(regex, limits)).map_err(|error| GrammarError::Invalid {
            field: self.field(),
            problem: super::message(&error.to_string()),
        })
    }

    /// Bytes of the text, or of all choices.
    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choices(choices) => choices.iter().map(String::len).sum(),
        }
    }

    fn check_size(&self) -> Result<(), GrammarError> {
        if let Self::Choices(choices) = self {
            check_choices(choices).map_err(|problem| GrammarError::Choices { problem })?;
        }
        let bytes = self.num_bytes();
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

fn check_choices(choices: &[String]) -> Result<(), String> {
    match choices.len() {
        0 => return Err("is empty; at least one is needed".into()),
        count if count > MAX_CHOICES => {
            return Err(format!(
                "has {count} entries; at most {MAX_CHOICES} are allowed"
            ));
        }
        _ => {}
    }
    for (index, choice) in choices.iter().enumerate() {
        match choice.len() {
            0 => return Err(format!("[{index}] is empty")),
            bytes if bytes > MAX_LETTERS => {
                return Err(format!(
                    "[{index}] has {bytes} bytes; at most {MAX_LETTERS} are allowed"
                ));
            }
            _ => {}
        }
    }
    Ok(())
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
    schema_bounds::check(&schema)?;
    schema["x-guidance"] = json!({ "whitespace_flexible": false });
    Ok(schema)
}

/// A grammar of one terminal: an automaton, however much it describes, where the parser itself branches so often only.
/// The parser makes the same of a rule of Lark, whose text it would have to read first, which takes several milliseconds.
fn terminal(regex: RegexAst, limits: &ParserLimits) -> anyhow::Result<GrammarInit> {
    let mut lexer = LexerSpec::new()?;
    let class = lexer.setup_lexeme_class(RegexAst::NoMatch)?;
    lexer.regex_builder.unicode(true);
    lexer.regex_builder.utf8(true);
    let lexeme = lexer.add_greedy_lexeme("text".to_owned(), regex, false, None, usize::MAX)?;
    anyhow::ensure!(
        lexer.cost() <= limits.initial_lexer_fuel,
        "it describes too much (limit: {})",
        limits.initial_lexer_fuel
    );
    let symbol = |is_start| SymbolProps {
        grammar_id: class,
        is_start,
        ..SymbolProps::default()
    };
    let mut grammar = Grammar::new(None);
    let start = grammar.fresh_symbol_ext("start", symbol(true));
    let text = grammar.fresh_symbol_ext("text", symbol(false));
    grammar.make_terminal(text, lexeme, &lexer)?;
    grammar.add_rule(start, vec![text])?;
    Ok(GrammarInit::Internal(grammar, lexer))
}
