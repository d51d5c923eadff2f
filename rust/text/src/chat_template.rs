//! Chat templates: messages to the text that a model was trained on, by Jinja as Hugging Face uses it.
//!
//! Templates are code from model files, so that they run under limits: fuel bounds steps and data (64 bytes per unit), output
//! and source have a maximum, and both compiling and rendering run on a large stack of their own, because the engine recurses
//! over long expressions and nested values, and a stack overflow would end the host's process. Templates reach values, never
//! objects of the host.
//!
//! Known holes of minijinja 3.1, which its fuel does not see: adding a list to itself some 33 times (`l + l`), and comparing
//! or printing nested lists that share their parts. A template made for it can still take time and memory without bound.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use crate::generation_tag;
use crate::large_stack::on_large_stack;
use crate::strftime::{self, Clock};
use crate::template_json;

/// The longest text that a template may write: 16 MiB.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// The longest source of a template: 128 KiB. Published ones have up to some 20 KiB.
pub const MAX_SOURCE_BYTES: usize = 128 << 10;

/// Fuel of every template: 65,536 steps, or 4 MiB of data.
const BASE_FUEL: usize = 1 << 16;

/// Further fuel for each value in messages and tools: the steps that a template may take for one.
const FUEL_PER_VALUE: usize = 200;

/// One more unit of fuel for this many bytes of messages and tools: a template may copy each byte 32 times.
const BYTES_PER_FUEL: usize = 2;

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
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError {
                problem: TemplateProblem::Limit,
                line: None,
                message: format!(
                    "it has {} bytes; at most {MAX_SOURCE_BYTES} are allowed",
                    source.len()
                ),
            });
        }
        with_room(|| Self::compile(source, special_tokens))
    }

    fn compile(
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
        environment.set_unknown_method_callback(python_method);
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
        with_room(|| self.run(input))
    }

    fn run(&self, input: &TemplateInput) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(fuel(input));
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
        Ok(String::from_utf8(output.0).expect("the engine writes strings"))
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

/// Templates nest as deep as [`MAX_SOURCE_BYTES`] allow.
fn with_room<T: Send>(
    f: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    on_large_stack("inferlib-template", f).unwrap_or_else(|error| {
        Err(TemplateError {
            problem: TemplateProblem::Limit,
            line: None,
            message: format!("there is no memory for the stack that templates run on: {error}"),
        })
    })
}

/// More for longer conversations.
fn fuel(input: &TemplateInput) -> Option<u64> {
    let mut size = Size::default();
    size.add(&input.messages);
    input.tools.iter().for_each(|tools| size.add(tools));
    input.extra.values().for_each(|value| size.add(value));
    let fuel = BASE_FUEL + size.values * FUEL_PER_VALUE + size.bytes / BYTES_PER_FUEL;
    u64::try_from(fuel).ok()
}

/// How much there is of some values.
#[derive(Default)]
struct Size {
    values: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, value: &serde_json::Value) {
        self.values += 1;
        match value {
            serde_json::Value::String(text) => self.bytes += text.len(),
            serde_json::Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    self.bytes += name.len();
                    self.add(value);
                }
            }
            _ => {}
        }
    }
}

/// Methods of Python's types; `str.format` without wide fields, which fuel does not see.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    const WIDEST_FIELD: &str = "999";
    let is_wide = |text: &str| {
        text.split(|character: char| !character.is_ascii_digit())
            .any(|digits| digits.len() > WIDEST_FIELD.len())
    };
    if method == "format" && value.as_str().is_some_and(is_wide) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("str.format takes numbers up to {WIDEST_FIELD} in templates"),
        ));
    }
    pycompat::unknown_method_callback(state, value, method, arguments)
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
