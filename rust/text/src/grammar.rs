//! Structured output: which tokens may come next, so that the text as a whole is what a schema, a regular expression,
//! a list of choices or a grammar describes.
//!
//! The parser is the `llguidance` crate; this module gives it a vocabulary, limits and typed errors. A [`Grammar`] is
//! compiled once and shared; each sequence has a [`GrammarState`] of its own.
//!
//! | file | holds |
//! |---|---|
//! | `grammar/source.rs` | what callers describe, as the parser reads it |
//! | `grammar/letters.rs`, `grammar/schema_bounds.rs`, `grammar/lark_bounds.rs` | how much a description says once its repetitions are written out |
//! | `grammar/lark_text.rs` | what a grammar of Lark defines |
//! | `grammar/vocabulary.rs` | the tokens of a model as the parser sees them |
//! | `grammar/state.rs` | the state of one sequence: masks, forced tokens, steps forward and back |
//! | `grammar/work.rs` | what compiling, and a step, may take |
//! | `grammar/forcing.rs` | text that must follow without an end |
//! | `grammar/closing.rs` | a short way to the end of a text |
//! | `grammar/guard.rs` | a text is closed before its tokens run out |
//! | `grammar/states.rs` | the states of all running sequences, step by step |

mod closing;
mod forcing;
mod guard;
mod lark_bounds;
mod lark_text;
mod letters;
mod schema_bounds;
mod source;
mod state;
mod states;
mod vocabulary;
mod work;

use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Logger, ParserFactory};
use std::sync::Arc;

use crate::large_stack::on_large_stack;
use crate::tokenizer::Tokenizer;
pub use source::{GrammarSource, MAX_CHOICES, MAX_GRAMMAR_BYTES};
pub use state::GrammarState;
use state::{Automata, Ending};
pub use states::{Complete, GrammarStates, MaskedRow, SequenceLimit};
use work::Bounds;

/// Longest text that is looked for as the shortest one, in tokens.
const MAX_SHORTEST: usize = 4096;
/// A description with so many bytes may take too much at once.
const MIN_LONG_BYTES: usize = 1_000;

/// A description that cannot be used, or a sequence that it cannot go on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// More text than is compiled.
    #[error("{field} has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// The request's field.
        field: &'static str,
        /// As given.
        bytes: usize,
        /// [`MAX_GRAMMAR_BYTES`].
        limit: usize,
    },
    /// No choice, too many, or an empty one.
    #[error("choices {problem}")]
    Choices {
        /// What is wrong with them.
        problem: String,
    },
    /// It does not parse, uses what is not supported, or describes nothing.
    #[error("{field} cannot be used: {problem}")]
    Invalid {
        /// The request's field.
        field: &'static str,
        /// What the parser said: where, and what is not supported.
        problem: String,
    },
    /// A token that the grammar does not allow was appended, or the parser reached one of its limits.
    #[error("the structure of the output cannot be continued: {problem}")]
    Stuck {
        /// What the parser said.
        problem: String,
    },
}

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    ending: Arc<Ending>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For a tokenizer and its model.
    ///
    /// `vocab_size` is the number of logits, which may exceed the tokenizer's: ids behind it are never allowed.
    /// `eos_token_ids` end a text wherever the grammar may end.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Invalid`]: no such token.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        eos_token_ids: &[u32],
        vocab_size: usize,
    ) -> Result<Self, GrammarError> {
        let ending = Ending::new(&tokenizer, eos_token_ids, vocab_size);
        let environment = vocabulary::environment(tokenizer, eos_token_ids, vocab_size)?;
        let factory = ParserFactory::new(
            &environment,
            capabilities(),
            &SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| GrammarError::Invalid {
            field: "tokenizer",
            problem: error.to_string(),
        })?;
        Ok(Self {
            factory,
            ending: Arc::new(ending),
        })
    }

    /// Compile a description: at most a second and 64 MiB, whatever it says.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        // The parser goes down from rule to rule, and from field to field of an object, by recursion.
        on_large_stack("inferlib-grammar", || self.compile_here(source)).unwrap_or_else(|error| {
            Err(GrammarError::Invalid {
                field: source.field(),
                problem: format!(
                    "there is no memory for the stack that it is compiled on: {error}"
                ),
            })
        })
    }

    fn compile_here(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        let field = source.field();
        let invalid = |problem: String| GrammarError::Invalid {
            field,
            problem: message(&problem),
        };
        let bounds = Bounds::of(source);
        let limits = bounds.limits();
        let create = |description| {
            let (logger, limits) = (Logger::new(0, 0), limits.clone());
            (self.factory).create_parser_from_init_ext(description, logger, capabilities(), limits)
        };
        let mut parser = create(source.description(&limits)?);
        if let GrammarSource::Lark(text) = source
            && (parser.as_ref()).is_ok_and(|parser| {
                let spec = parser.parser.grammar().lexer_spec();
                forcing::may_be_endless(spec, &limits)
            })
        {
            parser = create(forcing::without(text));
        }
        let parser = parser.map_err(|error| invalid(error.to_string()))?;
        let automata = Automata::new(parser);
        let mut matcher = automata.matcher();
        let warnings = matcher.grammar_warnings();
        if !warnings.is_empty() {
            return Err(invalid(warnings.join("; ")));
        }
        // A description of nothing (`{"enum": []}`, an unsatisfiable pattern) has no first token and no end.
        let mask = matcher
            .compute_mask_or_eos()
            .map_err(|error| invalid(error.to_string()))?;
        if mask.is_zero() {
            return Err(invalid("no text satisfies it".into()));
        }
        let start = GrammarState::new(matcher, Arc::clone(&self.ending), bounds);
        // Rows are too long from the start only where there are more alternatives than fit into a short text.
        if source.num_bytes() > MIN_LONG_BYTES {
            closing::check_first_step(&start).map_err(|limit| {
                invalid(format!(
                    "too much may follow its beginning, such as an object's optional fields: {limit}"
                ))
            })?;
        }
        let shortest = closing::closing_within(&start, MAX_SHORTEST, bounds.first_fuel()).ok();
        let least_tokens = start.least_tokens();
        Ok(Grammar(Arc::new(Compiled {
            automata,
            ending: Arc::clone(&self.ending),
            bounds,
            shortest,
            least_tokens,
        })))
    }
}

/// A compiled description. A clone is the same one; states are independent of each other.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    automata: Automata,
    ending: Arc<Ending>,
    bounds: Bounds,
    shortest: Option<Vec<u32>>,
    least_tokens: usize,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// The state of a sequence that has no output yet.
    #[must_use]
    pub fn start(&self) -> GrammarState {
        self.state(&self.automata().separate())
    }

    /// The same with these automata, which are the grammar's or come from them.
    fn state(&self, automata: &Automata) -> GrammarState {
        let ending = Arc::clone(&self.0.ending);
        GrammarState::new(automata.matcher(), ending, self.0.bounds)
    }

    fn automata(&self) -> &Automata {
        &self.0.automata
    }

    /// Bytes of its automata, which each sequence that runs has for itself.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.automata().num_bytes()
    }

    /// No text of it has fewer tokens; there need not be one of so few.
    #[must_use]
    pub fn least_tokens(&self) -> usize {
        self.0.least_tokens
    }

    /// A text of few tokens; `None` if none was found with a bounded effort.
    #[must_use]
    pub fn shortest(&self) -> Option<&[u32]> {
        self.0.shortest.as_deref()
    }
}

/// The parser's message without its mark for what it leaves out, and without the stack of a panic that it caught.
fn message(text: &str) -> String {
    let text = text.replace("<non-verbose/>", "");
    let text = text
        .split("\n<backtrace>")
        .next()
        .unwrap_or_default()
        .trim();
    match text.strip_prefix("panic: ") {
        Some(panic) => {
            format!("its parser gave up, as it does where there is too much of it ({panic})")
        }
        None => text.to_owned(),
    }
}

fn capabilities() -> InferenceCapabilities {
    InferenceCapabilities {
        ff_tokens: true,
        ..InferenceCapabilities::default()
    }
}
