//! Bounds on what a JSON schema may ask for in a few bytes: letters that must follow, and remainders of divisions.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::GrammarError;
use super::letters::{MAX_LETTERS, check_expression, of_expression, too_many};

/// Largest number in the digits of `multipleOf`: the parser has a state for each remainder.
const MAX_MULTIPLE: u64 = 20_000;
/// Expressions of `patternProperties` in all: each is held against each other one, which is cubic work. 100 take 0.15 s.
const MAX_PATTERNS: usize = 100;
/// Schemas within each other, references followed.
const MAX_DEPTH: usize = 256;
/// Keywords whose schemas apply to the same value, or to the same parts of it.
const JOINING: [&str; 12] = [
    "multipleOf",
    "properties",
    "patternProperties",
    "additionalProperties",
    "items",
    "prefixItems",
    "anyOf",
    "oneOf",
    "$ref",
    "$dynamicRef",
    "if",
    "not",
];

/// What a schema asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// Letters that must follow, at most.
    pub(super) letters: usize,
    /// Expressions of `patternProperties`.
    pub(super) patterns: usize,
}

/// Refuse a schema with too much that must follow, repeated by expressions and arrays as often as they must, with
/// multiples of large numbers, or with too many expressions for names.
pub(super) fn check(schema: &Value) -> Result<Asked, GrammarError> {
    let mut multiples = Multiples::default();
    let mut patterns = 0;
    check_part(schema, &mut multiples, &mut patterns)?;
    multiples.check()?;
    check_patterns("schema", patterns)?;
    let mut letters = Letters {
        root: schema,
        known: HashMap::new(),
        depth: 0,
    };
    let letters = letters.of(schema);
    if letters > MAX_LETTERS {
        return Err(too_many("schema", "it", MAX_LETTERS));
    }
    Ok(Asked { letters, patterns })
}

pub(super) fn check_patterns(field: &'static str, patterns: usize) -> Result<(), GrammarError> {
    if patterns > MAX_PATTERNS {
        return Err(GrammarError::Invalid {
            field,
            problem: format!(
                "patternProperties has {patterns} expressions in all; at most {MAX_PATTERNS} are allowed"
            ),
        });
    }
    Ok(())
}

fn check_part(
    schema: &Value,
    multiples: &mut Multiples,
    num_patterns: &mut usize,
) -> Result<(), GrammarError> {
    match schema {
        Value::Array(parts) => parts
            .iter()
            .try_for_each(|part| check_part(part, multiples, num_patterns)),
        Value::Object(keys) => {
            multiples.add(keys);
            keys.iter().try_for_each(|(key, value)| {
                match (key.as_str(), value) {
                    ("pattern", Value::String(pattern)) => check_expression("schema", pattern)?,
                    ("patternProperties", Value::Object(patterns)) => {
                        *num_patterns += patterns.len();
                        let mut names = patterns.keys();
                        names.try_for_each(|pattern| check_expression("schema", pattern))?;
                    }
                    _ => {}
                }
                check_part(value, multiples, num_patterns)
            })
        }
        _ => Ok(()),
    }
}

/// What a schema says of multiples.
#[derive(Default)]
struct Multiples {
    /// Digits of all `multipleOf`.
    of: BTreeSet<u64>,
    /// One value may have to be a multiple of several.
    may_be_joined: bool,
}

impl Multiples {
    fn add(&mut self, keys: &Map<String, Value>) {
        if let Some(Value::Number(number)) = keys.get("multipleOf") {
            self.of.insert(digits(number).max(1));
        }
        let all = keys
            .get("allOf")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let others = JOINING
            .iter()
            .filter(|&&key| keys.contains_key(key))
            .count();
        self.may_be_joined |= all + others > 1;
    }

    fn check(&self) -> Result<(), GrammarError> {
        let states = if self.may_be_joined {
            self.of
                .iter()
                .fold(1, |common, &of| least_common_multiple(common, of))
        } else {
            self.of.last().copied().unwrap_or(1)
        };
        if states > MAX_MULTIPLE {
            let problem = format!(
                "multipleOf asks for multiples of {states}, but for its point and last zeros; at most {MAX_MULTIPLE}"
            );
            return Err(GrammarError::Invalid {
                field: "schema",
                problem,
            });
        }
        Ok(())
    }
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).saturating_mul(b)
}

/// The digits of a number, without its point, exponent and last zeros: 25 of 0.0250, 12 of 1.2e9.
fn digits(number: &serde_json::Number) -> u64 {
    let text = number.to_string();
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    if digits.is_empty() {
        return 0;
    }
    digits.parse().unwrap_or(u64::MAX)
}

/// How many letters must follow, at most: constants and expressions, as often as arrays must repeat them.
struct Letters<'s> {
    root: &'s Value,
    /// Of schemas that were referred to; 1 while they are being looked at, so that what leads back to itself ends.
    known: HashMap<&'s str, usize>,
    depth: usize,
}

impl<'s> Letters<'s> {
    /// Beyond any number where references nest deeper than [`MAX_DEPTH`].
    fn of(&mut self, schema: &'s Value) -> usize {
        let Value::Object(keys) = schema else {
            return 1;
        };
        if self.depth == MAX_DEPTH {
            return usize::MAX;
        }
        self.depth += 1;
        let letters = self.of_keys(keys);
        self.depth -= 1;
        letters
    }

    fn of_keys(&mut self, keys: &'s Map<String, Value>) -> usize {
        let mut sum = 0_usize;
        for (key, value) in keys {
            let letters = match (key.as_str(), value) {
                ("const", value) => value.to_string().len(),
                ("enum", Value::Array(values)) => {
                    let lengths = values.iter().map(|value| value.to_string().len());
                    lengths.max().unwrap_or(0)
                }
                ("pattern", Value::String(pattern)) => of_expression(pattern).unwrap_or(0),
                ("properties" | "patternProperties" | "dependentSchemas", Value::Object(parts)) => {
                    let parts = parts
                        .iter()
                        .map(|(name, part)| name.len().saturating_add(self.of(part)));
                    parts.fold(0, usize::saturating_add)
                }
                ("prefixItems" | "allOf", Value::Array(parts)) => parts
                    .iter()
                    .fold(0, |sum: usize, part| sum.saturating_add(self.of(part))),
                ("anyOf" | "oneOf", Value::Array(parts)) => {
                    parts.iter().fold(0, |most, part| most.max(self.of(part)))
                }
                ("items", part) => self.of(part).saturating_mul(least(keys, "minItems")),
                ("additionalProperties", part) => {
                    self.of(part).saturating_mul(least(keys, "minProperties"))
                }
                ("then" | "else", part) => self.of(part),
                ("$ref", Value::String(target)) => self.of_target(target),
                _ => 0,
            };
            sum = sum.saturating_add(letters);
        }
        sum.max(1)
    }

    fn of_target(&mut self, target: &'s str) -> usize {
        if let Some(&letters) = self.known.get(target) {
            return letters;
        }
        self.known.insert(target, 1);
        let pointer = target.strip_prefix('#');
        let schema = pointer.and_then(|pointer| self.root.pointer(pointer));
        let letters = schema.map_or(1, |schema| self.of(schema)); // the parser refuses other references
        self.known.insert(target, letters);
        letters
    }
}

fn least(keys: &Map<String, Value>, key: &str) -> usize {
    let least = keys.get(key).and_then(Value::as_f64).unwrap_or(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is too large becomes the largest"
    )]
    (least as usize).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn multiples_are_of_small_numbers() {
        for (number, digits_of) in [
            ("0.0250", 25),
            ("100000", 1),
            ("214743647", 214_743_647),
            ("-1.2e9", 12),
            ("0", 0),
            ("0.0", 0),
        ] {
            let Ok(Value::Number(number)) = serde_json::from_str(number) else {
                panic!("{number} is a number");
            };
            assert_eq!(digits(&number), digits_of, "{number}");
        }
        let problem = |schema: &Value| check(schema).map_err(|error| error.to_string());
        for schema in [
            serde_json::json!({"items": {"multipleOf": 0.01}}),
            serde_json::json!({"multipleOf": 19_999}),
            serde_json::json!({"properties": {"a": {"multipleOf": 19_997}, "b": {"multipleOf": 0.0197}}}),
            serde_json::json!({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 7}, {"multipleOf": 70}]}),
        ] {
            assert!(problem(&schema).is_ok(), "{schema}");
        }
        for schema in [
            serde_json::json!({"items": {"multipleOf": 20_001}}),
            serde_json::json!({"allOf": [{"multipleOf": 211}, {"multipleOf": 2.11}, {"multipleOf": 199}]}),
        ] {
            let problem = problem(&schema).unwrap_err();
            assert!(problem.contains("multipleOf"), "{problem}");
        }
    }

    #[test]
    fn only_what_may_be_joined_is_multiplied() {
        let several = json!([7, 11, 13, 17, 19].map(|of| json!({"multipleOf": of})));
        let joined = |schema: Value| check(&schema).is_err();
        assert!(joined(json!({"allOf": several})));
        assert!(joined(json!({"multipleOf": 3, "anyOf": several})));
        assert!(joined(
            json!({"properties": {"a": several[0]}, "patternProperties": {"a": {"anyOf": several}}})
        ));
        assert!(!joined(json!({"anyOf": several})));
        assert!(!joined(
            json!({"type": "array", "items": {"anyOf": several}})
        ));
        assert!(!joined(json!({"allOf": [several[0]], "title": "x"})));
        assert_eq!(least_common_multiple(12, 18), 36);
        assert_eq!(least_common_multiple(u64::MAX, 2), u64::MAX);
    }

    #[test]
    fn what_must_follow_is_multiplied() {
        let letters = |schema: &Value| {
            Letters {
                root: schema,
                known: HashMap::new(),
                depth: 0,
            }
            .of(schema)
        };
        let array = |least: usize, items: Value| json!({"minItems": least, "items": items});
        let word = json!({"const": "ab"}); // with its quotes
        for (schema, expected) in [
            (word.clone(), 4),
            (json!({"type": "string"}), 1),
            (json!(true), 1),
            (array(9, word.clone()), 36),
            (array(9, array(9, word.clone())), 324),
            (json!({"items": word}), 4),
            (json!({"prefixItems": [word, word], "items": word}), 12),
            (json!({"anyOf": [word, {"pattern": "a{7}"}, true]}), 7),
            (json!({"properties": {"abc": word, "d": {}}}), 3 + 4 + 1 + 1),
            (
                json!({"additionalProperties": word, "minProperties": 5}),
                20,
            ),
            (
                json!({"$defs": {"w": word}, "items": {"$ref": "#/$defs/w"}, "minItems": 3}),
                12,
            ),
            (json!({"items": {"$ref": "#"}, "minItems": 3}), 9), // once around
            (json!({"$ref": "http://elsewhere"}), 1),
        ] {
            assert_eq!(letters(&schema), expected, "{schema}");
        }
        let names = |count: usize| {
            let names = (0..count).map(|i| (format!("p{i}"), json!(true)));
            json!({"items": {"patternProperties": names.collect::<Map<_, _>>()}})
        };
        assert_eq!(check(&names(100)).unwrap().patterns, 100);
        check(&json!({"anyOf": [names(50), names(51)]})).unwrap_err();
        check(&array(8_000, json!({"const": 1234}))).unwrap();
        let error = check(&array(10_000, array(10, word)))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("written out it has more than 32000"),
            "{error}"
        );
        // References double: twenty of them are a million.
        let mut schema = json!({"$ref": "#/$defs/0", "$defs": {"20": {"const": 1}}});
        for number in 0..20 {
            let next = json!({"$ref": format!("#/$defs/{}", number + 1)});
            schema["$defs"][number.to_string()] = json!({"prefixItems": [next, next]});
        }
        assert_eq!(letters(&schema), 1 << 20);
        // A chain of references that is too long is refused; so is none of a usual length.
        let chain = |length: usize| {
            let mut schema = json!({"$ref": "#/$defs/0", "$defs": {}});
            for number in 0..length {
                let next = json!({"$ref": format!("#/$defs/{}", number + 1)});
                schema["$defs"][number.to_string()] = json!({"items": next});
            }
            check(&schema)
        };
        chain(100).unwrap();
        chain(100_000).unwrap_err();
        let long = "x".repeat(20_000);
        check(&json!({"const": long})).unwrap();
        check(&json!({"enum": [long, "a", long]})).unwrap();
        check(&json!({"anyOf": [{"const": long}, {"const": long}]})).unwrap();
        check(&json!({"enum": [format!("{long}{long}")]})).unwrap_err();
        check(&json!({"properties": {"a": {"const": long}, "b": {"const": long}}})).unwrap_err();
    }
}
