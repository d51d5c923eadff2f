//! How much a description says once its repetitions are written out, and bounds on it.
//!
//! The parser has no limit for text that must follow: it makes all of it at once, a state for each letter of a terminal,
//! and twenty bytes of a grammar can ask for a billion. Repetitions count as often as they must come, and of
//! alternatives the longest counts.

use std::collections::HashMap;

use regex_syntax::hir::{Hir, HirKind};
use serde_json::Value;

use super::GrammarError;
use super::schema_bounds::{self, Asked};

/// Most letters of a choice, an expression or a schema. Each is a state of the lexer: up to 900 bytes, and a row of as many
/// words as there are kinds of bytes in a table that doubles at 2^15 states.
pub(super) const MAX_LETTERS: usize = 32_000;
/// Of a rule of Lark, and of a terminal.
const MAX_RULE_LETTERS: usize = MAX_LETTERS;
const MAX_TERMINAL_LETTERS: usize = 20_000;
/// Rules and terminals, each counted with the brackets that it has within each other: the parser goes down by recursion, from
/// one to the next, and needs up to 4 kB of stack for each.
const MAX_LEVELS: usize = 4_000;
/// Grammars of Lark within each other.
const MAX_NESTED: usize = 16;

/// Refuse an expression that repeats too much. What does not parse is the parser's to report.
pub(super) fn check_expression(field: &'static str, pattern: &str) -> Result<(), GrammarError> {
    if of_expression(pattern).is_some_and(|count| count > MAX_LETTERS) {
        return Err(too_many(field, "an expression", MAX_LETTERS));
    }
    Ok(())
}

/// Refuse a grammar of Lark with a rule, a terminal or an expression that repeats too much.
pub(super) fn check_lark(text: &str) -> Result<(), GrammarError> {
    let (definitions, _) = definitions(text, 0)?;
    if definitions.num_levels() > MAX_LEVELS {
        return Err(GrammarError::Invalid {
            field: "grammar",
            problem: format!(
                "it has more than {MAX_LEVELS} rules and terminals, with the brackets of each within each other"
            ),
        });
    }
    schema_bounds::check_patterns("grammar", definitions.num_patterns)?;
    check_definitions(&definitions).map(drop)
}

/// The letters of the longest definition.
fn check_definitions(definitions: &Definitions<'_>) -> Result<usize, GrammarError> {
    let letters = written_out(definitions);
    for ((name, _), &letters) in definitions.all.iter().zip(&letters) {
        let is_terminal = name
            .trim_start_matches('_')
            .starts_with(|c: char| c.is_ascii_uppercase());
        let most = if is_terminal {
            MAX_TERMINAL_LETTERS
        } else {
            MAX_RULE_LETTERS
        };
        if letters > most {
            return Err(too_many("grammar", name, most));
        }
    }
    Ok(letters.into_iter().max().unwrap_or(0))
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

/// A part of a definition.
#[derive(Debug)]
enum Part<'g> {
    /// Another definition.
    Name(&'g str),
    /// Text, an expression or a token.
    Letters(usize),
    /// The part before comes so often.
    Times(usize),
    Or,
    Open,
    Close,
}

/// Rules and terminals and what they consist of. One name has one definition: of several, all count as alternatives.
#[derive(Default)]
struct Definitions<'g> {
    all: Vec<(&'g str, Vec<Part<'g>>)>,
    by_name: HashMap<&'g str, usize>,
    /// Which one is being read.
    open: usize,
    /// Of grammars within this one.
    num_inner_levels: usize,
    /// `patternProperties` of all schemas in it.
    num_patterns: usize,
}

impl<'g> Definitions<'g> {
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

    /// How deep the parser may go.
    fn num_levels(&self) -> usize {
        let own = self.all.iter().map(|(_, parts)| 1 + num_nested(parts));
        self.num_inner_levels + own.sum::<usize>()
    }
}

/// Read as much of Lark as repetitions need, up to the bracket that ends a grammar within another; how long it is. What
/// is no Lark is the parser's to report.
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
                let (letters, length) = literal(rest, letter)?;
                all.parts().push(Part::Letters(letters));
                length
            }
            '<' => {
                all.parts().push(Part::Letters(1));
                rest.find(['>', '\n']).map_or(1, |end| end + 1)
            }
            '%' => {
                let inner = embedded(rest, depth)?;
                all.parts().extend(inner.letters.map(Part::Letters));
                all.num_inner_levels += inner.num_levels;
                all.num_patterns += inner.num_patterns;
                inner.length
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

/// The letters of a text in quotes or of an expression, and how long it is with its flags.
fn literal(text: &str, quote: char) -> Result<(usize, usize), GrammarError> {
    let (inside, length) = quoted(text, quote);
    if quote == '"' {
        let has_flag = text[length..].starts_with('i');
        return Ok((inside.len().max(1), length + usize::from(has_flag)));
    }
    let letters = of_expression(inside).unwrap_or(inside.len());
    if letters > MAX_TERMINAL_LETTERS {
        return Err(too_many("grammar", "an expression", MAX_TERMINAL_LETTERS));
    }
    let behind = &text[length..];
    let flags = behind.len() - behind.trim_start_matches(|c| "imslux".contains(c)).len();
    Ok((letters.max(1), length + flags))
}

/// A directive, or what is described in another language.
#[derive(Debug, Default)]
struct Embedded {
    /// None of a directive.
    letters: Option<usize>,
    num_levels: usize,
    num_patterns: usize,
    /// Bytes of its text.
    length: usize,
}

impl Embedded {
    /// What says nothing, or what only the parser knows.
    fn nothing(length: usize) -> Self {
        Self {
            length,
            ..Self::default()
        }
    }
}

fn embedded(text: &str, depth: usize) -> Result<Embedded, GrammarError> {
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
            Ok(Embedded {
                letters: Some(check_definitions(&inner)?),
                num_levels: inner.num_levels(),
                num_patterns: inner.num_patterns,
                length: skipped + 1 + length + end,
            })
        }
        ("json" | "regex", true) => {
            let mut values = serde_json::Deserializer::from_str(behind).into_iter::<Value>();
            let Some(Ok(value)) = values.next() else {
                return Ok(Embedded::nothing(skipped + 1));
            };
            let asked = if word == "json" {
                schema_bounds::check(&value)?
            } else {
                Asked {
                    letters: 1,
                    patterns: 0,
                }
            };
            Ok(Embedded {
                letters: Some(asked.letters),
                num_levels: 0,
                num_patterns: asked.patterns,
                length: skipped + values.byte_offset(),
            })
        }
        _ => Ok(Embedded::nothing(1 + word.len())),
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

/// How many letters each definition has; what leads back to itself counts once.
fn written_out(definitions: &Definitions<'_>) -> Vec<usize> {
    let count = definitions.all.len();
    let mut letters: Vec<Option<usize>> = vec![None; count];
    let mut was_seen = vec![false; count];
    // Not by recursion: a chain of definitions may be as long as the text.
    let mut open: Vec<usize> = (0..count).rev().collect();
    while let Some(&index) = open.last() {
        let parts = &definitions.all[index].1;
        if !std::mem::replace(&mut was_seen[index], true) {
            let others = parts.iter().filter_map(|part| match part {
                Part::Name(name) => definitions.by_name.get(name).copied(),
                _ => None,
            });
            open.extend(others.filter(|&other| !was_seen[other]));
            continue;
        }
        open.pop();
        if letters[index].is_none() {
            let of_name = |name: &str| {
                let other = definitions.by_name.get(name);
                other.and_then(|&other| letters[other]).unwrap_or(1)
            };
            letters[index] = Some(sum(parts, of_name));
        }
    }
    letters.into_iter().map(Option::unwrap_or_default).collect()
}

/// How many brackets are open at once, at most.
fn num_nested(parts: &[Part<'_>]) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for part in parts {
        match part {
            Part::Open => open += 1,
            Part::Close => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// The letters of a definition's longest alternative.
fn sum(parts: &[Part<'_>], of_name: impl Fn(&str) -> usize) -> usize {
    /// Of one pair of brackets: the longest alternative so far, this one without its last part, its last part.
    #[derive(Default)]
    struct Group {
        longest: usize,
        before: usize,
        last: usize,
    }
    impl Group {
        fn push(&mut self, letters: usize) {
            self.before = self.before.saturating_add(self.last);
            self.last = letters;
        }
        fn end_alternative(&mut self) {
            self.push(0);
            self.longest = self.longest.max(self.before);
            self.before = 0;
        }
    }
    let mut groups = vec![Group::default()];
    for part in parts {
        let depth = groups.len();
        let Some(group) = groups.last_mut() else {
            break;
        };
        match part {
            Part::Name(name) => group.push(of_name(name)),
            Part::Letters(letters) => group.push(*letters),
            Part::Times(times) => group.last = group.last.saturating_mul(*times),
            Part::Or => group.end_alternative(),
            Part::Open => groups.push(Group::default()),
            Part::Close if depth == 1 => {} // the parser will say so
            Part::Close => {
                group.end_alternative();
                let letters = group.longest;
                groups.pop();
                if let Some(outer) = groups.last_mut() {
                    outer.push(letters);
                }
            }
        }
    }
    let mut total = 0_usize;
    for mut group in groups {
        group.end_alternative();
        total = total.saturating_add(group.longest);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters_of(text: &str, name: &str) -> usize {
        let (definitions, length) = definitions(text, 0).unwrap();
        assert_eq!(length, text.len());
        written_out(&definitions)[definitions.by_name[name]]
    }

    #[test]
    fn what_must_come_counts_as_often_as_it_must() {
        for (body, letters) in [
            ("\"abc\"", 3),
            ("\"a\" \"bc\"", 3),
            ("\"a\"~3", 3),
            ("\"a\" ~ 3..5 \"b\"", 4),
            ("\"a\"~0..9", 1),
            ("\"ab\"{4}", 8),
            ("\"ab\"{4,}", 8),
            ("(\"a\" \"b\"~2)~3", 9),
            ("\"a\" | \"bcd\" | \"ef\"", 3),
            ("(\"a\" | \"bcd\"~2)~5 \"x\"", 31),
            ("[\"ab\"] \"c\"?", 3),
            ("/a{5}b/i", 6),
            ("/[a-z]+\\/x/", 3),
            ("/\\xff{7}/", 14),
            ("/(a{9}\nb){2}/x", 22),
            ("\"\\\"~9\"", 4),
            ("<|tool|> \"a\"", 2),
            ("\"~99\" // \"x\"~99", 3),
            ("\"a\" # ~99", 1),
            ("%json {\"const\": \"~99\"}~2 \"a\"", 2 * 5 + 1),
            ("%regex {\"substring_words\": \"~99\"}", 1),
            (
                "(%lark {\nstart: x \"a\"\nx: \"b\"{3} other\n}){4} \"c\"",
                4 * 5 + 1,
            ),
            ("\"a\" -> name", 2),
            ("other~3", 6),
            ("other~+3", 6),
            ("other~3e2", 600),
            ("other~99999999999999999999", usize::MAX),
            ("xOTHER~3", 1 + 15), // two names
            ("\"a\"\n  | other", 2),
            ("", 0),
        ] {
            let text =
                format!("start: {body}\nother: \"ab\"\nOTHER: \"abcde\"\nOTHER: \"abcde\"\n");
            assert_eq!(letters_of(&text, "start"), letters, "{body}");
        }
    }

    #[test]
    fn definitions_are_found_whatever_stands_around_their_names() {
        let text = "?a: \"x\"\n!b.2: \"xy\"\n  c[max_tokens=5, stop=\"z\"]: /q/\nD.-1: \"xyz\"\ne{x}: x~4\n\nf::g: D~2\n";
        for (name, letters) in [("a", 1), ("b", 2), ("c", 1), ("D", 3), ("e", 4), ("f", 6)] {
            assert_eq!(letters_of(text, name), letters, "{name}");
        }
    }

    #[test]
    fn definitions_multiply_and_may_lead_back() {
        let text = "start: a~99 start?\na: B~99\nB: \"x\"~99 | \"y\"\n";
        assert_eq!(letters_of(text, "B"), 99);
        assert_eq!(letters_of(text, "start"), 99 * 99 * 99 + 1);
        let links = (0..100_000).map(|i| format!("a{i}: a{}~2\n", i + 1));
        let chain = links.collect::<Vec<_>>().concat();
        // Neither many definitions of a name nor many names are work for each other.
        let again = "a: a\n".repeat(200_000);
        assert_eq!(letters_of(&again, "a"), 1);
        assert_eq!(letters_of(&chain, "a0"), usize::MAX);
        assert_eq!(letters_of("start: start~5\n", "start"), 5);
    }

    #[test]
    fn what_is_too_much_is_refused_by_name() {
        let problem = |text: &str| match check_lark(text) {
            Err(GrammarError::Invalid { problem, .. }) => problem,
            other => panic!("{text}: {other:?}"),
        };
        for (text, name) in [
            ("start: A\nA: \"a\"~20001\n", "A has more than 20000"),
            ("start: A~9\nA: \"a\"~12000\n", "start has more than 32000"),
            ("start: \"a\"~32001\n", "start has"),
            ("start: /(a{200}){200}/\n", "an expression has"),
            ("start: /(?-u:\\xff){30000}/\n", "an expression has"),
            (
                "start: %json {\"pattern\": \"(a{999}){999}\"}\n",
                "an expression has",
            ),
        ] {
            assert!(problem(text).contains(name), "{text}: {}", problem(text));
        }
        let nested = |depth: usize| format!("start: {}", "%lark {\nstart: ".repeat(depth));
        assert!(problem(&nested(100_000)).contains("nested more than 16 deep"));
        let chain = |length: usize| {
            let links = (0..length).map(|i| format!("a{i}: a{}\n", i + 1));
            links
                .chain([format!("a{length}: \"x\"\n")])
                .collect::<Vec<_>>()
                .concat()
        };
        check_lark(&chain(3_990)).unwrap();
        let too_deep = "has more than 4000 rules and terminals";
        assert!(problem(&chain(4_000)).contains(too_deep));
        let inner = format!("start: a\na: %lark {{\n{}}}\n", chain(2_000));
        check_lark(&inner).unwrap();
        assert!(problem(&format!("{inner}b: %lark {{\n{}}}\n", chain(2_000))).contains(too_deep));
        let named = |count: usize| {
            let names = (0..count).map(|i| format!("\"p{i}\": {{}}"));
            let names = names.collect::<Vec<_>>().join(", ");
            format!("%json {{\"patternProperties\": {{{names}}}}} ")
        };
        let many = format!("start: {}{}", named(50), named(50));
        check_lark(&many).unwrap();
        assert!(problem(&format!("{many}{}", named(1))).contains("has 101 expressions in all"));
        let brackets = |i: usize| format!("b{i}: {}a{}\n", "(\"x\" [".repeat(3), "])".repeat(3));
        let many = (0..571).map(brackets).collect::<Vec<_>>().concat();
        check_lark(&many).unwrap();
        assert!(problem(&format!("{many}c: ((((a))))\n")).contains(too_deep));
        check_lark(&nested(16)).unwrap();
        for text in [
            "start: A~2\nA: \"a\"~16000\n",
            "start: \"a\"~0..1000000 /x{0,9999999}/\n",
            "start: UUID\nHEX: /[0-9a-f]/\nUUID: HEX~8 \"-\" HEX~4 \"-\" HEX~4 \"-\" HEX~4 \"-\" HEX~12\n",
            "start: (((\"a\"",
            ")))]]]~5 ~ ~~~ {{{ % %json { /",
            "\"",
            "",
        ] {
            check_lark(text).unwrap();
        }
    }
}
