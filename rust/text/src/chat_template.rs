//! Chat templates: messages to the text that a model was trained on, by Jinja as Hugging Face uses it.
//!
//! Templates are code from model files, so that they run under limits: fuel bounds time and memory (about 64 bytes per
//! unit), and output has a maximum. They reach values, never objects of the host.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

use crate::generation_tag;
use crate::strftime::{self, Clock};
use crate::template_json;

/// The longest text that a template may write: 16 MiB.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// Fuel of every template, enough for 16 MiB of data or a quarter of a million steps.
const BASE_FUEL: u64 = 1 << 18;

/// Further fuel per byte of messages and tools: a template may look at each byte some 30 times.
const FUEL_PER_BYTE: f64 = 0.5;

const NAME: &str = "chat_template";

/// Variables that a caller cannot set by way of `extra`.
const RESERVED: &[&str] = &["messages", "tools", "add_generation_prompt"];

/// What went wrong with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateProblem {
    /// It does not parse.
    Syntax,
    /// It refused the messages, by `raise_exception`.
    Raised,
    /// It took too many steps, too much memory, or wrote too much.
    Limit,
    /// It failed: an unknown filter, a missing value, a wrong type.
    Failed,
    /// The call gave it a variable that it may not.
    Argument,
}

/// Why a template gave no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// What kind of problem.
    pub problem: TemplateProblem,
    /// The line of the template, from 1, if it is one line's fault.
    pub line: Option<usize>,
    /// What happened, without text of the messages.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "chat template")?;
        if let Some(line) = self.line {
            write!(formatter, ", line {line}")?;
        }
        write!(formatter, ": {}", self.message)
    }
}

impl std::error::Error for TemplateError {}

/// What a conversation is rendered from.
#[derive(Debug, Clone, Default)]
pub struct TemplateInput {
    /// The list of messages, each with `role` and `content`; keys keep their order.
    pub messages: serde_json::Value,
    /// The list of tools, if there are any.
    pub tools: Option<serde_json::Value>,
    /// Whether to end with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables (`enable_thinking`, `documents`, …); they cannot replace the three above.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` shows; `None` is the present, in UTC.
    pub now: Option<Clock>,
}

/// A compiled chat template. Immutable; any number of threads may use one.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compile `source`; `special_tokens` are variables such as `bos_token`.
    pub fn new(
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_debug(false);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", template_json::tojson);
        let source = generation_tag::neutralize(source).into_owned();
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| describe(&error))?;
        Ok(Self {
            environment,
            special_tokens,
        })
    }

    /// The text of a conversation.
    pub fn render(&self, input: &TemplateInput) -> Result<String, TemplateError> {
        if let Some(name) = input
            .extra
            .keys()
            .find(|name| RESERVED.contains(&name.as_str()))
        {
            return Err(TemplateError {
                problem: TemplateProblem::Argument,
                line: None,
                message: format!(
                    "{name} cannot be given as a template variable; it has an argument of its own"
                ),
            });
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(input)));
        let now = input.now.unwrap_or_else(Clock::now_utc);
        environment.add_function("strftime_now", move |format: &str| {
            strftime_now(now, format)
        });
        let mut output = Bounded(Vec::new());
        let template = environment
            .get_template(NAME)
            .map_err(|error| describe(&error))?;
        let rendered = template
            .render_captured_to(self.variables(input), &mut output)
            .map(|_| ());
        rendered.map_err(|error| describe(&error))?;
        Ok(String::from_utf8(output.0).unwrap_or_default())
    }

    fn variables(&self, input: &TemplateInput) -> Value {
        let special = self
            .special_tokens
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let given = [
            ("messages", to_value(&input.messages)),
            (
                "tools",
                input.tools.as_ref().map_or(Value::from(()), to_value),
            ),
            ("documents", Value::from(())),
            (
                "add_generation_prompt",
                Value::from(input.add_generation_prompt),
            ),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value));
        let extra = input
            .extra
            .iter()
            .map(|(name, value)| (name.clone(), to_value(value)));
        special
            .chain(given)
            .chain(extra)
            .collect::<BTreeMap<_, _>>()
            .into()
    }
}

/// The same value, keys in the same order.
fn to_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => {
            let integer = number
                .as_i64()
                .map(Value::from)
                .or_else(|| number.as_u64().map(Value::from));
            integer.unwrap_or_else(|| Value::from(number.as_f64().unwrap_or(f64::NAN)))
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(to_value).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(
            fields
                .iter()
                .map(|(name, value)| (name.as_str(), to_value(value))),
        ),
    }
}

/// More for longer conversations.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn fuel(input: &TemplateInput) -> u64 {
    let extra = input.extra.values().map(size_of).sum::<usize>();
    let bytes = size_of(&input.messages) + input.tools.as_ref().map_or(0, size_of) + extra;
    BASE_FUEL + (bytes as f64 * FUEL_PER_BYTE) as u64
}

/// Roughly the bytes of a value.
fn size_of(value: &serde_json::Value) -> usize {
    use serde_json::Value::{Array, Object, String};
    16 + match value {
        String(text) => text.len(),
        Array(items) => items.iter().map(size_of).sum(),
        Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() + size_of(value))
            .sum(),
        _ => 0,
    }
}

/// Marks an error as the template's own decision.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()).with_source(Raised))
}

fn strftime_now(now: Clock, format: &str) -> Result<String, Error> {
    strftime::strftime(now, format).map_err(|directive| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know the directive {directive}"),
        )
    })
}

/// A buffer that refuses to grow beyond [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn describe(error: &Error) -> TemplateError {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    let was_raised =
        std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Raised>);
    let (problem, message) = match error.kind() {
        _ if was_raised => (TemplateProblem::Raised, detail),
        ErrorKind::SyntaxError | ErrorKind::InvalidDelimiter => (TemplateProblem::Syntax, detail),
        ErrorKind::OutOfFuel => (
            TemplateProblem::Limit,
            "it takes too many steps or too much memory; is there an endless loop?".to_owned(),
        ),
        ErrorKind::WriteFailure => (
            TemplateProblem::Limit,
            "it writes more than 16 MiB".to_owned(),
        ),
        kind if error.detail().is_some() => (TemplateProblem::Failed, format!("{kind}: {detail}")),
        _ => (TemplateProblem::Failed, detail),
    };
    TemplateError {
        problem,
        line: error.line(),
        message,
    }
}
