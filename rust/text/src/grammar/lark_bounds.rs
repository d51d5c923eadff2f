//! Bounds on what a grammar of Lark may ask for in a few bytes: letters that must follow, and how deep it goes.

use super::GrammarError;
use super::lark_text::{Definitions, Part};
use super::letters::{MAX_LETTERS, too_many};
use super::schema_bounds;

/// Of a terminal, or an expression; a rule has as many as all else.
const MAX_TERMINAL_LETTERS: usize = 20_000;
/// Rules and terminals, each counted with the brackets that it has within each other: the parser goes down by recursion, from
/// one to the next, and needs up to 4 kB of stack for each.
const MAX_LEVELS: usize = 4_000;

/// Refuse a grammar with a rule, a terminal or an expression that repeats too much, with too many of them, or with a
/// schema that is refused.
pub(super) fn check(text: &str) -> Result<(), GrammarError> {
    let definitions = Definitions::read(text)?;
    let mut totals = Totals::default();
    totals.add(&definitions)?;
    if totals.num_levels > MAX_LEVELS {
        return Err(GrammarError::Invalid {
            field: "grammar",
            problem: format!(
                "it has more than {MAX_LEVELS} rules and terminals, with the brackets of each within each other"
            ),
        });
    }
    schema_bounds::check_patterns("grammar", totals.num_patterns)
}

/// Of a grammar and those within it.
#[derive(Debug, Default)]
struct Totals {
    /// How deep the parser may go.
    num_levels: usize,
    /// Expressions of `patternProperties`.
    num_patterns: usize,
}

impl Totals {
    /// The letters of the longest definition.
    fn add(&mut self, definitions: &Definitions<'_>) -> Result<usize, GrammarError> {
        let letters = self.written_out(definitions)?;
        for ((name, parts), &letters) in definitions.all.iter().zip(&letters) {
            let is_terminal = name
                .trim_start_matches('_')
                .starts_with(|c: char| c.is_ascii_uppercase());
            let most = if is_terminal {
                MAX_TERMINAL_LETTERS
            } else {
                MAX_LETTERS
            };
            if letters > most {
                return Err(too_many("grammar", name, most));
            }
            self.num_levels += 1 + num_nested(parts);
        }
        Ok(letters.into_iter().max().unwrap_or(0))
    }

    /// How many letters each definition has; what leads back to itself counts once.
    fn written_out(&mut self, definitions: &Definitions<'_>) -> Result<Vec<usize>, GrammarError> {
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
                letters[index] = Some(self.sum(parts, of_name)?);
            }
        }
        Ok(letters.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The letters of a definition's longest alternative.
    fn sum(
        &mut self,
        parts: &[Part<'_>],
        of_name: impl Fn(&str) -> usize,
    ) -> Result<usize, GrammarError> {
        let mut groups = vec![Group::default()];
        for part in parts {
            let depth = groups.len();
            let Some(group) = groups.last_mut() else {
                break;
            };
            match part {
                Part::Name(name) => group.push(of_name(name)),
                Part::Expression(letters) if *letters > MAX_TERMINAL_LETTERS => {
                    return Err(too_many("grammar", "an expression", MAX_TERMINAL_LETTERS));
                }
                Part::Letters(letters) | Part::Expression(letters) => group.push(*letters),
                Part::Grammar(inner) => group.push(self.add(inner)?),
                Part::Schema(schema) => {
                    let asked = schema_bounds::check(schema)?;
                    self.num_patterns += asked.patterns;
                    group.push(asked.letters);
                }
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
        Ok(total)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn letters_of(text: &str, name: &str) -> usize {
        let definitions = Definitions::read(text).unwrap();
        let letters = Totals::default().written_out(&definitions).unwrap();
        letters[definitions.by_name[name]]
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
        let problem = |text: &str| match check(text) {
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
        check(&chain(3_990)).unwrap();
        let too_deep = "has more than 4000 rules and terminals";
        assert!(problem(&chain(4_000)).contains(too_deep));
        let inner = format!("start: a\na: %lark {{\n{}}}\n", chain(2_000));
        check(&inner).unwrap();
        assert!(problem(&format!("{inner}b: %lark {{\n{}}}\n", chain(2_000))).contains(too_deep));
        let named = |count: usize| {
            let names = (0..count).map(|i| format!("\"p{i}\": {{}}"));
            let names = names.collect::<Vec<_>>().join(", ");
            format!("%json {{\"patternProperties\": {{{names}}}}} ")
        };
        let many = format!("start: {}{}", named(50), named(50));
        check(&many).unwrap();
        assert!(problem(&format!("{many}{}", named(1))).contains("has 101 expressions in all"));
        let brackets = |i: usize| format!("b{i}: {}a{}\n", "(\"x\" [".repeat(3), "])".repeat(3));
        let many = (0..571).map(brackets).collect::<Vec<_>>().concat();
        check(&many).unwrap();
        assert!(problem(&format!("{many}c: ((((a))))\n")).contains(too_deep));
        check(&nested(16)).unwrap();
        for text in [
            "start: A~2\nA: \"a\"~16000\n",
            "start: \"a\"~0..1000000 /x{0,9999999}/\n",
            "start: UUID\nHEX: /[0-9a-f]/\nUUID: HEX~8 \"-\" HEX~4 \"-\" HEX~4 \"-\" HEX~4 \"-\" HEX~12\n",
            "start: (((\"a\"",
            ")))]]]~5 ~ ~~~ {{{ % %json { /",
            "\"",
            "",
        ] {
            check(text).unwrap();
        }
    }
}
