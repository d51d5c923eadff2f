//! Grammars in Lark's syntax, read as far as bounds on them need: what they define, and of which parts.
//!
//! What is no Lark is the parser's to report.

use std::collections::HashMap;

use serde_json::Value;

use super::GrammarError;
use super::letters::of_expression;

/// Grammars of Lark within each other.
const MAX_NESTED: usize = 16;

/// A part of a definition.
#[derive(Debug)]
pub(super) enum Part<'g> {
    /// Another definition.
    Name(&'g str),
    /// Text in quotes, a token, or an expression in another notation.
    Letters(usize),
    /// An expression of so many letters.
    Expression(usize),
    /// A grammar of its own.
    Grammar(Definitions<'g>),
    /// A JSON schema.
    Schema(Value),
    /// The part before comes so often.
    Times(usize),
    Or,
    Open,
    Close,
}

/// Rules and terminals and what they consist of. One name has one definition: of several, all count as alternatives.
#[derive(Debug, Default)]
pub(super) struct Definitions<'g> {
    pub(super) all: Vec<(&'g str, Vec<Part<'g>>)>,
    pub(super) by_name: HashMap<&'g str, usize>,
    /// Which one is being read.
    open: usize,
}

impl<'g> Definitions<'g> {
    /// Those of a whole grammar.
    ///
    /// # Errors
    ///
    /// Grammars are nested too deep.
    pub(super) fn read(text: &'g str) -> Result<Self, GrammarError> {
        definitions(text, 0).map(|(definitions, _)| definitions)
    }

    /// Begin the definition of a name, or another alternative of it.
    fn define(&mut self, name: &'g str) {
        self.open = *self.by_name.entry(name).or_insert_with(|| {
            self.all.push((name, Vec::new()));
            self.all.len() - 1
        });
        self.parts().push(Part::Or);
    }

    fn parts(&mut self) -> &mut Vec<Part<'g>> {
        &mut self.all[self.open].1
    }
}

/// The definitions up to the bracket that ends a grammar within another, and how long that is.
fn definitions(text: &str, depth: usize) -> Result<(Definitions<'_>, usize), GrammarError> {
    let mut all = Definitions::default();
    all.define(""); // what stands before the first
    // Where the line's first name is among the parts, if it may turn out to be what is defined.
    let mut first_name: Option<(usize, &str)> = None;
    let mut is_line_start = true;
    let mut num_braces = 0_usize;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let at_line_start = std::mem::take(&mut is_line_start);
        let length = match letter {
            '\n' => {
                first_name = None;
                is_line_start = true;
                1
            }
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' | '/' => {
                let (part, length) = literal(rest, letter);
                all.parts().push(part);
                length
            }
            '<' => {
                all.parts().push(Part::Letters(1));
                rest.find(['>', '\n']).map_or(1, |end| end + 1)
            }
            '%' => {
                let (part, length) = embedded(rest, depth)?;
                all.parts().extend(part);
                length
            }
            '}' if num_braces == 0 && depth > 0 => break,
            '}' => {
                num_braces = num_braces.saturating_sub(1);
                1
            }
            '~' | '{' => {
                num_braces += usize::from(letter == '{');
                let behind = rest[1..].trim_start();
                let (least, length) = count(behind).unwrap_or((1, 0));
                all.parts().push(Part::Times(least.max(1)));
                rest.len() - behind.len() + length
            }
            '|' => {
                all.parts().push(Part::Or);
                1
            }
            '(' | '[' => {
                all.parts().push(Part::Open);
                1
            }
            ')' | ']' => {
                all.parts().push(Part::Close);
                1
            }
            ':' if rest.starts_with("::") => 2 + name(&rest[2..]).len(), // a parameter's name
            ':' => {
                if let Some((place, name)) = first_name.take() {
                    all.parts().truncate(place);
                    all.define(name);
                }
                1
            }
            letter if letter.is_ascii_alphabetic() || letter == '_' => {
                let name = name(rest);
                if at_line_start {
                    first_name = Some((all.parts().len(), name));
                }
                all.parts().push(Part::Name(name));
                name.len()
            }
            letter => {
                // Before the name of what is defined, and blanks, the line still begins.
                is_line_start = at_line_start && (letter.is_whitespace() || "?!".contains(letter));
                letter.len_utf8()
            }
        };
        rest = &rest[length.max(1)..];
    }
    Ok((all, text.len() - rest.len()))
}

/// A text in quotes or an expression, and how long it is with its flags.
fn literal(text: &str, quote: char) -> (Part<'_>, usize) {
    let (inside, length) = quoted(text, quote);
    if quote == '"' {
        let has_flag = text[length..].starts_with('i');
        let part = Part::Letters(inside.len().max(1));
        return (part, length + usize::from(has_flag));
    }
    let letters = of_expression(inside).unwrap_or(inside.len());
    let behind = &text[length..];
    let flags = behind.len() - behind.trim_start_matches(|c| "imslux".contains(c)).len();
    (Part::Expression(letters.max(1)), length + flags)
}

/// What is described in another language, and how long it is; no part if it is a directive.
fn embedded(text: &str, depth: usize) -> Result<(Option<Part<'_>>, usize), GrammarError> {
    let word = name(&text[1..]);
    let behind = text[1 + word.len()..].trim_start();
    let skipped = text.len() - behind.len();
    match (word, behind.starts_with('{')) {
        ("lark", true) if depth == MAX_NESTED => Err(GrammarError::Invalid {
            field: "grammar",
            problem: format!("grammars are nested more than {MAX_NESTED} deep"),
        }),
        ("lark", true) => {
            let (inner, length) = definitions(&behind[1..], depth + 1)?;
            let end = usize::from(behind[1 + length..].starts_with('}'));
            Ok((Some(Part::Grammar(inner)), skipped + 1 + length + end))
        }
        ("json" | "regex", true) => {
            let mut values = serde_json::Deserializer::from_str(behind).into_iter::<Value>();
            let Some(Ok(value)) = values.next() else {
                return Ok((None, skipped + 1));
            };
            let part = if word == "json" {
                Part::Schema(value)
            } else {
                Part::Letters(1)
            };
            Ok((Some(part), skipped + values.byte_offset()))
        }
        _ => Ok((None, 1 + word.len())),
    }
}

/// What stands between two of `quote`, and how long it is with them; all that there is where the other is missing. Only
/// expressions go on behind the end of a line.
fn quoted(text: &str, quote: char) -> (&str, usize) {
    let mut is_escaped = false;
    for (place, letter) in text.char_indices().skip(1) {
        match letter {
            '\n' if quote == '"' => return (&text[1..place], place),
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return (&text[1..place], place + 1),
            _ => {}
        }
    }
    (&text[1..], text.len())
}

/// The name that a text begins with, as the parser's lexer ends it: of small letters or of capitals.
fn name(text: &str) -> &str {
    let mark = usize::from(text.starts_with('_'));
    let is_small = text
        .as_bytes()
        .get(mark)
        .is_some_and(u8::is_ascii_lowercase);
    let is_part = |&byte: &u8| match byte {
        b'a'..=b'z' => is_small,
        b'A'..=b'Z' => !is_small,
        _ => byte.is_ascii_digit() || byte == b'_' || byte == b'-',
    };
    &text[..text.bytes().take_while(is_part).count()]
}

/// How often the part before comes at least, and how long the number is.
fn count(text: &str) -> Option<(usize, usize)> {
    let length = text.find(|c: char| !(c.is_ascii_digit() || ".+-eE".contains(c)));
    let number = &text[..length.unwrap_or(text.len())];
    let number = number.split_once("..").map_or(number, |(least, _)| least);
    let value: f64 = number.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is too large becomes the largest"
    )]
    Some((value as usize, number.len()))
}
